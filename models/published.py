"""Converts published state dicts: wrappers, key names, polarity of the change score."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from models import NETWORKS
from models.siamese import USUAL_BACKBONE
from utils.schemes import NAIC2020, SECOND, change_scheme, dfc_scheme
from utils.structures import Scheme


class StateDictFormat(NamedTuple):
    """How the keys of a published state dict correspond to one of our networks."""

    prefixes: Mapping[str, str]  # key prefixes, theirs -> ours; the rest of a key is kept
    change_classifier: str | None = None  # our name of the layer that outputs the change score
    score_of_unchanged: bool = False  # score is positive on UNCHANGED pixels
    unused: tuple[str, ...] = ()  # prefixes of their keys to ignore
    options: Mapping[str, object] = MappingProxyType({})  # `options` of build_network
    scheme: Scheme | None = SECOND  # scheme of the training data; None: not fixed


_SENSEEARTH = {
    "backbone.": "backbone.body.",
    "head.": "semantic_head.",
    "head_bin.": "change_head.",
}

_TFINET = {"resnet.": "backbone.body."}  # all other names are unchanged
_XVIEW2 = {  # its SE-ResNeXt-50 is the legacy model of timm; all other names are unchanged
    "encoder_stages.0.": "backbone.body.layer0.",
    "encoder_stages.1.1.": "backbone.body.layer1.",  # [0] is the pooling
    "encoder_stages.2.": "backbone.body.layer2.",
    "encoder_stages.3.": "backbone.body.layer3.",
    "encoder_stages.4.": "backbone.body.layer4.",
}
_SMP = {
    "encoder.": "backbone.body.",
    "decoder.blocks.": "change_head.blocks.",
    "segmentation_head.0.": "change_head.classifier.",
}
_DFC = {"backbone.": "backbone.body."}  # all other names are unchanged
_MMSEG = {  # the last batch norm of the stem is bn1 in timm
    "backbone.stem.7.": "backbone.body.bn1.",
    "backbone.stem.": "backbone.body.conv1.",
    "backbone.": "backbone.body.",
}
# value of --model -> its published format
PUBLISHED_FORMATS: dict[str, StateDictFormat] = {
    "fcn": StateDictFormat(_SENSEEARTH, "change_head.head.4", score_of_unchanged=True),
    "pspnet": StateDictFormat(_SENSEEARTH, "change_head.conv5.5", score_of_unchanged=True),
    "deeplabv3plus": StateDictFormat(
        {
            **_SENSEEARTH,
            "head_bin.": "change_head.aspp.",
            "reduce_bin.": "change_head.reduce.",
            "fuse_bin.": "change_head.fuse.",
            "classifier_bin.": "change_head.classifier.",
        },
        "change_head.classifier",
        score_of_unchanged=True,
    ),
    "unetplusplus": StateDictFormat(
        _SMP,
        "change_head.classifier",
        score_of_unchanged=False,
        options={"fusion": "difference"},
        scheme=change_scheme(("grey",), "joint"),
    ),
    "tfinet": StateDictFormat(
        _TFINET,
        "aggregation.head.0",
        score_of_unchanged=True,
        unused=("resnet.fc.", "neck.alpha"),
    ),
    "siamese_unet": StateDictFormat(
        _XVIEW2,
        "final.0",
        score_of_unchanged=False,
        options={"symmetric": False},
        scheme=change_scheme(("red", "green", "blue"), "joint"),
    ),
    "dfc_deeplabv3plus": StateDictFormat(_DFC, scheme=None),
    "plain_unet": StateDictFormat({}, scheme=None),
    "mmseg_pspnet": StateDictFormat(_MMSEG, scheme=NAIC2020),
    "mmseg_deeplabv3plus": StateDictFormat(_MMSEG, scheme=NAIC2020),
}


class Published(NamedTuple):
    """Description of a published state dict, which has no recipe (--model, --backbone, ...).

    For files with a recipe, fields that are set are checked against it.
    """

    model: str | None = None
    backbone: str | None = None  # None: network without a backbone
    lightweight: bool = False
    output_stride: int | None = None  # None: default of the network


def published_networks(
    models: Sequence[str] | None,
    backbones: Sequence[str] | None,
    lightweight: bool,
    count: int,
    output_stride: int | None = None,
) -> list[Published | None]:
    """Pairs the values of --model and --backbone for each of `count` checkpoints.

    One pair applies to all checkpoints; without models, all are None. Networks without a backbone
    need no entry in `backbones`, which may be empty if no default backbone is USUAL_BACKBONE.

    Raises:
        ValueError: numbers of names do not match, or another option is given without --model.
    """
    for option, value in (("--lightweight", lightweight), ("--output-stride", output_stride)):
        if value and not models:
            raise ValueError(
                f"{option} describes published checkpoints, with --model and --backbone; ours say "
                "what they are: leave it out"
            )
    models, backbones = list(models or ()), list(backbones or ())
    usual = [NETWORKS[model].usual_backbone for model in models]
    if not backbones and USUAL_BACKBONE not in usual:
        backbones = [name for name in usual if name is not None]
    takes_one = [NETWORKS[model].usual_backbone is not None for model in models]
    if sum(takes_one) != len(backbones):
        raise ValueError(
            "--model and --backbone describe published checkpoints pair by pair; got "
            f"{len(models)} and {len(backbones)} names"
        )
    if len(models) not in (0, 1, count):
        raise ValueError(
            f"--model and --backbone describe {len(models)} checkpoints, there are {count}; give "
            "one for all, or one for each"
        )
    rest = iter(backbones)
    paired = [next(rest) if takes else None for takes in takes_one]
    pairs = zip(models, paired, strict=True)
    pairs = [Published(*pair, lightweight, output_stride) for pair in pairs]
    return pairs * count if len(pairs) == 1 else pairs or [None] * count


# options in args.pkl of the DFC2020 baseline that describe its network
DFC_OPTIONS = ("model", "out_stride", "use_s1", "use_s2hr", "use_s2mr", "use_s2lr", "no_savanna")
DFC_MODELS = {"deeplab": "dfc_deeplabv3plus", "unet": "plain_unet"}


def network_from_args(given: Mapping[str, Any], source: object) -> tuple[Published, Scheme]:
    """Network and scheme of a DFC2020 baseline checkpoint, from the options in its args.pkl.

    Raises:
        ValueError: an option is missing, or the network is unknown.
    """
    missing = [name for name in DFC_OPTIONS if name not in given]
    if missing:
        raise ValueError(
            f"{source} lacks {', '.join(missing)}: it does not describe a network of the DFC2020 "
            "baseline. Say what the checkpoint is with --model and --backbone."
        )
    model = DFC_MODELS.get(given["model"])
    if model is None:
        raise ValueError(
            f"{source}: model={given['model']!r} is none of the DFC2020 baseline's, which are "
            f"{', '.join(DFC_MODELS)}. Say what the checkpoint is with --model and --backbone."
        )
    backbone = NETWORKS[model].usual_backbone
    stride = None if backbone is None else given["out_stride"]
    bands = {name: bool(given[f"use_{name}"]) for name in ("s1", "s2hr", "s2mr", "s2lr")}
    scheme = dfc_scheme(**bands, savanna=not given["no_savanna"])
    return Published(model, backbone, output_stride=stride), scheme


def state_dict_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """Extracts the state dict from the wrapper of another program; removes the prefix `module.`.

    Raises:
        ValueError: several state dicts under names that say nothing.
    """
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not any(isinstance(value, Tensor) for value in content.values()):
        wrapped = [key for key, value in content.items() if _holds_tensors(value)]
        if len(wrapped) > 1:
            raise ValueError(
                f"it holds several state dicts, {', '.join(wrapped)}; save the one you mean alone "
                "(torch.save(torch.load(FILE)[KEY], OUT)) and pass that"
            )
        content = content[wrapped[0]] if wrapped else content
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a dict with tensors and no other dicts, as state dicts are."""
    if not isinstance(value, dict) or any(isinstance(inner, dict) for inner in value.values()):
        return False
    return any(isinstance(inner, Tensor) for inner in value.values())


def to_ours(state: dict[str, Tensor], state_format: StateDictFormat) -> dict[str, Tensor]:
    """Converts a published state dict to our names and our polarity (change > 0 is changed).

    Unknown keys are kept; `load_strictly` reports them.
    """
    renamed = {}
    for key, value in state.items():
        if not key.startswith(state_format.unused):
            prefix = next((p for p in state_format.prefixes if key.startswith(p)), "")
            renamed[state_format.prefixes.get(prefix, "") + key.removeprefix(prefix)] = value
    for part in ("weight", "bias"):
        key = f"{state_format.change_classifier}.{part}"
        if state_format.score_of_unchanged and key in renamed:
            renamed[key] = -renamed[key]
    return renamed


def their_key(key: str, state_format: StateDictFormat) -> str:
    """Converts our name of an entry to its published name; the inverse of `to_ours`."""
    theirs = next((p for p, ours in state_format.prefixes.items() if key.startswith(ours)), "")
    return theirs + key.removeprefix(state_format.prefixes.get(theirs, ""))


def check_one_score(
    state: Mapping[str, Tensor], state_format: StateDictFormat, source: object
) -> None:
    """Checks that the change classifier in `state` (our names) outputs one score per pixel.

    Raises:
        ValueError: it outputs another number of scores.
    """
    if state_format.change_classifier is None:
        return
    weight = state.get(f"{state_format.change_classifier}.weight")
    if weight is not None and len(weight) != 1:
        note = ", as xView2's models do (four levels of damage and the buildings)"
        raise ValueError(
            f"{source} gives {len(weight)} scores a pixel{note if len(weight) == 5 else ''}; a "
            "change network gives one, so it can only be trained on from there: "
            f"train.py --pretrain-from {source}"
        )
