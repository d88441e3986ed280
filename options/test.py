"""The command line of test.py."""

import argparse

from datasets import DATASETS
from datasets.sentinel.data_sets import add_band_flags
from models import BACKBONES, NETWORKS
from options import shared
from options.shared import add_tta_option
from utils.cli import SWITCH, Parser, fraction, positive_float, positive_int

NOT_BINARY = {"time_limit", "zip", "pkl"}
ONLY_BINARY = {"val_split", "rle"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser("Predict change (and land cover of both dates).", prog="test.py")
    data = shared.add_data_options(parser, DATASETS)
    add_part_option(data)
    shared.add_scene_data_options(data)
    add_band_flags(data)
    shared.add_ensemble_options(parser, NETWORKS, BACKBONES)
    add_prediction_options(parser)
    add_scene_options(parser)
    add_output_options(parser)
    shared.add_runtime_options(parser)
    args = parser.parse_args(argv)
    binary = DATASETS[args.dataset].task == "binary_change"
    if args.gate and binary:
        parser.error(
            "--gate: only tfinet has a gate, and it is for images with classes; leave it out"
        )
    refused = NOT_BINARY if binary else ONLY_BINARY
    for name in parser.given(argv) & refused:
        parser.error(
            f"--{name.replace('_', '-')} is for {'classes' if binary else 'binary change'}, not "
            f"--dataset {args.dataset}; leave it out"
        )
    if args.bands is not None and not DATASETS[args.dataset].chooses_bands:
        parser.error(f"--dataset {args.dataset} has no --bands to choose from; leave it out")
    if args.pkl is not None and not has_one_png(args.dataset):
        parser.error(
            f"--pkl is for land cover in PNG masks, not --dataset {args.dataset}; leave it out"
        )
    if DATASETS[args.dataset].task == "land_cover" and "threshold" in parser.given(argv):
        parser.error(f"--threshold is for change, --dataset {args.dataset} has none; leave it out")
    if args.test_batch_size is None:
        args.test_batch_size = 4 if binary else shared.usual_batch_size(args.device)
    if args.threshold == "auto" and not binary:
        parser.error(
            f"--threshold auto is for binary change, not --dataset {args.dataset}; pass a number"
        )
    return args


def has_one_png(dataset: str) -> bool:
    """Whether the prediction of a tile is a single palette PNG."""
    return DATASETS[dataset].task == "land_cover" and DATASETS[dataset].labels is None


def add_scene_options(parser: Parser) -> None:
    """Adds flags for large images, and for the decision on change."""
    group = parser.add_argument_group("large images, and change")
    group.add_argument(
        "--whole-px",
        type=int,
        metavar="PX",
        help="longest side of images that are predicted as a whole; larger ones are predicted in "
        "windows (default: 1024, or --tile-px if that is given; rucode: 0)",
    )
    group.add_argument(
        "--tile-px", type=positive_int, help="largest side of windows (default: 1024)"
    )
    group.add_argument(
        "--overlap-px",
        type=int,
        help="what neighbouring windows share and blend (default: 48, or a quarter of --tile-px if "
        "that is given)",
    )
    group.add_argument(
        "--padding",
        choices=("reflect", "constant"),
        default="reflect",
        help="beyond the edges of an image; constant: its first value, as published for rucode",
    )
    group.add_argument(
        "--threshold",
        type=_threshold,
        default=0.5,
        metavar="P",
        help="changed where the probability is above P in 0..1; auto (binary change): the best F1 "
        "on the validation scenes",
    )
    group.add_argument(
        "--val-split",
        metavar="RULE",
        help="validation scenes of --threshold auto, as --split of train.py (default: those of the "
        "first checkpoint)",
    )
    group.add_argument(
        "--rle",
        metavar="FILE",
        help="run lengths of every mask as csv: Id, mask",
    )


def _threshold(text: str) -> float | str:
    return text if text == "auto" else fraction(text)


def add_part_option(group: argparse._ArgumentGroup) -> None:
    """Adds --split, the folder to predict."""
    group.add_argument(
        "--split",
        metavar="NAME",
        help="folder to predict (default: test/ where there is one, else val/)",
    )


def add_prediction_options(parser: Parser) -> None:
    """Adds flags for the prediction."""
    group = parser.add_argument_group("prediction")
    add_tta_option(group, "flip_rot")
    group.add_argument(
        "--test-batch-size",
        type=positive_int,
        help="images or windows at a time; fewer of those larger than 512 px (default: 16; on a "
        "CPU and for binary change 4)",
    )
    group.add_argument(
        "--time-limit",
        type=positive_float,
        metavar="S",
        help="seconds for everything; views are dropped when time runs short",
    )


def add_output_options(parser: Parser) -> None:
    """Adds flags for outputs other than masks."""
    group = parser.add_argument_group("outputs (masks always go to OUTDIR/masks/SPLIT)")
    group.add_argument(
        "--score",
        **SWITCH,
        help="score against the labels",
    )
    group.add_argument(
        "--save-probs",
        nargs="?",
        const="",
        metavar="DIR",
        help="probabilities: ID.npz, or ID.tif of images in windows and of binary change (bare: "
        "OUTDIR/probs/SPLIT)",
    )
    group.add_argument(
        "--zip",
        nargs="?",
        const="",
        metavar="FILE",
        help="pack the masks for submission (bare: OUTDIR/masks/SPLIT.zip); naic2020: as 16-bit "
        "results/ID.png",
    )
    group.add_argument(
        "--pkl",
        nargs="?",
        const="",
        metavar="FILE",
        help="land cover: a pickled list of PNG files, classes from 0, as NAIC 2020's program "
        "wrote it (bare: OUTDIR/masks/SPLIT.pkl)",
    )
    group.add_argument(
        "--figures", type=int, default=0, metavar="N", help="pictures of N evenly spaced tiles"
    )
    group.add_argument(
        "--preview-dir", metavar="DIR", help="a picture of every tile, in this folder"
    )
    group.add_argument(
        "--gate",
        **SWITCH,
        help="tfinet: the gate as a heat map, OUTDIR/gate/SPLIT",
    )
