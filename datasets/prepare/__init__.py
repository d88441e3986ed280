"""Prepares data on disk: `python -m datasets.prepare COMMAND --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import DATASETS
from datasets.build import Source
from datasets.change_masks import CODINGS
from datasets.checks import check_scenes, describe
from datasets.folders import FolderLayout
from datasets.layout import parse_names
from datasets.prepare import compose, label_scene, naic2020
from datasets.prepare.convert import convert
from datasets.sentinel.data_sets import NOT_CHECKED, add_band_flags
from utils.cli import run, with_dashes


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `run` is the function of the chosen command."""
    parser = argparse.ArgumentParser("python -m datasets.prepare", description=__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = commands.add_parser("check", help="look for all that is wrong with a data set")
    data = check.add_argument_group("data")
    data.add_argument("root", metavar="ROOT", type=Path, help="folder of the data set")
    data.add_argument(
        "--dataset", choices=sorted(DATASETS), default="second", help="its layout (default: second)"
    )
    _add_folders(data)
    data.add_argument(
        "--suffixes", nargs="+", metavar="KEY=END", help="ends of file names that are not in ids"
    )
    data.add_argument("--bands", nargs="+", metavar="BAND", help="bands to read, as in train.py")
    data.add_argument("--label-coding", choices=CODINGS, help="of change masks, as in train.py")
    add_band_flags(data)
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
    label_scene.add_command(commands)
    naic2020.add_command(commands)
    words = sys.argv[1:] if argv is None else argv
    return parser.parse_args([with_dashes(word) for word in words])


def _add_folders(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--folders",
        nargs="+",
        metavar="KEY=NAME",
        help="folders that are called otherwise, such as im1=A train=SECOND_train_set; an unknown "
        "key lists those of the layout",
    )


def _check_command(args: argparse.Namespace) -> None:
    source = Source(
        args.dataset,
        args.root,
        parse_names(args.folders),
        args.label_coding,
        suffixes=parse_names(args.suffixes, "--suffixes"),
    )
    scheme = source.scheme(args.bands, flags=vars(args))
    layout = source.layout(scheme)
    for part, count in source.check(None, scheme).items():
        found = layout.find(part)
        kind = "with labels" if found.scenes[0].labels else "without labels"
        what = "image" if scheme.task == "land_cover" else "pair"
        print(f"{part}: {count} {what}(s) {kind} in {found.path}, nothing wrong")
        scenes, reading = layout.to_open(found.scenes), layout.reading(part, part)
        print(*describe(part, reading, scheme, check_scenes(scenes, reading, scheme)[1]), sep="\n")
        if len(scenes) < count:
            print(NOT_CHECKED)
    if isinstance(layout, FolderLayout) and (unread := layout.unread()):
        print("not read, since this layout has no such folders:", *unread, sep="\n  ")


def _convert_command(args: argparse.Namespace) -> None:
    counts = convert(
        args.source,
        args.target,
        folders=parse_names(args.folders),
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
