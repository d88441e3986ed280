"""Opens label files. `datasets.labels` decodes classes, `datasets.change_masks` change.

In files written by the programs here, 0 = unchanged and 1..K = class; a Sample holds classes 0..K-1
and a change map.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from utils.rasters.raster import Raster
from utils.rasters.reading import PIL_SUFFIXES, FileRaster, decoding, open_raster, strips
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX

Palette = Sequence[tuple[int, int, int]]

UNCHANGED = 254  # decoded class: the land did not change here, its class is not labelled
UNKNOWN = 255  # in the colour table: colour not in the palette
NO_MEANING = 253  # in look-up tables: the value has no meaning


class LabelError(ValueError):
    """A label file that can be decoded but holds values without a meaning.

    Attributes:
        requirement: that it breaks, a key of `datasets.layout.REQUIREMENTS`.
    """

    requirement = "label values"


class ChangeError(LabelError):
    """Labels of two dates that disagree on where the land changed."""

    requirement = "change differs"


class LabelFile:
    """An open label file: indices, grey levels or colours.

    Attributes:
        path, height, width, crs, transform: see Raster.
        coloured: values are colours (h, w, 3) uint8; otherwise integers (h, w).
        palette: (N, 3) uint8 colours of the indices; None if the file has none.
        one_bit: it can only hold 0 and 1.
        nodata: value of pixels that are not labelled; None if not declared.
    """

    def __init__(self, raster: Raster, palette: np.ndarray | None = None, one_bit: bool = False):
        self.path, self.height, self.width = raster.path, raster.height, raster.width
        self.crs, self.transform, self.one_bit = raster.crs, raster.transform, one_bit
        self.dtype, self.palette = raster.dtype, palette
        self.nodata = raster.nodata[0] if raster.nodata else None
        colours = [band for band in range(raster.count) if band != raster.alpha][:3]
        self.coloured = len(colours) == 3
        self._raster, self._bands = raster, colours if self.coloured else [0]
        if len(colours) == 2 or (self.coloured and raster.count > 4):
            raise LabelError(f"{self.path}: {raster.count} bands; a label has one, or is RGB")
        self._used: np.ndarray | None = None

    def read(self, window: Window) -> np.ndarray:
        """The stored values of a window inside the label.

        Raises:
            OSError: the file cannot be decoded.
        """
        bands = self._raster.read(window, self._bands)
        return np.moveaxis(bands, 0, -1) if self.coloured else bands[0]

    def whole(self) -> np.ndarray:
        """All stored values."""
        return self.read(Window(0, 0, self.height, self.width))

    @property
    def used(self) -> np.ndarray:
        """All values of a file with indices, sorted."""
        if self._used is None:
            found = [unique(self.read(window)) for window in strips(self._raster)]
            self._used = np.unique(np.concatenate(found))
        return self._used


def unique(values: np.ndarray) -> np.ndarray:
    """As `np.unique`, twenty times as fast for bytes."""
    if values.dtype == np.uint8:
        flat = values.ravel()
        pairs = flat[: flat.size // 2 * 2].view(np.uint16)  # half as many to count
        found = np.flatnonzero(np.bincount(pairs))
        return np.unique(np.concatenate([found & 255, found >> 8, flat[-1:]])).astype(np.uint8)
    return np.unique(values)


def open_label(path: Path | str) -> LabelFile:
    """Opens a label file; its values are read later.

    Raises:
        LabelError: several bands that are not RGB.
        FileNotFoundError: there is no such file.
        OSError: the file is no image, or truncated.
    """
    path = Path(path)
    if path.suffix.lower() in PIL_SUFFIXES:
        return _open_pil(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    raster = FileRaster(path)
    return LabelFile(raster, raster.palette, raster.one_bit)


def _open_pil(path: Path) -> LabelFile:
    with decoding(path):
        try:
            image = Image.open(path)
        except Image.UnidentifiedImageError:
            raise ValueError("not an image, or cut off at its head") from None
        palette = _pil_palette(image)
    return LabelFile(_PilLabel(path, image), *palette)


def _pil_palette(image: Image.Image) -> tuple[np.ndarray | None, bool]:
    if image.mode != "P":
        return None, image.mode == "1"
    return np.array(image.getpalette("RGB") or (), np.uint8).reshape(-1, 3), False


class _PilLabel(Raster):
    """A label that PIL decodes, as a whole, on the first `read`."""

    MODES = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "RGB")  # others become L or RGB

    def __init__(self, path: Path, image: Image.Image):
        mode = "L" if image.mode == "LA" else image.mode
        self._mode = mode if mode in self.MODES else "RGB"
        count = 3 if self._mode == "RGB" else 1
        dtype = {"F": "f4", "I": "i4"}.get(self._mode, "u2" if ";" in self._mode else "u1")
        super().__init__(path, (count, image.height, image.width), dtype)
        self._image, self._pixels = image, None

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        if self._pixels is None:
            with decoding(self.path), self._image as image:
                pixels = np.array(image if image.mode == self._mode else image.convert(self._mode))
            self._image = None
            pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
            self._pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        rows = slice(window.top, window.top + window.height)
        return self._pixels[: len(bands), rows, window.left : window.left + window.width]


def read_label(path: Path | str, palette: Palette) -> np.ndarray:
    """Reads a mask of the programs here, which holds indices or colours.

    Single-band files hold indices. RGB(A) files are converted with the palette; colours must match
    exactly. Palette files that use only colours of `palette`, in another order, are also converted
    by colour (PNG optimisers write such files). The indices of other palette files are used as is.

    Args:
        path: PNG, TIFF, or another format that PIL or GDAL reads.
        palette: K + 1 RGB colours in 0..255; the first is "unchanged".

    Returns:
        (H, W) uint8 in 0..K.

    Raises:
        LabelError: a value above K or a colour that is not in the palette.
        OSError: the file cannot be decoded.
    """
    file = open_label(path)
    stored = file.whole()
    if file.coloured:
        return from_colours(path, stored, palette)
    if file.palette is not None and (order := palette_order(file, palette)) is not None:
        return order[stored]
    refuse_floats(file)
    return _from_indices(path, stored, len(palette) - 1)


def refuse_floats(file: LabelFile) -> None:
    """Raises LabelError if a label holds floating-point values."""
    if file.dtype.kind == "f":
        raise LabelError(
            f"{file.path}: floating-point values; store class indices as 8-bit integers"
        )


def palette_order(file: LabelFile, palette: Palette) -> np.ndarray | None:
    """(N,) uint8: index of each colour of a label in `palette`.

    None unless all used are in it, and if `palette` has a colour twice.
    """
    twice = len(set(palette)) < len(palette)
    if twice or not len(file.used) or file.used[-1] >= len(file.palette):
        return None
    order = _colour_table(tuple(palette))[_pack(file.palette)]
    return None if (order[file.used] == UNKNOWN).any() else order


def read_image(path: Path | str) -> np.ndarray:
    """Reads an image as 8-bit RGB; only the first three bands of one with more, grey three times.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: more than 8 bits per band, or two bands.
        OSError: the file cannot be decoded.
    """
    raster = open_raster(path)
    if raster.dtype != np.uint8 or raster.count == 2:
        raise ValueError(
            f"{path}: {raster.count} x {raster.dtype}, where this layout has 8-bit RGB, 8 bits a "
            "band. Scale it first, such as with: gdal_translate -ot Byte -scale IN OUT"
        )
    bands = (0, 1, 2) if raster.count >= 3 else (0, 0, 0)
    pixels = raster.read(Window(0, 0, raster.height, raster.width), bands)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


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
        shown = listed(wrong)
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
        raise LabelError(f"{path}: value(s) {listed(wrong)} where {allowed} is allowed")


def listed(values: np.ndarray) -> str:
    """The first values, for an error message."""
    return ", ".join(map(str, values[:8])) + (", ..." if values.size > 8 else "")


def _pack(colours: np.ndarray) -> np.ndarray:
    """Packs colours (..., 3) in 0..255 into 24-bit integers (...)."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


@lru_cache(maxsize=4)
def _colour_table(palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(2^24,) uint8 look-up table (16 MiB): packed colour -> palette index or UNKNOWN."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    table[_pack(np.array(palette))] = np.arange(len(palette))
    return table
