"""Combines both dates of a scene in one GeoTIFF of 8 bands, for the data set `rucode`."""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.bands import NAMED
from datasets.layout import (
    DataError,
    Problem,
    find_files,
    match_files,
    refuse_existing,
)
from datasets.rucode.run_lengths import read_sample_ids
from datasets.splits import read_lines
from datasets.tables import column, read_table
from utils.rasters.grids import grid_difference
from utils.rasters.raster import Raster
from utils.rasters.reading import open_raster, strips
from utils.rasters.writing import StripWriter

SEPARATOR = "__"  # between the two scenes of an id
BANDS = range(len(NAMED))  # band indices of each date


class Pair(NamedTuple):
    """Two images of one place."""

    name: str  # id
    date1: str  # file stem of date 1
    date2: str


def compose(
    date1_dir: Path | str,
    date2_dir: Path | str,
    out: Path | str,
    *,
    table: Path | str | None = None,
    date1_column: str | None = None,
    date2_column: str | None = None,
    id_column: str | None = None,
    ids: Path | str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> int:
    """Writes `OUT/<id>.tif`: bands 1 to 4 of date 1, then those of date 2.

    Dtype, CRS, transform and nodata are kept. All files are checked before writing.

    Args:
        date1_dir: images of date 1, 4 bands each.
        date2_dir: images of date 2; may be the same folder.
        out: folder to write.
        table: csv, xlsx or xls with one pair per row.
        date1_column: column with the ids or file names of date 1.
        date2_column: column with the ids or file names of date 2.
        id_column: column with the ids of the pairs; None = `<date1>__<date2>`.
        ids: a sample submission (.csv) or a text file with ids `<date1>__<date2>`.
        overwrite: replace files of these ids.
        dry_run: check everything, write nothing.
        progress: show progress bars.

    Without `table` and `ids`, files with the same stem in both folders form a pair.

    Returns:
        Number of pairs.

    Raises:
        DataError: lists images that are missing, unreadable, have a wrong number of bands, or
            differ in size, dtype, CRS, transform or nodata from the other date.
        FileExistsError: a target file exists and `overwrite` is False.
        ValueError: an unknown column, or no pairs.
    """
    folders = [Path(date1_dir), Path(date2_dir)]
    found = [find_files(folder) for folder in folders]
    columns = (date1_column, date2_column, id_column)
    pairs, problems = _find_pairs(folders, found, table, columns, ids)
    whole = [pair for pair in pairs if pair.date1 in found[0] and pair.date2 in found[1]]
    files = {pair: (found[0][pair.date1][0], found[1][pair.date2][0]) for pair in whole}
    for pair, paths in tqdm(files.items(), "checking", unit="pair", disable=not progress):
        problems += _check(pair, paths)
    if problems:
        raise DataError(f"{date1_dir} and {date2_dir}", problems)
    targets = {pair: Path(out) / f"{pair.name}.tif" for pair in files}
    _check_targets(Path(out), folders, targets.values(), overwrite)
    if not dry_run:
        for pair, paths in tqdm(files.items(), "composing", unit="pair", disable=not progress):
            _write(targets[pair], [open_raster(path) for path in paths])
    return len(targets)


def _check_targets(
    out: Path, folders: Sequence[Path], targets: Collection[Path], overwrite: bool
) -> None:
    """Raises ValueError or FileExistsError if there are no pairs or targets cannot be written."""
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise ValueError(f"OUT {out} holds images to be composed; pass another folder")
    if not targets:
        raise ValueError(
            f"no pairs in {' and '.join(map(str, folders))}; name them by --table or --ids"
        )
    if not overwrite:
        refuse_existing(targets)


def _find_pairs(
    folders: Sequence[Path],
    found: Sequence[dict],
    table: Path | str | None,
    columns: Sequence[str | None],
    ids: Path | str | None,
) -> tuple[list[Pair], list[Problem]]:
    """The pairs and their problems; for the arguments see `compose`."""
    if table is not None:
        pairs, problems = _from_table(table, columns), []
    elif ids is not None:
        pairs, problems = _from_ids(ids, found)
    else:
        pairs, problems = _same_names(folders, found)
    return pairs, problems + _missing(pairs, folders, found)


def _from_table(table: Path | str, columns: Sequence[str | None]) -> list[Pair]:
    rows = read_table(table)
    date1, date2 = (
        [_stem(text) for text in column(rows, name, flag)]
        for name, flag in zip(columns, ("--date1-column", "--date2-column"), strict=False)
    )
    names = [SEPARATOR.join(pair) for pair in zip(date1, date2, strict=True)]
    if columns[2] is not None:
        names = [_stem(text) for text in column(rows, columns[2], "--id-column")]
    return [Pair(*fields) for fields in zip(names, date1, date2, strict=True)]


def _from_ids(ids: Path | str, found: Sequence[dict]) -> tuple[list[Pair], list[Problem]]:
    """Splits ids into pairs at the `__` where both halves are files (stems may contain `__`)."""
    path = Path(ids)
    if not path.is_file():
        raise FileNotFoundError(f"--ids {path}: no such file")
    names = read_sample_ids(path) if path.suffix.lower() == ".csv" else read_lines(path)
    pairs, problems = [], []
    for name in map(_stem, names):
        words = name.split(SEPARATOR)
        halves = [
            (SEPARATOR.join(words[:i]), SEPARATOR.join(words[i:])) for i in range(1, len(words))
        ]
        both = [half for half in halves if half[0] in found[0] and half[1] in found[1]]
        if len(both) == 1 or len(halves) == 1:
            pairs.append(Pair(name, *(both or halves)[0]))
        else:
            text = f"{name}: {len(both)} ways to split it into two images that are there"
            problems.append(Problem("missing mate", text))
    return pairs, problems


def _same_names(folders: Sequence[Path], found: Sequence[dict]) -> tuple[list[Pair], list[Problem]]:
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(
            f"both dates are in {folders[0]}: say which images are pairs by --table or --ids"
        )
    whole, problems = match_files(list(zip(folders, found, strict=True)))
    return [Pair(name, name, name) for name in whole], problems


def _missing(
    pairs: Sequence[Pair], folders: Sequence[Path], found: Sequence[dict]
) -> list[Problem]:
    names = [pair.name for pair in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [Problem("same id twice", name) for name in twice]
    for pair in pairs:
        for date, folder, files in zip((pair.date1, pair.date2), folders, found, strict=True):
            if date not in files:
                problems.append(Problem("no image", f"{folder / date}.* of {pair.name}"))
            elif len(files[date]) > 1:
                problems.append(Problem("same id twice", ", ".join(map(str, files[date]))))
    return list(dict.fromkeys(problems))


def _check(pair: Pair, paths: Sequence[Path]) -> list[Problem]:
    """Reads both files completely; returns the problems found."""
    rasters = []
    for path in paths:
        try:
            rasters.append(raster := open_raster(path))
            for window in strips(raster):
                raster.read(window, range(raster.count))
        except OSError as error:
            return [Problem("unreadable", str(error))]
    problems = [
        Problem("bands", f"{raster.path}: {raster.count} bands where {len(BANDS)} are needed")
        for raster in rasters
        if raster.count != len(BANDS)
    ]
    first, second = rasters
    both = f"{first.path} and {second.path}:"
    if (first.height, first.width) != (second.height, second.width):
        text = f"{both} {first.height} x {first.width} and {second.height} x {second.width}"
        return [*problems, Problem("sizes differ", text)]
    if difference := grid_difference(first, second):
        problems.append(Problem("grids differ", f"{both} {difference}"))
    types = [f"{raster.dtype}, nodata {_listed(raster.nodata)}" for raster in rasters]
    if types[0] != types[1]:
        problems.append(Problem("bands", f"{both} {' and '.join(types)}"))
    return problems


def _listed(nodata: Sequence[float | None]) -> str:
    """The nodata values of bands, each once."""
    return ", ".join(dict.fromkeys(map(str, nodata or [None])))


def _write(target: Path, rasters: Sequence[Raster]) -> None:
    first = rasters[0]
    with StripWriter(
        target,
        first.height,
        first.width,
        first.dtype,
        crs=first.crs,
        transform=first.transform,
        nodata=first.nodata[0] if first.nodata else None,
        bands=2 * len(BANDS),
        descriptions=[f"{name} of date {date}" for date in (1, 2) for name in NAMED],
    ) as out:
        for window in strips(first):
            out.write(window.top, np.concatenate([r.read(window, BANDS) for r in rasters]))


def _stem(text: str) -> str:
    """The id of an id or a file name."""
    path = Path(text)
    return path.stem if path.suffix.lower() in (".tif", ".tiff", ".png", ".img") else path.name


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds the command `compose`."""
    parser = commands.add_parser(
        "compose",
        help="two 4-band images -> one of 8 bands, for the data set rucode",
        description="Checks all pairs, then writes OUT/<id>.tif: the 4 bands of date 1, then those "
        "of date 2. Which images are pairs says a table or a list of ids; without either, files of "
        "the same name in DATE1_DIR and DATE2_DIR are.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("date1_dir", metavar="DATE1_DIR", type=Path, help="images of date 1")
    data.add_argument(
        "date2_dir", metavar="DATE2_DIR", type=Path, help="images of date 2, may be DATE1_DIR"
    )
    data.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    data.add_argument("--table", metavar="FILE", type=Path, help="csv, xlsx or xls, a pair a row")
    data.add_argument("--date1-column", metavar="NAME", help="column of date 1's ids or files")
    data.add_argument("--date2-column", metavar="NAME", help="column of date 2's ids or files")
    data.add_argument(
        "--id-column", metavar="NAME", help="column of the pairs' ids (default: DATE1__DATE2)"
    )
    data.add_argument(
        "--ids", metavar="FILE", type=Path, help="sample_submission.csv, or DATE1__DATE2 a line"
    )
    add_writing(parser)
    parser.set_defaults(run=_run)


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Adds the options of commands that write files: --overwrite and --dry-run."""
    writing = parser.add_argument_group("writing")
    writing.add_argument(
        "--overwrite", action="store_true", help="replace files that are there (default: refuse)"
    )
    writing.add_argument(
        "--dry-run", action="store_true", help="check, count and write nothing (default: off)"
    )


def _run(args: argparse.Namespace) -> None:
    if args.table is not None and args.ids is not None:
        raise ValueError("--table and --ids both say which images are pairs; pass one of them")
    options = {key: value for key, value in vars(args).items() if key != "run"}
    count = compose(**options)
    print(f"{'would write' if args.dry_run else 'wrote'} {count} image(s) to {args.out}")
