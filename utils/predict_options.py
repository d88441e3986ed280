"""The flags of predict.py in groups, and what follows from them."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from utils.cli import Parser, fraction, positive_int
from utils.legacy_options import find_args
from utils.map_progress import fingerprint, image_fingerprints
from utils.maps import ALL_LAYERS, layers_of
from utils.options import add_tta_option
from utils.precision import AMP_CHOICES, pick_amp
from utils.structures import Scheme
from utils.vectors import FORMATS, check_packages
from utils.windows import grid

CHANGE_ONLY = {"threshold", "full_semantics", "strict_grid", "vector", "min_area", "simplify"}
# of an earlier map in the same folder, that the one which replaces it may not have
OLDER = (
    *(f"{layer}{suffix}" for layer in ALL_LAYERS for suffix in (".tif", ".tif.aux.xml", ".qml")),
    *(f"changes.{kind}" for kind in FORMATS),
    *("changes.qml", "summary.csv", "summary.json", "report.html"),
)


def add_input_options(parser: Parser) -> None:
    """What is predicted, and where results go."""
    group = parser.add_argument_group("inputs and outputs")
    group.add_argument(
        "inputs",
        nargs="*",
        metavar="BEFORE AFTER",
        help="two rasters of any format of GDAL, one for land cover; or two folders or quoted "
        "patterns (mates have one name); or a csv with columns before, after (or image) and, if "
        "need be, name, whose paths are relative to it",
    )
    group.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="the maps go here; those of several pairs into a folder for each",
    )
    group.add_argument("--overwrite", action="store_true", help="replace maps that are in --out")
    group.add_argument(
        "--bands",
        nargs="+",
        metavar="BAND",
        help="bands of the rasters, by number from 1 or red, green, blue, nir, in the order in "
        "which the networks were trained on them (default: by their names)",
    )
    group.add_argument(
        "--strict-grid",
        action="store_true",
        help="refuse a date 2 of another CRS, resolution or extent (default: it is warped)",
    )


def add_prediction_options(parser: Parser) -> None:
    """How it is predicted."""
    group = parser.add_argument_group("prediction")
    add_tta_option(group, "none")
    group.add_argument(
        "--threshold",
        type=fraction,
        default=0.5,
        metavar="P",
        help="changed where the probability is above P in 0..1",
    )
    group.add_argument(
        "--full-semantics",
        action="store_true",
        help="classes of both dates everywhere, not only where something changed",
    )
    group.add_argument("--tile-px", type=positive_int, default=512, help="side of the windows")
    group.add_argument(
        "--overlap-px",
        type=int,
        help="what neighbouring windows share and blend, at most half of --tile-px (default: a "
        "quarter)",
    )
    group.add_argument("--test-batch-size", type=positive_int, default=4, help="windows at a time")


def add_result_options(parser: Parser) -> None:
    """What is made of the maps."""
    group = parser.add_argument_group("results beside the maps")
    group.add_argument(
        "--vector",
        nargs="+",
        choices=(*FORMATS, "none"),
        default=["gpkg"],
        help="polygons of what changed: gpkg, geojson, both, or none (default: gpkg)",
    )
    group.add_argument(
        "--min-area",
        type=_at_least_0,
        default=0.0,
        metavar="M2",
        help="smallest polygon, in m2 of its pixels",
    )
    group.add_argument(
        "--simplify",
        type=_at_least_0,
        default=0.0,
        metavar="M",
        help="how far, in m, edges of polygons may move to become simpler",
    )
    group.add_argument("--report", action="store_true", help="a page to look at: DIR/report.html")


def add_machine_options(parser: Parser) -> None:
    """Where it runs."""
    group = parser.add_argument_group("runtime")
    group.add_argument(
        "--outdir",
        default="outdir",
        metavar="DIR",
        help="its models/*.pth are the networks where --checkpoints names none",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto and cuda use every visible GPU, one process each",
    )
    group.add_argument(
        "--amp", default="auto", choices=AMP_CHOICES, help="arithmetic; auto: bf16 if it is fast"
    )
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the network (slow start, then faster)"
    )


def _at_least_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


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
