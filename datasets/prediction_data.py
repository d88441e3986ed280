"""What test.py's flags ask of the data sets: the tiles or scenes to predict, checked."""

import argparse
from pathlib import Path

from torch.utils.data import Dataset

from datasets import DATASETS, build_dataset, check_dataset
from datasets.folder import find_parts
from datasets.layout import parse_folders
from utils import distributed, options
from utils.structures import Scheme


def open_part(args: argparse.Namespace, scheme: Scheme) -> Dataset:
    """The tiles, or the scenes in windows, to predict.

    Raises:
        DataError, FileNotFoundError, ValueError: see the data set; or --score without labels.
    """
    part, entry = args.split or "test", DATASETS[args.dataset]
    check = {"seen": Path(args.outdir, "data_check.json"), **_where(args, scheme)}
    # before files are opened, or names listed, by every process
    first = entry.scenes or entry.indexed
    if first and distributed.is_main():
        check_dataset(args.dataset, [part], **check)
    distributed.barrier()
    windows = _windows(args) if entry.scenes else {}
    tiles = build_dataset(
        args.dataset, part, index_dir=args.outdir, **_where(args, scheme), **windows
    )
    if args.score and not tiles.labelled:
        raise ValueError(f"--score: {tiles.path} has no labels; leave out --score")
    if distributed.is_main():
        if not first:
            check_dataset(args.dataset, [tiles.part], **check)
        if args.score and may_have_trained(args):
            print(f"note: {args.data_root} has no test/; these images may have trained the network")
        print(f"{len(tiles.names)} {'scenes' if entry.scenes else 'tiles'} of {tiles.path}")
    distributed.barrier()
    return tiles


def may_have_trained(args: argparse.Namespace) -> bool:
    """Whether the images to predict are, for want of others, those to train on."""
    if args.dataset != "folder" or args.split is not None:
        return False
    root = args.data_root or DATASETS[args.dataset].root
    return "test" not in find_parts(root, parse_folders(args.folders))


def open_validation(args: argparse.Namespace, scheme: Scheme, split: str) -> Dataset:
    """The scenes that validate by a split rule, in windows; raises as `open_part`."""
    where = {**_where(args, scheme), **_windows(args)}
    return build_dataset(args.dataset, "val", split=split, **where)


def _where(args: argparse.Namespace, scheme: Scheme) -> dict:
    return {
        "root": args.data_root,
        "scheme": scheme,
        "folders": parse_folders(args.folders),
        **options.label_coding(args.label_coding),
    }


def _windows(args: argparse.Namespace) -> dict:
    """The windows of a scene."""
    overlap_px = args.tile_px // 4 if args.overlap_px is None else args.overlap_px
    return {"tile_px": args.tile_px, "overlap_px": overlap_px, "padding": args.padding}
