"""What follows from the flags of predict.py: the files of a map, and what would go wrong."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from utils.legacy_options import find_args
from utils.map_progress import fingerprint, image_fingerprints
from utils.maps import ALL_LAYERS, layers_of
from utils.precision import pick_amp
from utils.structures import Scheme
from utils.vectors import FORMATS, check_packages
from utils.windows import grid

# of an earlier map in the same folder, that the one which replaces it may not have
OLDER = (
    *(f"{layer}{suffix}" for layer in ALL_LAYERS for suffix in (".tif", ".tif.aux.xml", ".qml")),
    *(f"changes.{kind}" for kind in FORMATS),
    *("changes.qml", "summary.csv", "summary.json", "report.html"),
)


def check_options(args: argparse.Namespace, scheme: Scheme) -> None:
    """Raises ValueError for options that these networks or this machine cannot follow."""
    grid(1, 1, args.tile_px, args.overlap_px)
    if args.change_only and scheme.task == "land_cover":
        flag = args.change_only[0].replace("_", "-")
        raise ValueError(f"--{flag} is for change between two dates; leave it out for land cover")
    if args.full_semantics and scheme.task != "semantic_change":
        raise ValueError(
            f"--full-semantics: these networks are for {scheme.task}, which has no classes of two "
            "dates; leave it out"
        )
    if scheme.task != "land_cover":
        check_packages(args.vector)
    if args.report and importlib.util.find_spec("jinja2") is None:
        raise ValueError("--report needs jinja2: pip install jinja2, or leave it out")


def file_names(args: argparse.Namespace, scheme: Scheme) -> list[str]:
    """The files that a map will have."""
    names = [f"{layer.name}.tif" for layer in layers_of(scheme)]
    names += ["summary.csv", "summary.json", "predict.json"]
    vectors = args.vector if scheme.task != "land_cover" else ()
    return [*names, *(f"changes.{kind}" for kind in vectors)]


def refuse_own_inputs(
    args: argparse.Namespace, images: Sequence[Path], folder: Path, names: Sequence[str]
) -> None:
    """Raises ValueError if files of the map would replace what it is made of, or be of one date."""
    written = {(folder / name).resolve() for name in (*names, *OLDER)}
    for path in (*images, *map(Path, args.checkpoints or ())):
        if path.resolve() in written:
            raise ValueError(
                f"--out {folder}: the map would replace {path}, of which it is made; choose "
                "another folder"
            )
    if len({path.resolve() for path in images}) < len(images):
        raise ValueError(f"{images[0]} is given as both dates; pass two images")


def settings(
    args: argparse.Namespace, images: Sequence[Path], paths: Sequence[Path], device: torch.device
) -> dict[str, Any]:
    """What an interrupted map only goes on under; of `results` its parts do not depend."""
    names = ("tta", "threshold", "full_semantics", "bands", "tile_px", "overlap_px")
    names += ("model", "backbone", "lightweight", "output_stride")
    described_by = [args_file for path in paths if (args_file := find_args(path)) is not None]
    parts = {
        "images": [image_fingerprints(path) for path in images],
        "checkpoints": [fingerprint(path) for path in (*paths, *described_by)],
        **{f"--{name.replace('_', '-')}": getattr(args, name) for name in names},
        "--test-batch-size": args.test_batch_size,
        "--device": device.type,
        "--amp": str(pick_amp(args.amp, device)),
        "--compile": args.compile,
        "torch": torch.__version__,
    }
    return {"parts": parts, "results": [args.vector, args.min_area, args.simplify]}
