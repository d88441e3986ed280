"""Prepares data on disk, once and for good: `python -m datasets.prepare COMMAND --help`."""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from datasets import (
    DATASETS,
    build_dataset,
    check_dataset,
    compose,
    find_scheme,
    naic2020_steps,
    sparse,
)
from datasets.checks import check_pairs
from datasets.codecs import read_image, read_label
from datasets.dfc2020 import NOT_CHECKED
from datasets.layout import FIELDS, KEYS, find_files, list_pairs, parse_folders
from utils import options
from utils.cli import run, with_dashes
from utils.files import atomic_path
from utils.schemes import SECOND
from utils.writers import write_mask

KEPT = (".png", ".jpg", ".jpeg")  # images that are copied byte for byte


class Job(NamedTuple):
    """One file to write."""

    source: Path
    target: Path
    is_label: bool


def convert(
    source: Path | str,
    target: Path | str,
    *,
    folders: Mapping[str, str] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Writes a SECOND-layout folder anew: usual folder names, labels as palette PNG of indices.

    PNG and JPEG images are copied byte for byte; TIFF images become PNG.

    Args:
        source: folder with train, val or test in it; labels in any coding `read_label` knows.
        target: another folder, made if need be.
        folders: names in `source` in place of the usual ones.
        overwrite: replace what is in the target folders; else they must be empty.
        dry_run: check everything, write nothing.
        progress: show bars.

    Returns:
        Tiles per part.

    Raises:
        DataError, FileNotFoundError: the source fails the data check.
        FileExistsError: there are files in the target, and not `overwrite`.
        ValueError: the target is the source.
    """
    if Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"SRC and DST are the same folder, {source}; pass another DST")
    counts = check_pairs(source, SECOND.palette, folders=folders, progress=progress)
    jobs = [job for part in counts for job in _jobs(source, Path(target), part, folders)]
    present = {folder: find_files(folder) for folder in {job.target.parent for job in jobs}}
    full = sorted(str(folder) for folder, files in present.items() if files)
    if full and not overwrite:
        raise FileExistsError(
            f"there are files in {', '.join(full)}; pass another DST, or --overwrite"
        )
    if dry_run:
        return counts
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda job: _run(job, present[job.target.parent]), jobs)
        list(tqdm(done, "converting", len(jobs), unit="file", disable=not progress))
    return counts


def _jobs(
    source: Path | str, target: Path, part: str, folders: Mapping[str, str] | None
) -> list[Job]:
    jobs = []
    for tile in list_pairs(source, part, folders)[0]:
        for field, path in zip(FIELDS, (*tile.images, *(tile.labels or ())), strict=False):
            label = field.startswith("label")
            keep = not label and path.suffix.lower() in KEPT
            suffix = path.suffix.lower() if keep else ".png"
            jobs.append(Job(path, target / part / field / (tile.name + suffix), label))
    return jobs


def _run(job: Job, present: Mapping[str, list[Path]]) -> None:
    if job.is_label:
        write_mask(job.target, read_label(job.source, SECOND.palette), SECOND.palette)
    else:
        with atomic_path(job.target) as temporary:
            if job.source.suffix.lower() in KEPT:
                shutil.copyfile(job.source, temporary)
            else:
                Image.fromarray(read_image(job.source)).save(temporary, "PNG")
    for path in present.get(job.target.stem, ()):  # the same id under another extension
        if path != job.target:
            path.unlink()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; `run` is the function of the chosen command."""
    parser = argparse.ArgumentParser("python -m datasets.prepare", description=__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = commands.add_parser("check", help="look for all that is wrong with a data set")
    data = check.add_argument_group("data")
    data.add_argument("root", metavar="ROOT", type=Path, help="folder of the data set")
    data.add_argument(
        "--dataset", choices=sorted(DATASETS), default="second", help="its layout (default: second)"
    )
    _add_folders(data)
    options.add_sentinel_options(data)
    check.set_defaults(run=_check_command)

    conversion = commands.add_parser(
        "convert",
        help="RGB-coded or TIFF labels to palette PNG, usual folder names",
        description="Checks SRC and writes it anew as DST: labels as palette PNG of class indices, "
        "images byte for byte (TIFF as PNG), folders by their usual names.",
    )
    data = conversion.add_argument_group("data")
    data.add_argument("source", metavar="SRC", type=Path, help="folder with train, val or test")
    data.add_argument("target", metavar="DST", type=Path, help="folder to write, not SRC")
    _add_folders(data)
    compose.add_writing(conversion)
    conversion.set_defaults(run=_convert_command)
    compose.add_command(commands)
    sparse.add_command(commands)
    naic2020_steps.add_command(commands)
    words = sys.argv[1:] if argv is None else argv
    return parser.parse_args([with_dashes(word) for word in words])


def _add_folders(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--folders",
        nargs="+",
        metavar="KEY=NAME",
        help=f"folders that are called otherwise, such as im1=A; keys: {', '.join(KEYS)} "
        "(default: each by its key)",
    )


def _check_command(args: argparse.Namespace) -> None:
    folders = parse_folders(args.folders)
    scheme = find_scheme(args.dataset, args.root, folders=folders, flags=vars(args))
    where = {"root": args.root, "folders": folders, "scheme": scheme}
    for part, count in check_dataset(args.dataset, **where).items():
        found = build_dataset(args.dataset, part, **where)
        kind = "with labels" if found.labelled else "without labels"
        what = "image" if DATASETS[args.dataset].task == "land_cover" else "pair"
        print(f"{part}: {count} {what}(s) {kind} in {found.path}, nothing wrong")
    if DATASETS[args.dataset].indexed:
        print(NOT_CHECKED)


def _convert_command(args: argparse.Namespace) -> None:
    counts = convert(
        args.source,
        args.target,
        folders=parse_folders(args.folders),
        overwrite=args.overwrite,
        dry_run=args.dry_run,
    )
    verb = "would write" if args.dry_run else "wrote"
    for part, count in counts.items():
        print(f"{verb} {count} pair(s) to {args.target / part}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command."""
    args = parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    run(main)
