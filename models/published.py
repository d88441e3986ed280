"""Published state dicts: their wrappers, their key names, their polarity."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from utils.schemes import SECOND, change_scheme
from utils.structures import Scheme


class Layout(NamedTuple):
    """How a published state dict names the entries of one of our networks."""

    prefixes: Mapping[str, str]  # beginnings of keys, theirs -> ours; the rest of a key stays
    change_classifier: str  # our name of the layer that gives the change score
    says_unchanged: bool  # it was trained to be positive on UNCHANGED pixels
    unused: tuple[str, ...] = ()  # beginnings of their keys that nothing reads; left out
    options: Mapping[str, object] = MappingProxyType({})  # of the network (build_network)
    scheme: Scheme = SECOND  # of the data that it was trained on


_SENSEEARTH = {
    "backbone.": "backbone.body.",
    "head.": "semantic_head.",
    "head_bin.": "change_head.",
}

_TFINET = {"resnet.": "backbone.body."}  # all else has its published name
_XVIEW2 = {  # its SE-ResNeXt-50 is timm's legacy one; all else has its published name
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
# --model: its published layout
LAYOUTS: dict[str, Layout] = {
    "fcn": Layout(_SENSEEARTH, "change_head.head.4", says_unchanged=True),
    "pspnet": Layout(_SENSEEARTH, "change_head.conv5.5", says_unchanged=True),
    "deeplabv3plus": Layout(
        {
            **_SENSEEARTH,
            "head_bin.": "change_head.aspp.",
            "reduce_bin.": "change_head.reduce.",
            "fuse_bin.": "change_head.fuse.",
            "classifier_bin.": "change_head.classifier.",
        },
        "change_head.classifier",
        says_unchanged=True,
    ),
    "unetplusplus": Layout(
        _SMP,
        "change_head.classifier",
        says_unchanged=False,
        options={"fusion": "difference"},
        scheme=change_scheme(("grey",), "joint"),
    ),
    "tfinet": Layout(
        _TFINET, "aggregation.head.0", says_unchanged=True, unused=("resnet.fc.", "neck.alpha")
    ),
    "siamese_unet": Layout(
        _XVIEW2,
        "final.0",
        says_unchanged=False,
        options={"symmetric": False},
        scheme=change_scheme(("red", "green", "blue"), "joint"),
    ),
}


class Published(NamedTuple):
    """What a bare state dict does not say of itself (--model, --backbone, --lightweight)."""

    model: str
    backbone: str
    lightweight: bool = False


def described(
    models: Sequence[str] | None, backbones: Sequence[str] | None, lightweight: bool, count: int
) -> list[Published | None]:
    """The command line's --model and --backbone, pair by pair, for each of `count` checkpoints.

    One pair stands for all; without any they are None.

    Raises:
        ValueError: only one of them, different numbers of them, or --lightweight alone.
    """
    if lightweight and not models:
        raise ValueError(
            "--lightweight describes published checkpoints, with --model and --backbone; ours say "
            "what they are: leave it out"
        )
    models, backbones = list(models or ()), list(backbones or ())
    if len(models) != len(backbones):
        raise ValueError(
            "--model and --backbone describe published checkpoints pair by pair; got "
            f"{len(models)} and {len(backbones)} names"
        )
    if len(models) not in (0, 1, count):
        raise ValueError(
            f"--model and --backbone describe {len(models)} checkpoints, there are {count}; give "
            "one for all, or one for each"
        )
    pairs = [Published(*pair, lightweight) for pair in zip(models, backbones, strict=True)]
    return pairs * count if len(pairs) == 1 else pairs or [None] * count


def state_dict_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict inside the usual wrappers, without DataParallel's `module.`."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def to_ours(state: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """A published state dict in our names and our polarity (change > 0 is changed).

    Keys that the layout does not know stay as they are, for the loader to complain of.
    """
    renamed = {}
    for key, value in state.items():
        if not key.startswith(layout.unused):
            prefix = next((p for p in layout.prefixes if key.startswith(p)), "")
            renamed[layout.prefixes.get(prefix, "") + key.removeprefix(prefix)] = value
    for part in ("weight", "bias"):
        key = f"{layout.change_classifier}.{part}"
        if layout.says_unchanged and key in renamed:
            renamed[key] = -renamed[key]
    return renamed


def their_key(key: str, layout: Layout) -> str:
    """Our name of an entry -> its published name; the inverse of `to_ours`' names."""
    theirs = next((p for p, ours in layout.prefixes.items() if key.startswith(ours)), "")
    return theirs + key.removeprefix(layout.prefixes.get(theirs, ""))


def check_one_score(state: Mapping[str, Tensor], layout: Layout, source: object) -> None:
    """Refuses weights, in our names, whose change classifier gives other than one score a pixel.

    Raises:
        ValueError: so it does; with what it can be used for.
    """
    weight = state.get(f"{layout.change_classifier}.weight")
    if weight is not None and len(weight) != 1:
        told = ", as xView2's models do (four levels of damage and the buildings)"
        raise ValueError(
            f"{source} gives {len(weight)} scores a pixel{told if len(weight) == 5 else ''}; a "
            "change network gives one, so it can only be trained on from there: "
            f"train.py --pretrain-from {source}"
        )
