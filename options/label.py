"""The command line of label.py."""

import argparse

from datasets import DATASETS
from models import BACKBONES, NETWORKS
from options import shared
from utils.cli import SWITCH, Parser, fraction, positive_int


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    names = [name for name, entry in DATASETS.items() if entry.task == "semantic_change"]
    parser = Parser("Pseudo-label the unchanged pixels of the training tiles.", prog="label.py")
    data = shared.add_data_options(parser, names)
    shared.add_split_option(data)
    shared.add_scene_data_options(data)
    data.add_argument(
        "--overwrite",
        **SWITCH,
        help="replace masks made with other settings",
    )
    shared.add_ensemble_options(parser, NETWORKS, BACKBONES)
    rule = parser.add_argument_group("rule")
    rule.add_argument(
        "--rule",
        choices=("vote", "mean"),
        default="vote",
        help="vote: each network votes where its two dates agree, the most votes win (ties: the "
        'lowest class, "unlabelled" first); mean: the averaged probabilities must agree on both '
        "dates",
    )
    rule.add_argument(
        "--min-confidence",
        type=fraction,
        default=0.0,
        metavar="P",
        help="with --rule mean: smallest averaged probability at both dates, 0..1 (default: 0)",
    )
    shared.add_tta_option(rule, "flip_rot")
    rule.add_argument(
        "--val-batch-size",
        type=positive_int,
        help="pairs or windows at a time; fewer of those larger than 512 px (default: 16; CPU: 4)",
    )
    shared.add_runtime_options(parser)
    args = parser.parse_args(argv)
    if args.val_batch_size is None:
        args.val_batch_size = shared.usual_batch_size(args.device)
    if args.min_confidence and args.rule != "mean":
        parser.error("--min-confidence needs --rule mean; votes have no confidence")
    return args
