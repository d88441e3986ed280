"""Finds the inputs of predict.py: one image or pair, folders, patterns, or a table."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.tables import column, read_table

# ENVI images have any suffix and a .hdr file beside them, see `is_image`
SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".img", ".png", ".jpg", ".jpeg", ".bmp")
TABLES = (".csv", ".xlsx", ".xls")
SHOWN = 5  # names listed in an error message


class MapInput(NamedTuple):
    """The images of one map."""

    name: str  # its folder in --out; empty if there is only one map
    images: tuple[Path, ...]  # T, in the order of the dates


def find_maps(words: Sequence[str], num_dates: int) -> list[MapInput]:
    """The maps to make, sorted by name (those of a table in its order).

    Args:
        words: for each date an image, a folder, or a pattern such as "2019/*_red.tif"; or one
            table with the columns `before` and `after` (one date: `image`) and optionally `name`
            (default: the name of date 1's file). Paths in a table are relative to it. Images of
            two folders belong together if their names without suffix are equal, those of two
            patterns if the wildcards match the same text.
        num_dates: T of the networks.

    Raises:
        ValueError: the number of words is not that of dates, an image has no counterpart, or two
            maps have the same name.
        FileNotFoundError: no such file, or a folder or pattern without images.
    """
    if len(words) == 1 and Path(words[0]).suffix.lower() in TABLES:
        return _from_table(Path(words[0]), num_dates)
    if tables := [word for word in words if Path(word).suffix.lower() in TABLES]:
        raise ValueError(f"{tables[0]}: a table names all images by itself; leave out the others")
    _check_count(words, num_dates)
    found = [_images(word) for word in words]
    if all(isinstance(one, Path) for one in found):
        return [MapInput("", tuple(found))]
    if any(isinstance(one, Path) for one in found):
        raise ValueError(
            f"{' and '.join(words)}: one is an image, the other a folder or pattern; pass two of a "
            "kind"
        )
    _check_mates(words, found)
    return [MapInput(name, tuple(one[name] for one in found)) for name in sorted(found[0])]


def _check_count(words: Sequence[str], num_dates: int) -> None:
    if len(words) == num_dates:
        return
    if num_dates == 1:
        raise ValueError(
            f"{len(words)} inputs are given, but these networks are for land cover, which reads "
            "one image at a time. Pass one image, a folder, or a pattern in quotes, or choose "
            "networks of change (--checkpoints)."
        )
    if len(words) == 1:
        raise ValueError(
            f"only {words[0]} is given, but these networks find change between two dates. Pass "
            "BEFORE AFTER, or choose a network of land cover (--checkpoints)."
        )
    raise ValueError(
        f"{len(words)} inputs are given; pass two, BEFORE AFTER: images, folders, or patterns in "
        "quotes"
    )


def _images(word: str) -> Path | dict[str, Path]:
    """The path of a single image, or the images of a folder or pattern, by name."""
    path = Path(word)
    if path.is_dir():
        found = [(p.stem, p) for p in sorted(path.iterdir()) if is_image(p)]
        if not found:
            kinds = ", ".join("*" + suffix for suffix in SUFFIXES)
            raise FileNotFoundError(f"no images in {path} (expected {kinds}, or ENVI with .hdr)")
        return _unique(word, found)
    if path.exists():
        return path
    if not glob.has_magic(word):
        raise FileNotFoundError(f"there is no {path}; check the path")
    start, pattern = _split_pattern(path)
    found = sorted(glob.glob(pattern, root_dir=start, recursive=True))
    paths = [Path(p) for p in found if is_image(start / p)]
    if not paths:
        raise FileNotFoundError(f"no images match {word!r}; check the pattern")
    return _unique(word, [(wildcard_text(pattern, p), start / p) for p in paths])


def _split_pattern(path: Path) -> tuple[Path, str]:
    """The folders with which a pattern starts, also such as "2019 [A]", and the rest of it."""
    start, parts = Path(), list(path.parts)
    while len(parts) > 1 and (start / parts[0]).is_dir():
        start /= parts.pop(0)
    return start, "/".join(parts)


def is_image(path: Path) -> bool:
    """Whether a file in a folder is treated as an image."""
    if path.name.startswith(".") or not path.is_file():
        return False
    return path.suffix.lower() in SUFFIXES or (
        path.suffix.lower() != ".hdr"
        and any(head.is_file() for head in (path.with_suffix(".hdr"), Path(f"{path}.hdr")))
    )


def wildcard_text(pattern: str, path: Path) -> str:
    """The text that the wildcards of a pattern match in a path, without the image's suffix."""
    parts = re.split(r"(\*\*/?|\*|\?|\[[^\]]*\])", pattern)
    groups = {"**/": "(.*?)", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    regex = "".join(
        groups.get(part, f"([{part[1:-1].replace('!', '^', 1)}])") if i % 2 else re.escape(part)
        for i, part in enumerate(parts)
    )
    match = re.fullmatch(regex, path.as_posix())
    text = "_".join(group.strip("/") for group in match.groups() if group) if match else path.stem
    return text.removesuffix(path.suffix).replace("/", "_") or path.stem


def _unique(word: str, found: list[tuple[str, Path]]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for name, path in found:
        if name in named:
            raise ValueError(
                f"{word}: {named[name].name} and {path.name} have one name, {name!r}; keep one, or "
                "list the pairs in a csv"
            )
        named[name] = path
    return named


def _check_mates(words: Sequence[str], found: Sequence[dict[str, Path]]) -> None:
    for one, other, word in zip(found, reversed(found), reversed(words), strict=True):
        alone = sorted(one.keys() - other.keys())
        if alone:
            more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
            raise ValueError(
                f"{word} lacks the mates of {', '.join(str(one[n]) for n in alone[:SHOWN])}{more}; "
                "mates have the same name, in patterns the same text for the wildcards. List the "
                "pairs in a csv otherwise."
            )


def _from_table(path: Path, num_dates: int) -> list[MapInput]:
    """The rows of a table; paths are relative to it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; check the path")
    try:
        rows = read_table(path)
    except ValueError as error:  # its message names a flag that predict.py does not have
        raise ValueError(str(error).removeprefix("--table ")) from None
    keys = ("image",) if num_dates == 1 else ("before", "after")
    columns = [column(rows, key, f"{path}: the column") for key in keys]
    images = [tuple(path.parent / text for text in texts) for texts in zip(*columns, strict=True)]
    for pair in images:
        for image in pair:
            if not image.exists():
                raise FileNotFoundError(f"{path}: there is no {image}; check the table")
    stems = [pair[0].stem for pair in images]
    names = [row.get("name") or stem for row, stem in zip(rows, stems, strict=True)]
    for name in names:
        if name in (".", "..") or Path(name).name != name:
            raise ValueError(f"{path}: the name {name!r} is no name for a folder; choose another")
        if names.count(name) > 1:
            raise ValueError(
                f"{path}: two maps have the name {name!r}; say others in the column `name`"
            )
    return [MapInput(*row) for row in zip(names, images, strict=True)]
