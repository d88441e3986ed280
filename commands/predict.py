"""The command line of predict.py."""

import argparse

from models import BACKBONES, NETWORKS
from utils import options, predict_options
from utils.cli import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Map what changed between two images, or land cover.", prog="predict.py")
    predict_options.add_input_options(parser)
    options.add_ensemble_options(parser, NETWORKS, BACKBONES)
    predict_options.add_prediction_options(parser)
    predict_options.add_result_options(parser)
    predict_options.add_machine_options(parser)
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
    args.change_only = sorted(parser.given(argv) & predict_options.CHANGE_ONLY)
    return args
