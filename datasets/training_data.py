"""What train.py's flags ask of the data sets: a scheme, checked files, batches."""

import argparse
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from datasets import (
    DATASETS,
    DatasetEntry,
    build_dataset,
    check_dataset,
    find_scheme,
    training_options,
)
from datasets.layout import parse_folders, part_path
from datasets.loader import eval_loader, train_loader
from datasets.transforms import Augment
from utils import distributed, options
from utils.structures import Scheme


def scheme_of_data(args: argparse.Namespace) -> Scheme:
    """What the data set's values mean, and which bands are read."""
    bands = args.bands
    if bands is None and args.fusion == "difference" and DATASETS[args.dataset].scenes:
        bands = ["grey"]  # as published
    folders = parse_folders(args.folders)
    where = {"folders": folders, "bands": bands, "flags": vars(args)}
    scheme = find_scheme(args.dataset, args.data_root, **where)
    if args.val_dataset is not None:
        try:
            other = find_scheme(args.val_dataset, args.val_root, **where)
        except (ValueError, OSError) as error:
            raise ValueError(f"--val-dataset {args.val_dataset}: {error}") from error
        for field in ("task", "classes", "bands"):
            if getattr(scheme, field) != getattr(other, field):
                raise ValueError(
                    f"--val-dataset {args.val_dataset} has {field} {getattr(other, field)}, "
                    f"--dataset {args.dataset} has {getattr(scheme, field)}; choose one alike"
                )
    return scheme


def validation_entry(args: argparse.Namespace) -> DatasetEntry:
    """The data set that validates."""
    return DATASETS[args.val_dataset or args.dataset]


def split_rule(args: argparse.Namespace) -> str:
    """What of the training data validates; nothing if another data set does."""
    return args.split or ("official" if args.val_dataset else DATASETS[args.dataset].split)


def build_train_loader(args: argparse.Namespace, scheme: Scheme) -> DataLoader:
    """The batches of training.

    Raises:
        DataError, FileNotFoundError, ValueError: see the data set's module and datasets.loader.
    """
    pseudo_labels = args.use_pseudo_label
    if pseudo_labels == "":
        pseudo_labels = Path(args.outdir, "masks", "train")
    tiles = build_dataset(
        args.dataset,
        "train",
        pseudo_label_dir=pseudo_labels,
        augment=Augment(
            orient=args.orient or DATASETS[args.dataset].orient,
            swap_dates=args.swap_dates,
            crop_size=args.crop_size,
            jitter=args.jitter,
        ),
        seed=args.seed,
        **_where(args, scheme),
        **training_options(args.dataset, vars(args)),
    )
    refuse_other_sizes(tiles, args)
    return train_loader(tiles, args.batch_size, seed=args.seed, **_sharing(args))


def refuse_other_sizes(tiles: Dataset, args: argparse.Namespace) -> None:
    """Raises ValueError if images of several sizes, as far as they are known, make up a batch."""
    sizes = {size for size, _ in getattr(tiles, "tile_sizes", None) or ()}
    if args.crop_size is None and len(sizes) > 1:
        listed = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:4])
        raise ValueError(
            f"{tiles.path} has images of {len(sizes)} sizes ({listed} ...), which make no batch; "
            "pass --crop-size"
        )


def build_val_loader(args: argparse.Namespace, scheme: Scheme) -> DataLoader:
    """The batches of validation; raises as `build_train_loader`."""
    place = _where(args, scheme)
    if args.val_dataset is not None:
        place.update(root=args.val_root, split=None)
    tiles = build_dataset(args.val_dataset or args.dataset, "val", **place)
    if not tiles.labelled:
        raise ValueError(f"--val-dataset {args.val_dataset}: {tiles.path} has no labels")
    return eval_loader(tiles, args.val_batch_size, **_sharing(args))


def check_data(args: argparse.Namespace, scheme: Scheme) -> None:
    """Looks at every file that training reads; DataError or FileNotFoundError if one is bad."""
    if args.val_dataset is not None and args.split not in (None, "official"):
        raise ValueError(
            f"--split {args.split} and --val-dataset {args.val_dataset} both say what validates; "
            "leave one out"
        )
    if args.val_dataset is None and args.val_root is not None:
        raise ValueError("--val-root belongs to --val-dataset; pass both, or neither")
    entry = validation_entry(args)
    if args.save_mask and (entry.scenes or entry.load().labels is not None):
        why = "validates windows of scenes" if entry.scenes else "has GeoTIFFs for labels"
        raise ValueError(
            f"--save-mask writes palette PNGs of whole tiles, --dataset {args.dataset} {why}; "
            "leave it out, and let test.py --split write predictions"
        )
    if distributed.is_main():
        common = {
            "scheme": scheme,
            "folders": parse_folders(args.folders),
            "seen": Path(args.outdir, "data_check.json"),
            **options.label_coding(args.label_coding),
        }
        check_dataset(args.dataset, _parts_to_check(args), args.data_root, **common)
        if args.val_dataset is not None:
            try:
                check_dataset(args.val_dataset, ["val"], args.val_root, **common)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"--val-dataset, --val-root: {error}") from error
    distributed.barrier()


def _parts_to_check(args: argparse.Namespace) -> list[str]:
    """The parts of the training data set that are read."""
    entry, folders = DATASETS[args.dataset], parse_folders(args.folders)
    if args.val_dataset is not None or split_rule(args) != "official":
        return ["train"]
    one_folder_each = not entry.scenes and entry.task != "land_cover"
    val = part_path(args.data_root or entry.root, "val", folders)
    return ["train"] if one_folder_each and not val.is_dir() else ["train", "val"]


def _where(args: argparse.Namespace, scheme: Scheme) -> dict:
    """Which tiles, from where, kept how: what training and validation share."""
    return {
        "root": args.data_root,
        "scheme": scheme,
        "folders": parse_folders(args.folders),
        "split": split_rule(args),
        "cache": args.cache,
        "cache_dir": args.cache_dir,
        "index_dir": args.outdir,
        **options.label_coding(args.label_coding),
    }


def _sharing(args: argparse.Namespace) -> dict:
    """How the tiles are shared out over processes and read."""
    return {
        "rank": distributed.rank(),
        "world": distributed.world(),
        "num_workers": args.num_workers,
    }
