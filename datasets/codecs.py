"""Decodes label files to class indices and image files to pixels. All codings are defined here.

A label file holds 0 = unchanged and 1..K = class; a Sample holds classes 0..K-1 and a change map.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from utils.rasters.gdal import rasterio
from utils.rasters.reading import Raster, decoding, open_raster, strips
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Palette = Sequence[tuple[int, int, int]]

# codings of change labels: value in the file -> value in a Sample
CHANGE_CODINGS = {"01": {0: 0, 1: 1, 255: IGNORE_INDEX}, "0255": {0: 0, 255: 1}}

UNKNOWN = 255  # in the colour table: colour not in the palette


class LabelError(ValueError):
    """A label file that can be decoded but holds values without a class."""


def decode(masks: Array) -> tuple[Array, Array]:
    """Converts stored class indices to `semantic` and `change`.

    Args:
        masks: (..., T, H, W) uint8, 0 = unchanged, 1..K = class.

    Returns:
        semantic (..., T, H, W) uint8 in 0..K-1, 255 where unchanged; change (..., H, W) uint8,
        1 = changed, taken from date 1.
    """
    semantic = masks - 1  # uint8: 0 wraps to 255 = IGNORE_INDEX
    return semantic, _uint8(masks[..., 0, :, :] != 0)


def encode(semantic: Array, change: Array) -> Array:
    """The inverse of `decode`: class + 1 where changed, 0 elsewhere.

    Args:
        semantic: (..., T, H, W) integers in 0..K-1, or 255.
        change: (..., H, W) integers or bool, 1 = changed.

    Returns:
        (..., T, H, W) uint8.
    """
    return (_uint8(semantic) + 1) * _uint8(change == 1)[..., None, :, :]  # uint8: 255 wraps to 0


def _uint8(values: Array) -> Array:
    return values.to(torch.uint8) if torch.is_tensor(values) else values.astype(np.uint8)


def read_label(path: Path | str, palette: Palette) -> np.ndarray:
    """Reads a label file that holds indices or colours.

    Single-band files hold indices. RGB(A) files are converted with the palette; colours must match
    exactly. Palette files that use only colours of `palette`, in another order, are also converted
    by colour (PNG optimisers write such files). The indices of other palette files are used as is.

    Args:
        path: PNG, TIFF, or another format that PIL reads.
        palette: K + 1 RGB colours in 0..255; the first is "unchanged".

    Returns:
        (H, W) uint8 in 0..K.

    Raises:
        LabelError: a value above K or a colour that is not in the palette.
        OSError: the file cannot be decoded.
    """
    pixels, coded = read_stored(path, palette)
    if coded:
        return from_colours(path, pixels, palette)
    return _from_indices(path, pixels, len(palette) - 1)


def read_stored(path: Path | str, palette: Palette = ()) -> tuple[np.ndarray, bool]:
    """Reads the raw values of a label file.

    Args:
        path: PNG, TIFF, or another format that PIL reads.
        palette: RGB colours in 0..255. A palette file that uses only these colours, at other
            indices, is read as colours. Empty: palette files are always read as indices.

    Returns:
        Integers (H, W) and False, or colours (H, W, 3) uint8 and True.

    Raises:
        LabelError: floating-point values, or several bands that are not RGB.
        OSError: the file cannot be decoded.
    """
    with decoding(path), _open(path) as image:
        if image.mode == "LA":
            image = image.getchannel("L")
        coded = image.mode in ("RGB", "RGBA", "RGBX")
        if image.mode == "P" and palette:
            coded = _other_order(image, palette)
        pixels = np.array(image.convert("RGB") if coded else image)
    if not coded and pixels.ndim != 2:
        raise LabelError(f"{path}: {pixels.shape[-1]} bands; a label has one, or is RGB")
    if pixels.dtype.kind == "f":
        raise LabelError(f"{path}: floating-point values; store class indices as 8-bit integers")
    return pixels, coded


def read_image(path: Path | str) -> np.ndarray:
    """Reads an image as 8-bit RGB; only the first three bands of a TIFF with more.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: more than 8 bits per band.
        OSError: the file cannot be decoded.
    """
    with decoding(path), _open(path) as image:
        bits = getattr(image, "tag_v2", {}).get(258, (8,))  # TIFF tag 258: bits per sample
        deep = image.mode in ("I", "F") or image.mode.startswith("I;16") or max(bits) > 8
        pixels = None if deep else np.array(image.convert("RGB"))
    if pixels is None or pixels.dtype != np.uint8:
        raise ValueError(
            f"{path}: more than 8 bits a band, where this layout has 8-bit RGB. Scale it first, "
            "such as with: gdal_translate -ot Byte -scale IN OUT"
        )
    return pixels


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) in pixels; reads only the header."""
    with decoding(path):
        if Path(path).suffix.lower() in (".tif", ".tiff"):  # PIL cannot open every TIFF
            with rasterio().open(path) as file:
                return file.shape
        with _open(path) as image:
            return image.height, image.width


def find_coding(paths: Iterable[Path], coding: str = "auto") -> str:
    """Finds the coding of the change labels of a data set, a key of CHANGE_CODINGS.

    The value 255 is ambiguous: it means "changed" or "not labelled". Therefore all labels are read:
    if any holds a 1, the coding is "01", otherwise "0255".

    Args:
        paths: all label files of the data set; unreadable files are skipped.
        coding: "auto", or a key of CHANGE_CODINGS, which is returned.

    Raises:
        ValueError: an unknown coding.
    """
    if coding in CHANGE_CODINGS:
        return coding
    if coding != "auto":
        choices = ", ".join(("auto", *CHANGE_CODINGS))
        raise ValueError(f"--label-coding {coding!r} is not known; choose from {choices}")
    return "01" if 1 in values_of_labels(paths) else "0255"


def values_of_labels(paths: Iterable[Path]) -> set[float]:
    """Set of all values in some change labels; unreadable files are skipped."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return set().union(*pool.map(_values_or_none, paths))


def read_change(raster: Raster, window: Window, coding: str) -> np.ndarray:
    """Reads a window of a change label.

    Args:
        raster: label opened with `indices=True`; one band, or several equal bands.
        window: window inside the label.
        coding: a key of CHANGE_CODINGS.

    Returns:
        (h, w) uint8: 1 = changed, 0 = unchanged, IGNORE_INDEX = not labelled.

    Raises:
        LabelError: values outside the coding, or a label in colours.
    """
    values = _stored_change(raster, window)
    change = np.full(values.shape, UNKNOWN - 1, np.uint8)
    for stored, meant in CHANGE_CODINGS[coding].items():
        change[values == stored] = meant
    wrong = np.unique(values[change == UNKNOWN - 1])
    if wrong.size:
        allowed = ", ".join(map(str, CHANGE_CODINGS[coding]))
        raise LabelError(f"{raster.path}: value(s) {_listed(wrong)} where {allowed} are allowed")
    return change


def _stored_change(raster: Raster, window: Window) -> np.ndarray:
    """(h, w) raw values of a change label; an alpha band is ignored."""
    bands = raster.read(window, range(3 if raster.count in (3, 4) else 1))
    if (bands != bands[:1]).any():
        raise LabelError(f"{raster.path}: colours, where a change label has one band")
    return bands[0]


def _values_or_none(path: Path) -> frozenset[float]:
    try:
        stat = path.stat()
        return _values(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, LabelError):
        return frozenset()


@lru_cache(maxsize=1 << 16)
def _values(path: Path, size: int, time: int) -> frozenset[float]:
    """Set of values of a label; `size` and `time` of the file are part of the cache key."""
    raster = open_raster(path, indices=True)
    found = (np.unique(_stored_change(raster, window)) for window in strips(raster))
    return frozenset().union(*(values.tolist() for values in found))


def _open(path: Path | str) -> Image.Image:
    try:
        return Image.open(path)
    except Image.UnidentifiedImageError:
        if Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise ValueError("not an image, or cut off at its head") from None
        return _open_tiff(path)


def _open_tiff(path: Path | str) -> Image.Image:
    """Opens a TIFF that PIL cannot read (such as many bands): one band or the first three."""
    with rasterio().open(path) as file:
        pixels = file.read(list(range(1, 4 if file.count >= 3 else 2)))
    if pixels.dtype == np.uint8:
        return Image.fromarray(pixels.transpose(1, 2, 0).squeeze(2 if len(pixels) == 1 else ()))
    if len(pixels) > 1:
        raise ValueError(f"{pixels.dtype} bands; 8-bit ones are read")
    return Image.fromarray(pixels[0].astype(np.float32 if pixels.dtype.kind == "f" else np.int32))


def _other_order(image: Image.Image, palette: Palette) -> bool:
    """Whether a palette file uses only colours of `palette`, and some at another index."""
    values = np.flatnonzero(image.histogram()[:256])
    colours = np.array(image.getpalette("RGB") or ()).reshape(-1, 3)
    if not len(values) or values[-1] >= len(colours):
        return False
    used = _colour_table(tuple(palette))[_pack(colours[values])]
    return bool((used != UNKNOWN).all() and (used != values).any())


def from_colours(path: Path | str, pixels: np.ndarray, palette: Palette) -> np.ndarray:
    """Converts colours (H, W, 3) uint8 to palette indices (H, W) uint8.

    Raises:
        LabelError: a colour is not in the palette.
    """
    packed = _pack(pixels)
    index = _colour_table(tuple(palette))[packed]
    unknown = packed[index == UNKNOWN]
    if unknown.size:
        values, counts = np.unique(unknown, return_counts=True)
        most = int(values[counts.argmax()])
        raise LabelError(
            f"{path}: {unknown.size} pixels in {values.size} colour(s) that are not in the "
            f"palette, most of them RGB ({most >> 16}, {most >> 8 & 255}, {most & 255})"
        )
    return index


def _from_indices(path: Path | str, pixels: np.ndarray, num_classes: int) -> np.ndarray:
    if pixels.size and (pixels.max() > num_classes or pixels.min() < 0):
        values = np.unique(pixels)
        wrong = values[(values > num_classes) | (values < 0)]
        shown = _listed(wrong)
        binary = num_classes > 1 and wrong.tolist() == [255] and values.size <= 2
        hint = " (0/255 is a change mask, it has no classes)" if binary else ""
        raise LabelError(f"{path}: value(s) {shown} where 0..{num_classes} is allowed{hint}")
    return pixels.astype(np.uint8)


def refuse_unknown(
    path: Path | str, stored: np.ndarray, classes: np.ndarray, num_classes: int, allowed: str
) -> None:
    """Raises LabelError if a decoded value is neither a class 0..K-1 nor IGNORE_INDEX.

    Args:
        path: path of the label.
        stored: (H, W) values in the file.
        classes: (H, W) uint8, decoded values.
        num_classes: K.
        allowed: allowed stored values in words, for the error message.
    """
    wrong = np.unique(stored[(classes >= num_classes) & (classes != IGNORE_INDEX)])
    if wrong.size:
        raise LabelError(f"{path}: value(s) {_listed(wrong)} where {allowed} is allowed")


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if values.size > 8 else "")


def _pack(colours: np.ndarray) -> np.ndarray:
    """Packs colours (..., 3) in 0..255 into 24-bit integers (...)."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


@lru_cache(maxsize=2)
def _colour_table(palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(2^24,) uint8 look-up table (16 MiB): packed colour -> palette index or UNKNOWN."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    table[_pack(np.array(palette))] = np.arange(len(palette))
    return table
