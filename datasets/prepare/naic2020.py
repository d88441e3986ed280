"""Data preparation and submission for NAIC 2020: `python -m datasets.prepare naic2020`."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.codecs import LabelError, open_label
from datasets.layout import DataError, Problem, refuse_existing
from datasets.naic2020.annotations import (
    NUM_EVAL,
    SEED,
    annotate,
    list_images,
    read_entries,
    split,
)
from datasets.naic2020.submission import read_pkl, read_png, write_zip
from utils.files import save_image, write_json
from utils.structures import IGNORE_INDEX

# class by colour code, bits 4, 2, 1 = red, green, blue: black, blue, green, cyan, red, -, yellow, -
GID_CLASSES = (0, 3, 2, 5, 1, IGNORE_INDEX, 4, IGNORE_INDEX)


def gid_classes(colours: np.ndarray) -> np.ndarray:
    """Converts the colours of GID masks to classes.

    Args:
        colours: (H, W, 3) uint8; a colour with a value other than 0 and 255 counts as black.

    Returns:
        (H, W) uint8: black 0, red 1, green 2, blue 3, yellow 4, cyan 5, others 255.
    """
    pure = ((colours == 0) | (colours == 255)).all(-1)
    bits = (colours == 255) @ np.array([4, 2, 1])
    return np.array(GID_CLASSES, np.uint8)[np.where(pure, bits, 0)]


def convert_gid(mask_dir: Path, out: Path, *, overwrite: bool, dry_run: bool) -> int:
    """Converts the colour masks of GID to index PNG; returns their number."""
    jobs = {Path(path): out / f"{Path(path).stem}.png" for path in list_images(mask_dir)}
    if len(set(jobs.values())) < len(jobs):
        raise DataError(mask_dir, [Problem("same id twice", str(mask_dir))])
    if not jobs:
        raise FileNotFoundError(f"no masks in {mask_dir} (expected *.tif or *.png)")
    if not overwrite:
        refuse_existing(jobs.values())
    for source, target in tqdm([] if dry_run else jobs.items(), "converting", unit="mask"):
        label = open_label(source)
        if not label.coloured:
            raise LabelError(f"{source}: one band, where GID's masks are RGB")
        save_image(target, Image.fromarray(gid_classes(label.whole())))
    return len(jobs)


def zip_predictions(test_list: Path, pkl: Path, out: Path) -> int:
    """Packs the predictions of a test list for submission; returns their number."""
    stems = [Path(entry["filename"]).stem for entry in read_entries(test_list)]
    pngs = read_pkl(pkl)
    if len(stems) != len(pngs):
        raise ValueError(
            f"{pkl} has {len(pngs)} prediction(s) and {test_list} {len(stems)} image(s); pass the "
            "list they were predicted from"
        )
    return write_zip(out, stems, map(read_png, pngs))


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds the command `naic2020` with its subcommands."""
    parser = commands.add_parser("naic2020", help="NAIC 2020: lists of images, their split, GID")
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    _add_annotate(steps)
    _add_split(steps)
    _add_gid(steps)
    _add_zip(steps)


def _add_annotate(steps: argparse._SubParsersAction) -> None:
    parser = steps.add_parser("annotate", help="a folder of images (and labels) -> a JSON list")
    parser.add_argument("image_dir", metavar="IMAGES", type=Path, help="folder of *.tif")
    parser.add_argument("--mask-dir", metavar="DIR", type=Path, help="folder of their labels")
    parser.add_argument("--save-path", metavar="JSON", type=Path, help="list to write")
    parser.add_argument("--image-ext", metavar="EXT", help="images with this extension only")
    parser.set_defaults(run=_annotate)


def _annotate(args: argparse.Namespace) -> None:
    entries = annotate(args.image_dir, args.mask_dir, args.image_ext)
    print(f"{len(entries)} image {'pairs' if args.mask_dir else 'files'}")
    if args.save_path is not None:
        write_json(args.save_path, entries)
        print(f"wrote {args.save_path}")


def _add_split(steps: argparse._SubParsersAction) -> None:
    parser = steps.add_parser("split", help="a JSON list -> one to train on, one to validate on")
    parser.add_argument("ann_file", metavar="JSON", type=Path, help="list to split")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the order (default: {SEED})")
    parser.add_argument(
        "--num-eval",
        metavar="N",
        type=int,
        default=NUM_EVAL,
        help=f"entries that validate (default: {NUM_EVAL})",
    )
    for name, usual in (("train", "train_sub.json"), ("eval", "eval_5000.json")):
        parser.add_argument(
            f"--{name}-save-path",
            metavar="JSON",
            type=Path,
            help=f"list to write (default: {usual} beside JSON)",
        )
    parser.set_defaults(run=_split)


def _split(args: argparse.Namespace) -> None:
    lists = split(read_entries(args.ann_file), args.seed, args.num_eval)
    folder = args.ann_file.parent
    usual = (folder / "train_sub.json", folder / "eval_5000.json")
    for entries, given, default in zip(
        lists, (args.train_save_path, args.eval_save_path), usual, strict=True
    ):
        write_json(given or default, entries)
        print(f"wrote {len(entries)} entries to {given or default}")


def _add_gid(steps: argparse._SubParsersAction) -> None:
    parser = steps.add_parser("gid", help="GID's colour masks of 5 classes -> index PNG")
    parser.add_argument("mask_dir", metavar="MASKS", type=Path, help="folder of RGB masks")
    parser.add_argument("--out", metavar="DIR", type=Path, help="(default: MASKS_p)")
    parser.add_argument("--overwrite", action="store_true", help="replace files (default: refuse)")
    parser.add_argument("--dry-run", action="store_true", help="count only (default: off)")
    parser.set_defaults(run=_gid)


def _gid(args: argparse.Namespace) -> None:
    out = args.out or args.mask_dir.with_name(f"{args.mask_dir.name}_p")
    count = convert_gid(args.mask_dir, out, overwrite=args.overwrite, dry_run=args.dry_run)
    print(f"{'would write' if args.dry_run else 'wrote'} {count} mask(s) to {out}")


def _add_zip(steps: argparse._SubParsersAction) -> None:
    parser = steps.add_parser("zip", help="predictions (.pkl) -> zip of 16-bit PNG to submit")
    parser.add_argument("test_list", metavar="JSON", type=Path, help="list they are of")
    parser.add_argument("pkl", metavar="PKL", type=Path, help="list of PNG")
    parser.add_argument(
        "--zip-file",
        metavar="ZIP",
        type=Path,
        default=Path("data/res.zip"),
        help="(default: data/res.zip)",
    )
    parser.set_defaults(run=_zip)


def _zip(args: argparse.Namespace) -> None:
    count = zip_predictions(args.test_list, args.pkl, args.zip_file)
    print(f"wrote {count} prediction(s) to {args.zip_file}")
