"""The command line of train.py."""

import argparse

from datasets import DATASETS
from models import BACKBONES, NETWORKS, backbone_of
from utils import options, train_options
from utils.cli import Parser
from utils.rucode_config import read_rucode_config
from utils.run_folders import find_run, outdir_of, read_options
from utils.schedule import check_flags

# what may differ when a run goes on: nothing that changes its numbers
FREE_ON_RESUME = {
    *("resume", "config", "device", "num_workers", "cache", "cache_dir", "compile", "cuda_graphs"),
    *("grad_checkpointing", "save_every", "keep_every", "log_every"),
}


def build_parser() -> Parser:
    """Every flag of training."""
    description = "Train a network on tiles of two dates (or one)."
    parser = Parser(description, prog="train.py", read_json=read_rucode_config)
    data = options.add_data_options(parser, DATASETS)
    options.add_split_option(data)
    options.add_scene_data_options(data)
    options.add_sentinel_options(data)
    train_options.add_training_data_options(data, DATASETS)
    model = options.add_model_options(parser, NETWORKS, BACKBONES)
    train_options.add_training_model_options(model)
    train_options.add_optimisation_options(parser)
    train_options.add_run_options(options.add_runtime_options(parser))
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; with --resume, the options of the interrupted run."""
    parser = build_parser()
    args = parser.parse_args(argv)
    args.backbone, given = backbone_of(args.model, args.backbone), parser.given(argv)
    check_flags(args.optimizer, args.momentum, args.lr_policy, args.lr, args.lr_min, args.lr_gamma)
    if DATASETS[args.dataset].task == "land_cover":
        for name in given & train_options.CHANGE_ONLY:
            parser.error(
                f"--{name.replace('_', '-')} is for change, --dataset {args.dataset} has one date; "
                "leave it out"
            )
    if args.resume is not None:
        take_over_options(parser, args, given | parser.switched_off(argv))
    if args.load_from:  # a file of ours says what it is, which nothing given may contradict
        args.described = sorted(given & {"model", "backbone", "lightweight", "output_stride"})
    if "cache_dir" in given and args.cache != "disk":
        parser.error("--cache-dir is for --cache disk; leave it out, or pass --cache disk")
    if args.grad_checkpointing and args.compile:
        told = "or pass --no-grad-checkpointing or --no-compile beside --resume"
        parser.error(
            f"--grad-checkpointing and --compile exclude each other; leave one out, {told}"
        )
    return args


def take_over_options(parser: Parser, args: argparse.Namespace, given: set[str]) -> None:
    """Sets the options of the interrupted run (--resume), but for those given that may differ."""
    last = find_run(args.resume, args.outdir, args.name)
    options = read_options(last.parent)
    # the run's own, however it was found
    args.resume, args.outdir, args.name = str(last), str(outdir_of(last)), options["name"]
    for key, value in options.items():
        if key in ("resume", "config", "outdir", "name") or (
            key in given and key in FREE_ON_RESUME
        ):
            continue
        if key in given and getattr(args, key) != value:
            parser.error(
                f"--{key.replace('_', '-')} {getattr(args, key)} differs from the interrupted "
                f"run's {'default' if value is None else value}; leave it out, or start a new run "
                "without --resume"
            )
        setattr(args, key, value)
