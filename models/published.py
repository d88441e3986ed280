"""Published state dicts: their wrappers, their key names, their polarity."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

# published name -> ours, longest first; the rest of the key stays
SENSEEARTH_PREFIXES = {
    "backbone.": "backbone.body.",
    "head.": "semantic_head.",
    "head_bin.": "change_head.",
}
SENSEEARTH_DEEPLAB_PREFIXES = {
    **SENSEEARTH_PREFIXES,
    "head_bin.": "change_head.aspp.",
    "reduce_bin.": "change_head.reduce.",
    "fuse_bin.": "change_head.fuse.",
    "classifier_bin.": "change_head.classifier.",
}
# the layer that gives the change score; published ones are positive on UNCHANGED pixels
CHANGE_CLASSIFIER = {
    "fcn": "change_head.head.4",
    "pspnet": "change_head.conv5.5",
    "deeplabv3plus": "change_head.classifier",
}


class Published(NamedTuple):
    """What a bare state dict does not say of itself (--model, --backbone, --lightweight)."""

    model: str
    backbone: str
    lightweight: bool = False


def described(
    models: Sequence[str] | None, backbones: Sequence[str] | None, lightweight: bool
) -> list[Published]:
    """The command line's --model and --backbone, pair by pair; empty if neither is given.

    Raises:
        ValueError: only one of them, different numbers of them, or --lightweight alone.
    """
    if lightweight and not models:
        raise ValueError(
            "--lightweight describes published checkpoints, with --model and --backbone; ours say "
            "what they are: leave it out"
        )
    if not models and not backbones:
        return []
    if not models or not backbones or len(models) != len(backbones):
        raise ValueError(
            "--model and --backbone describe published checkpoints pair by pair; got "
            f"{len(models or ())} and {len(backbones or ())} names"
        )
    return [Published(*pair, lightweight) for pair in zip(models, backbones, strict=True)]


def state_dict_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict inside the usual wrappers, without DataParallel's `module.`."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def from_senseearth(state: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """A published SenseEarth state dict in our names and our polarity (change > 0 is changed).

    Raises:
        ValueError: a key that the published layout does not have.
    """
    prefixes = SENSEEARTH_DEEPLAB_PREFIXES if model == "deeplabv3plus" else SENSEEARTH_PREFIXES
    renamed = {}
    for key, value in state.items():
        prefix = next((p for p in prefixes if key.startswith(p)), "")
        renamed[prefixes.get(prefix, "") + key.removeprefix(prefix)] = value
    for part in ("weight", "bias"):
        key = f"{CHANGE_CLASSIFIER.get(model)}.{part}"
        if key in renamed:
            renamed[key] = -renamed[key]
    return renamed


def published_key(key: str, model: str) -> str:
    """Our name of an entry -> its published name; the inverse of `from_senseearth`'s names."""
    prefixes = SENSEEARTH_DEEPLAB_PREFIXES if model == "deeplabv3plus" else SENSEEARTH_PREFIXES
    theirs = next((p for p, ours in prefixes.items() if key.startswith(ours)), "")
    return theirs + key.removeprefix(prefixes.get(theirs, ""))
