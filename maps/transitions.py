"""From-to codes of a pixel: 0 = unchanged, otherwise 1 + (from - 1) * K + (to - 1).

`from` and `to` are classes 1..K of date 1 and date 2. A pixel that changed within a class (to =
from) also has a code. A binary change (K = 0) has codes 0 and 1. Pixels without data have the
largest value of the type: 255, or 65535 if K * K codes need 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.colour_vision import distinct_colours
from utils.rasters.gdal import rasterio
from utils.structures import IGNORE_INDEX, Scheme

if TYPE_CHECKING:
    import torch
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

    Array = np.ndarray | torch.Tensor

Rgb = tuple[int, int, int]

MAX_CLASSES = 254  # 255 is IGNORE_INDEX in maps of classes; 254 * 254 codes fit into 16 bits


def num_codes(num_classes: int) -> int:
    """Number of codes, including "unchanged": 1 + K * K, or 2 without classes.

    Raises:
        ValueError: K is not in 0..254.
    """
    if not 0 <= num_classes <= MAX_CLASSES:
        raise ValueError(
            f"{num_classes} classes: codes exist for 0..{MAX_CLASSES}; merge classes (classes.yaml)"
        )
    return 1 + max(1, num_classes**2)


def code_dtype(num_classes: int) -> np.dtype:
    """The smallest type for all codes and the nodata value: uint8 up to K = 15, else uint16."""
    return np.dtype(np.uint8 if num_codes(num_classes) <= IGNORE_INDEX else np.uint16)


def nodata_code(num_classes: int) -> int:
    """The code of pixels without data: 255, or 65535."""
    return int(np.iinfo(code_dtype(num_classes)).max)


def to_codes(date1: Array, date2: Array, num_classes: int, change: Array | None = None) -> Array:
    """Classes of two dates -> codes.

    Args:
        date1: integers of any shape: 0 = unchanged, 1..K = class, IGNORE_INDEX = no data; numpy or
            torch.
        date2: the same.
        num_classes: K, at least 1.
        change: 1 = changed, 0 = unchanged, IGNORE_INDEX = no data; needed if unchanged pixels have
            classes. None: pixels with a class at both dates are changed.

    Returns:
        Codes of the same shape and kind: numpy arrays of `code_dtype`, torch tensors of int64.

    Raises:
        ValueError: shapes differ, a class above K, or a changed pixel without a class.
    """
    _check_classes(num_classes)
    date1, date2 = _widened(date1), _widened(date2)
    mask = (date1 != 0) if change is None else _widened(change)
    shapes = {tuple(array.shape) for array in (date1, date2, mask)}
    if len(shapes) > 1:
        raise ValueError(f"maps of different shapes {sorted(shapes)}; all must be of one grid")
    changed = (date1 != 0) & (date2 != 0) if change is None else mask == 1
    void = (date1 == IGNORE_INDEX) | (date2 == IGNORE_INDEX)
    if change is not None:
        void = void | (mask == IGNORE_INDEX)
    changed = changed & ~void
    _check_range(changed & (_outside(date1, num_classes) | _outside(date2, num_classes)))
    codes = (1 + (date1 - 1) * num_classes + (date2 - 1)) * changed
    codes[void] = nodata_code(num_classes)
    return codes.astype(code_dtype(num_classes)) if isinstance(codes, np.ndarray) else codes


def from_codes(codes: Array, num_classes: int) -> tuple[Array, Array]:
    """Codes -> classes of date 1 and date 2: the inverse of `to_codes`.

    Args:
        codes: integers of any shape; numpy or torch.
        num_classes: K, at least 1.

    Returns:
        Two arrays of 0 = unchanged, 1..K, or IGNORE_INDEX = no data: uint8 (numpy), int64 (torch).

    Raises:
        ValueError: a value that is no code.
    """
    _check_classes(num_classes)
    codes = _widened(codes)
    void = codes == nodata_code(num_classes)
    _check_range(~void & ((codes < 0) | (codes >= num_codes(num_classes))))
    changed, index = (codes > 0) & ~void, codes - 1
    dates = []
    for date in (index // num_classes + 1, index % num_classes + 1):
        date = date * changed
        date[void] = IGNORE_INDEX
        dates.append(date.astype(np.uint8) if isinstance(date, np.ndarray) else date)
    return dates[0], dates[1]


def pair(code: int, num_classes: int) -> tuple[int, int]:
    """Classes (from, to) of one code, each 1..K; (0, 0) for code 0 or without classes."""
    if code == 0 or num_classes == 0:
        return 0, 0
    return (code - 1) // num_classes + 1, (code - 1) % num_classes + 1


def names(scheme: Scheme) -> list[str]:
    """Names of the codes 0, 1, ... for legends: "unchanged", "water to ground", ..."""
    if not scheme.classes:
        return ["unchanged", "changed"]
    pairs = [(a, b) for a in scheme.classes for b in scheme.classes]
    return ["unchanged", *(f"{a} to {b}" if a != b else f"within {a}" for a, b in pairs)]


def palette(scheme: Scheme) -> tuple[Rgb, ...]:
    """RGB in 0..255 of the codes 0, 1, ..., also distinguishable with colour blindness.

    The hue depends on the class of date 2, from blue to yellow; the colour is lighter the higher
    the class of date 1. A binary change has the colours of its scheme.
    """
    num_classes = scheme.num_classes
    if num_classes == 0:
        return tuple(scheme.palette[:2])
    return (scheme.palette[0], *_families(num_classes))


@lru_cache
def _families(num_classes: int) -> tuple[Rgb, ...]:
    """K * K colours by code: columns (class of date 2) from blue to yellow, rows dark to light."""
    colours = distinct_colours(num_classes**2)
    size = num_classes
    columns = [colours[to * size : (to + 1) * size] for to in range(size)]
    return tuple(columns[to][origin] for origin in range(size) for to in range(size))


def strips(file: DatasetReader, pixels: int) -> Iterator[Window]:
    """Yields windows of whole rows, of about `pixels` pixels; no block is read twice."""
    block = file.block_shapes[0][0]
    rows = max(block, pixels // file.width // block * block)
    for top in range(0, file.height, rows):
        yield rasterio().windows.Window(0, top, file.width, min(rows, file.height - top))


def read_codes(
    file: DatasetReader, window: Window | None, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a window (None: all) of a map of codes, an open rasterio file.

    Returns:
        (h, w) codes, 0 where there is no data; and (h, w) bool, True where there is data.

    Raises:
        ValueError: a value that is no code.
    """
    codes = file.read(1, window=window)
    valid = np.ones(codes.shape, bool) if file.nodata is None else codes != file.nodata
    codes = np.where(valid, codes, 0)
    limit = num_codes(scheme.num_classes)
    bad = codes[(codes < 0) | (codes >= limit)]
    if bad.size:
        raise ValueError(
            f"{file.name} holds {bad[0]}, but codes of {scheme.num_classes} classes lie in "
            f"0..{limit - 1}; was it made with another checkpoint?"
        )
    return codes, valid


def _widened(array: Array) -> Array:
    """The array as int64, so that differences and products do not overflow."""
    return array.astype(np.int64) if isinstance(array, np.ndarray) else array.long()


def _outside(date: Array, num_classes: int) -> Array:
    return (date < 1) | (date > num_classes)


def _check_classes(num_classes: int) -> None:
    if num_classes == 0:
        raise ValueError("a binary change has no classes; its change mask holds the codes already")
    num_codes(num_classes)


def _check_range(bad: Array) -> None:
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} pixels hold a value outside of the classes or codes; are maps and "
            "scheme of one run?"
        )
