"""Loads trained networks whose predictions are averaged."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from datasets.build import Source, scheme_as_trained
from inference.predictor import Member, Predictor
from models.checkpoints import (
    check_recipe,
    find_checkpoints,
    load_network,
    published_of,
    refuse_contradiction,
    scheme_of,
    trained_scheme,
)
from models.normalise import Normalise
from models.onnx_network import OnnxNetwork, is_onnx
from models.published import PUBLISHED_FORMATS, Published, published_networks
from utils.schemes import S1_BANDS, S2_BANDS
from utils.speed import for_prediction
from utils.structures import Scheme


class Chosen(NamedTuple):
    """The networks that a command line chooses."""

    paths: list[Path]
    published: list[Published | None]  # one per path: what a bare state dict contains

    @classmethod
    def of(
        cls,
        checkpoints: Sequence[str] | None,
        outdir: str,
        model: Sequence[str] | None = None,
        backbone: Sequence[str] | None = None,
        lightweight: bool = False,
        output_stride: int | None = None,
    ) -> "Chosen":
        """The networks chosen by the flags of the same names; default: all in `outdir`.

        Raises:
            FileNotFoundError, ValueError: see `models.checkpoints.find_checkpoints` and
                `models.published.published_networks`.
        """
        paths = expanded(checkpoints) if checkpoints else find_checkpoints(outdir)
        paths = [Path(path) for path in paths]
        return cls(
            paths, published_networks(model, backbone, lightweight, len(paths), output_stride)
        )


def expanded(words: Sequence[str]) -> list[str]:
    """Paths, and the files that patterns such as "models/*.pth" match, sorted.

    Raises:
        FileNotFoundError: a pattern matches nothing.
    """
    found = []
    for word in map(str, words):
        if Path(word).exists() or not glob.has_magic(word):
            found.append(word)
            continue
        matches = sorted(glob.glob(word))
        if not matches:
            raise FileNotFoundError(f"--checkpoints {word}: no file matches this pattern")
        found += matches
    return found


def load_ensemble(
    paths: Sequence[Path | str],
    device: torch.device,
    scheme: Scheme,
    published: Sequence[Published | None] = (),
    compiled: bool = False,
) -> list[Member]:
    """Loads all checkpoints; their classes and bands must be those of the data set.

    Args:
        paths: at least one; checkpoints or exported networks (.onnx).
        device: of the networks.
        scheme: of the data set.
        published: one per path: what a bare state dict contains.
        compiled: use torch.compile.

    Raises:
        ValueError, FileNotFoundError: see `load_network`; or task, classes or bands differ.
    """
    members = []
    for path, hint in zip(paths, published or [None] * len(paths), strict=True):
        if is_onnx(path):
            members.append(_load_exported(path, device, scheme, compiled, hint))
            continue
        network, recipe = load_network(path, device, hint, scheme)
        normalise = Normalise.of(_checked_scheme(path, recipe, scheme))
        members.append(Member(for_prediction(network, compiled=compiled), normalise.to(device)))
    return members


def _load_exported(
    path: Path | str,
    device: torch.device,
    scheme: Scheme,
    compiled: bool,
    published: Published | None,
) -> Member:
    """Loads one exported network, as `load_ensemble` does."""
    if compiled:
        raise ValueError(f"--compile is for checkpoints, {path} is compiled already; leave it out")
    network = OnnxNetwork(path, device)
    own = _checked_scheme(path, network.recipe, scheme)
    refuse_contradiction(path, published_of(network.recipe), published)
    return Member(network, Normalise.of(own).to(device))


def _checked_scheme(path: Path | str, recipe: dict[str, Any], scheme: Scheme) -> Scheme:
    """The scheme of a recipe; ValueError unless task, classes and bands are the data set's."""
    check_recipe(path, recipe)
    own = scheme_of(recipe)
    for field in ("task", "classes", "bands", "standardise"):
        if getattr(own, field) != getattr(scheme, field):
            raise ValueError(
                f"{path} was trained for {field} {getattr(own, field)}, the data set or the first "
                f"checkpoint has {getattr(scheme, field)}; choose another checkpoint "
                "(--checkpoints), and leave out flags that choose bands and classes if you gave "
                "any: a checkpoint holds them"
            )
    return own


def load_predictors(
    chosen: Chosen,
    source: Source,
    device: torch.device,
    *,
    bands: Sequence[str] | None = None,
    flags: Mapping[str, Any] = MappingProxyType({}),
    amp: torch.dtype | None = None,
    tta: str = "none",
    compiled: bool = False,
) -> list[tuple[Scheme, Predictor]]:
    """The networks, grouped by the scheme (bands, classes) in which they read a data set.

    Args:
        chosen: at least one network.
        source: the data set.
        device: of the networks.
        bands: --bands; None: those each network was trained with.
        flags: see `datasets.build.SCHEME_FLAGS`; if none is set, as each network was trained.
        amp: autocast type, None for float32.
        tta: a key of TTA_VIEWS.
        compiled: use torch.compile.

    Raises:
        ValueError, FileNotFoundError: see `load_ensemble`; or a network does not fit the data set.
    """
    groups: dict[Scheme, Chosen] = {}
    for path, hint in zip(*chosen, strict=True):
        scheme = _scheme_to_read(path, hint, source, bands, flags)
        group = groups.setdefault(scheme, Chosen([], []))
        group.paths.append(path)
        group.published.append(hint)
    predictors = []
    for scheme, group in groups.items():
        members = load_ensemble(group.paths, device, scheme, group.published, compiled)
        predictors.append((scheme, Predictor(members, device, amp, tta)))
    return predictors


def refuse_several(paths: Sequence[Path], groups: Sequence[tuple[Scheme, Predictor]]) -> None:
    """Raises ValueError if the networks read tiles in more than one scheme."""
    if len(groups) > 1:
        ways = "; ".join(f"{' '.join(s.bands)} ({len(s.classes)} classes)" for s, _ in groups)
        raise ValueError(
            f"{', '.join(map(str, paths))} read other bands or know other classes: {ways}. Only "
            "networks that are alike are averaged; choose some with --checkpoints"
        )


def _scheme_to_read(
    path: Path,
    hint: Published | None,
    source: Source,
    bands: Sequence[str] | None,
    flags: Mapping[str, Any],
) -> Scheme:
    """The scheme in which a network reads images: as trained, or else that of the data set."""
    entry = source.entry
    if not scheme_as_trained(source.dataset, bands, flags):
        return source.scheme(bands, flags)
    own = trained_scheme(path)
    if (
        own is None
        and source.dataset == "rucode"
        and hint is not None
        and hint.model in PUBLISHED_FORMATS
    ):
        own = PUBLISHED_FORMATS[hint.model].scheme
    if own is None and entry.scheme_options:
        raise ValueError(
            f"{path} does not say which bands and classes it has, and no args.pkl lies beside it; "
            "say so with --use-s1, --use-s2hr, --use-s2mr, --use-s2lr, --no-savanna, and which "
            "network it is with --model and --backbone"
        )
    if own is None:
        return source.scheme(bands, flags)
    if own.task != entry.task:
        raise ValueError(
            f"{path} was trained for {own.task}, --dataset {source.dataset} is for {entry.task}; "
            "choose another checkpoint (--checkpoints)"
        )
    if entry.scheme_options and not set(own.bands) <= {*S2_BANDS, *S1_BANDS}:
        raise ValueError(
            f"{path} was trained on {' '.join(own.bands)}, which --dataset {source.dataset} does "
            "not have; choose another checkpoint (--checkpoints), or another --outdir"
        )
    return own
