"""The command line of test.py."""

import argparse

from datasets import DATASETS
from models import BACKBONES, NETWORKS
from utils import options, test_options
from utils.cli import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Predict change (and land cover of both dates).", prog="test.py")
    data = options.add_data_options(parser, DATASETS)
    test_options.add_part_option(data)
    options.add_scene_data_options(data)
    options.add_sentinel_options(data)
    options.add_ensemble_options(parser, NETWORKS, BACKBONES)
    test_options.add_prediction_options(parser)
    test_options.add_scene_options(parser)
    test_options.add_output_options(parser)
    options.add_runtime_options(parser)
    args = parser.parse_args(argv)
    scenes = DATASETS[args.dataset].scenes
    if args.gate and scenes:
        parser.error(
            "--gate: only tfinet has a gate, and it is for tiles with classes; leave it out"
        )
    refused = test_options.TILES_ONLY if scenes else test_options.SCENES_ONLY
    for name in parser.given(argv) & refused:
        parser.error(
            f"--{name.replace('_', '-')} is for data sets of {'tiles' if scenes else 'scenes'}, "
            f"--dataset {args.dataset} is none; leave it out"
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
        args.test_batch_size = 4 if scenes else 16
    if args.threshold == "auto" and not scenes:
        parser.error(
            f"--threshold auto is for data sets of scenes, --dataset {args.dataset} is none; pass "
            "a number"
        )
    return args


def has_one_png(dataset: str) -> bool:
    """Whether a tile's prediction is one palette PNG."""
    return DATASETS[dataset].task == "land_cover" and DATASETS[dataset].load().labels is None
