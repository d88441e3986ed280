"""Change masks: how their files encode changed, unchanged and not labelled pixels."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from datasets.codecs import NO_MEANING, LabelError, LabelFile, listed, open_label, unique
from utils.rasters.reading import strips
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX

# codings of change masks: value in the file -> value in a Sample
CHANGE_CODINGS = {"01": {0: 0, 1: 1, 255: IGNORE_INDEX}, "0255": {0: 0, 255: 1}}
EACH = "each"  # coding: every file by its own values
CODINGS = ("auto", *CHANGE_CODINGS, EACH)


class MaskError(LabelError):
    """The same for a change mask."""

    requirement = "mask values"


def find_coding(paths: Iterable[Path], coding: str = "auto") -> str:
    """Finds the coding of the change masks of a data set: a key of CHANGE_CODINGS, or EACH.

    The value 255 is ambiguous: it means "changed" or "not labelled". Therefore all masks are read.
    If one holds both 1 and 255, or only 0 and 1 occur, the coding is "01"; if only 0 and 255 occur,
    "0255". Files of one bit do not count: their 1 is always "changed".

    Args:
        paths: all masks of the data set; unreadable files are skipped.
        coding: one of CODINGS; any but "auto" is returned.

    Raises:
        ValueError: an unknown coding; or some masks hold 0 and 1, and others 0 and 255.
    """
    if coding not in CODINGS:
        choices = ", ".join(CODINGS)
        raise ValueError(f"--label-coding {coding!r} is not known; choose from {choices}")
    if coding != "auto":
        return coding
    paths = list(paths)
    each = values_of_labels(paths)
    ones = [path for path, values in zip(paths, each, strict=True) if 1 in values]
    whites = [path for path, v in zip(paths, each, strict=True) if 255 in v and 1 not in v]
    both = any({1, 255} <= values for values in each)
    if ones and whites and not both:
        raise ValueError(
            f"{len(ones)} change mask(s) hold 0 and 1, such as {ones[0]}, and {len(whites)} hold 0 "
            f'and 255, such as {whites[0]}. If 255 is "changed" there, pass --label-coding '
            'each; if it is "not labelled", --label-coding 01'
        )
    return "01" if ones else "0255"


def values_of_labels(paths: Iterable[Path]) -> list[frozenset[float]]:
    """All values of each change mask; none of files that are unreadable or of one bit."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_values_or_none, paths))


def change_of(
    file: LabelFile, window: Window, coding: str, threshold: int | None = None
) -> np.ndarray:
    """Reads a window of a change mask.

    Args:
        file: the mask; one band, or several equal bands. Indices of a palette of greys are grey
            levels.
        window: window inside the mask.
        coding: a key of CHANGE_CODINGS, or EACH.
        threshold: values from here on are "changed", all others "unchanged", but a nodata value
            other than 0 and 255; the coding is not used. For grey or lossy masks, also in colours,
            of which the brightest band counts.

    Returns:
        (h, w) uint8: 1 = changed, 0 = unchanged, IGNORE_INDEX = not labelled (nodata and NaN too).

    Raises:
        MaskError: values outside the coding, or a mask in colours.
    """
    values = _grey_levels(file, window, threshold is not None)
    if (
        threshold is not None
        and values.dtype.kind == "u"
        and threshold > np.iinfo(values.dtype).max
    ):
        raise MaskError(
            f"{file.path}: {values.dtype} values cannot reach the threshold of {threshold:g} in "
            "classes.yaml"
        )
    if threshold is not None:
        change = (values >= threshold).astype(np.uint8)
        if file.nodata not in (None, 0, 255):
            change[values == file.nodata] = NO_MEANING
    else:
        change = np.full(values.shape, NO_MEANING, np.uint8)
        for stored, meant in CHANGE_CODINGS[_own_coding(file, coding)].items():
            change[values == stored] = meant
    gaps = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if file.nodata is not None:
        gaps |= (values == file.nodata) & (change == NO_MEANING)
    change[gaps] = IGNORE_INDEX
    wrong = np.unique(values[change == NO_MEANING])
    if wrong.size:
        allowed = ", ".join(map(str, CHANGE_CODINGS[_own_coding(file, coding)]))
        raise MaskError(f"{file.path}: value(s) {listed(wrong)} where {allowed} are allowed")
    return change


def _own_coding(file: LabelFile, coding: str) -> str:
    """The coding of one file."""
    if file.one_bit:
        return "01"
    if coding != EACH:
        return coding
    return "01" if 1 in _values_or_none(file.path) else "0255"


def _grey_levels(file: LabelFile, window: Window, brightest: bool = False) -> np.ndarray:
    """(h, w) values of a change mask; `brightest` accepts colours."""
    values = file.read(window)
    if file.coloured:
        if not brightest and (values != values[..., :1]).any():
            raise MaskError(f"{file.path}: colours, where a change label has one band")
        return values.max(-1)
    if file.palette is not None and (file.palette == file.palette[:, :1]).all():
        table = np.arange(256, dtype=np.uint8)
        table[: len(file.palette)] = file.palette[:, 0]
        return table[values]
    return values


def _values_or_none(path: Path) -> frozenset[float]:
    try:
        stat = path.stat()
        return _values(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, LabelError):
        return frozenset()


@lru_cache(maxsize=1 << 16)
def _values(path: Path, size: int, time: int) -> frozenset[float]:
    """Set of values of a mask; `size` and `time` of the file are part of the cache key."""
    file = open_label(path)
    if file.one_bit:
        return frozenset()
    found = (unique(_grey_levels(file, window)) for window in strips(file))
    return frozenset().union(*(values.tolist() for values in found))
