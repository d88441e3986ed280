"""The command line of predict.py."""

import argparse

from maps.polygons import FORMATS
from models import BACKBONES, NETWORKS
from options import shared
from options.shared import add_device_options, add_tta_option
from utils.cli import SWITCH, Parser, fraction, positive_int

CHANGE_ONLY = {"threshold", "full_semantics", "strict_grid", "vector", "min_area", "simplify"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser("Map what changed between two images, or land cover.", prog="predict.py")
    add_input_options(parser)
    shared.add_ensemble_options(parser, NETWORKS, BACKBONES)
    add_prediction_options(parser)
    add_result_options(parser)
    add_machine_options(parser)
    args = parser.parse_args(argv)
    if not args.inputs:
        parser.error(
            "no images are named; put them first: predict.py BEFORE AFTER --checkpoints FILE --out "
            "DIR"
        )
    if args.overlap_px is None:
        args.overlap_px = args.tile_px // 4
    if "none" in args.vector and len(args.vector) > 1:
        parser.error("--vector none goes alone; leave out the others, or none")
    args.vector = [name for name in args.vector if name != "none"]
    if not args.vector and (args.min_area or args.simplify):
        parser.error("--vector none: there are no polygons for --min-area or --simplify; leave it "
                     "out")  # fmt: skip
    args.change_only = shared.without_disabled(args, parser.given(argv) & CHANGE_ONLY)
    return args


def add_input_options(parser: Parser) -> None:
    """Adds flags for inputs and outputs."""
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
    group.add_argument(
        "--overwrite",
        **SWITCH,
        help="replace maps that are in --out",
    )
    group.add_argument(
        "--bands",
        nargs="+",
        metavar="BAND",
        help="bands of the rasters, by number from 1 or red, green, blue, nir, in the order in "
        "which the networks were trained on them (default: by the names in the file; red, green, "
        "blue and nir are bands 1 to 4 of a file without names)",
    )
    group.add_argument(
        "--nodata",
        type=float,
        nargs="+",
        metavar="VALUE",
        help="stored value of pixels without data, one for all or one for each date (default: that "
        "of the file)",
    )
    group.add_argument(
        "--offset",
        type=float,
        nargs="+",
        metavar="VALUE",
        help="what is added to stored values of Sentinel-2, one for all or one for each date: "
        "-1000 for products of baseline 04.00, since January 2022 (default: the tag of the file)",
    )
    group.add_argument(
        "--scale",
        type=float,
        nargs="+",
        metavar="VALUE",
        help="reflectance of a stored value of 1, after --offset: 1 for files of reflectance "
        "(default: the tag of the file, or 0.0001)",
    )
    group.add_argument(
        "--strict-grid",
        **SWITCH,
        help="refuse a date 2 of another CRS, resolution or extent (default: it is warped)",
    )


def add_prediction_options(parser: Parser) -> None:
    """Adds flags for the prediction."""
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
        **SWITCH,
        help="classes of both dates everywhere, not only where something changed",
    )
    group.add_argument("--tile-px", type=positive_int, default=512, help="largest side of windows")
    group.add_argument(
        "--overlap-px",
        type=int,
        help="what neighbouring windows share and blend, at most half of --tile-px (default: a "
        "quarter)",
    )
    group.add_argument("--test-batch-size", type=positive_int, default=4, help="windows at a time")


def add_result_options(parser: Parser) -> None:
    """Adds flags for polygons and the report."""
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
    group.add_argument(
        "--report",
        **SWITCH,
        help="a page to look at: DIR/report.html",
    )


def add_machine_options(parser: Parser) -> None:
    """Adds flags for networks, device and precision."""
    group = parser.add_argument_group("runtime")
    group.add_argument(
        "--outdir",
        default="outdir",
        metavar="DIR",
        help="its models/*.pth are the networks where --checkpoints names none",
    )
    add_device_options(group)
    group.add_argument(
        "--compile",
        **SWITCH,
        help="torch.compile the network: slow start, seldom faster",
    )


def _at_least_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value
