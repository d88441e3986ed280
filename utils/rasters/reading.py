"""Reads image files of any format: size, bands, georeference, and windows of pixels.

PNG, JPEG and BMP are decoded as a whole, once; other formats (GeoTIFF, ENVI, VRT, ...) are read
window by window.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.rasters.gdal import rasterio
from utils.rasters.raster import MemoryRaster, Raster, Units
from utils.rasters.windows import Window

PIL_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
STRIP_PX = 1 << 20  # pixels in memory at a time while a whole image is streamed
# PIL mode -> (mode after conversion, bands, dtype); palettes become colours
_MODES = {
    "1": ("L", 1, "uint8"),
    "L": ("L", 1, "uint8"),
    "LA": ("L", 1, "uint8"),
    "I;16": ("I;16", 1, "uint16"),
    "I;16B": ("I", 1, "int32"),
    "I": ("I", 1, "int32"),
    "F": ("F", 1, "float32"),
}


class FileRaster(Raster):
    """A file read by rasterio, open as long as this object exists."""

    def __init__(self, path: Path | str):
        with decoding(path):
            self._file = rasterio().open(path)
            _refuse_short(self._file, Path(path))
        file = self._file
        super().__init__(path, (file.count, *file.shape), np.result_type(*file.dtypes))
        self.crs = file.crs
        self.transform = None if file.transform.is_identity else file.transform
        self._find_nodata()

    def _find_nodata(self) -> None:
        """Sets `nodata` and `alpha`, and whether the file has a mask."""
        file = self._file
        some = any(value is not None for value in file.nodatavals)
        self.nodata = file.nodatavals if some else ()
        self._colours = [colour.name for colour in file.colorinterp]
        self.alpha = self._colours.index("alpha") if "alpha" in self._colours else None
        flags = {flag.name for flags in file.mask_flag_enums for flag in flags}
        self._has_mask = "per_dataset" in flags and self.alpha is None

    @property
    def may_have_gaps(self) -> bool:
        """See Raster."""
        return self._has_mask or super().may_have_gaps

    @property
    def palette(self) -> np.ndarray | None:
        """(N, 3) uint8 colours of the indices of a file of one band; None if it has none."""
        if self.count != 1 or self._file.colorinterp[0].name != "palette":
            return None
        colours = self._file.colormap(1)
        return np.array([colours[index][:3] for index in sorted(colours)], np.uint8)

    @property
    def names(self) -> Sequence[str | None]:
        """See Raster; descriptions, or else colours."""
        texts = self._file.descriptions
        if any(texts):
            return [text.strip().lower() if text else None for text in texts]
        known = ("red", "green", "blue", "nir")
        return [name if name in known else None for name in self._colours]

    @property
    def points(self) -> Sequence[tuple[float, float, float, float]]:
        """See Raster."""
        return [(point.row, point.col, point.x, point.y) for point in self._file.gcps[0]]

    def units(self, bands: Sequence[int]) -> Units | None:
        """See Raster; the tags `scale` and `offset`."""
        file = self._file
        found = Units.of(*([of[band] for band in bands] for of in (file.scales, file.offsets)))
        return None if found.are_plain else found

    @property
    def one_bit(self) -> bool:
        """Whether the file can only hold 0 and 1."""
        return self._file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == "1"

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        region = rasterio().windows.Window(window.left, window.top, window.width, window.height)
        with decoding(self.path):
            return self._file.read([band + 1 for band in bands], window=region)

    def masked(self, window: Window, bands: Sequence[int]) -> np.ndarray | None:
        """See Raster."""
        region = rasterio().windows.Window(window.left, window.top, window.width, window.height)
        with decoding(self.path):
            if self.alpha is not None and self.alpha not in bands:
                return self._file.read(self.alpha + 1, window=region) == 0
            if self._has_mask:
                return self._file.read_masks(bands[0] + 1, window=region) == 0
        return None


def open_raster(path: Path | str, indices: bool = False) -> Raster:
    """Opens an image file; its pixels are read later.

    Args:
        path: any format of PIL or GDAL; of an ENVI pair, the file without .hdr.
        indices: read the indices of a palette file, not its colours (for labels). If the palette
            has only greys, grey values are read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file is no image, or truncated.
    """
    if Path(path).suffix.lower() in PIL_SUFFIXES:
        return _open_pil(path, indices)
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no {path}")
    return FileRaster(path)


def read_padded(
    raster: Raster,
    window: Window,
    bands: Sequence[int],
    fill: float | None = None,
    rows: tuple[int, int] | None = None,
) -> np.ndarray:
    """Pixels (C, h, w) of a window that may reach beyond the edges.

    Args:
        raster: the image.
        window: in pixels of the image.
        bands: numbered from 0.
        fill: value of pixels outside; None reflects the image, repeatedly if the window is larger
            than the image.
        rows: (start, stop) of the rows that count as the image; None = all.
    """
    inner, ys, xs = _inside(raster, window, rows)
    pixels = raster.read(inner, bands)
    if inner != window:
        pixels = pixels[:, ys][:, :, xs]
        if fill is not None:
            pixels[:, beyond(window, rows or (0, raster.height), raster.width)] = fill
    return pixels


def read_valid(
    raster: Raster,
    window: Window,
    bands: Sequence[int],
    rows: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """As `read_padded`; and (h, w) bool, True where there are data, or None: everywhere."""
    inner, ys, xs = _inside(raster, window, rows)
    pixels = raster.read(inner, bands)
    valid = raster.valid(inner, bands, pixels)
    if inner != window:
        pixels = pixels[:, ys][:, :, xs]
        valid = None if valid is None else valid[ys][:, xs]
    return pixels, valid


_NONE = np.zeros(0, int)


def _inside(
    raster: Raster, window: Window, rows: tuple[int, int] | None
) -> tuple[Window, np.ndarray, np.ndarray]:
    """The smallest window of the image that `window` reflects; its rows and columns to take.

    A window inside the image is itself; then no rows and columns are needed.
    """
    start, stop = rows or (0, raster.height)
    bottom, right = window.top + window.height, window.left + window.width
    if start <= window.top and bottom <= stop and window.left >= 0 and right <= raster.width:
        return window, _NONE, _NONE
    ys = start + _reflected(window.top - start, window.height, stop - start)
    xs = _reflected(window.left, window.width, raster.width)
    inner = Window(int(ys.min()), int(xs.min()), int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1)
    return inner, ys - inner.top, xs - inner.left


def beyond(window: Window, rows: tuple[int, int], width: int) -> np.ndarray:
    """(h, w) bool: pixels of a window outside of an image with these rows and this width."""
    ys = np.arange(window.top, window.top + window.height)
    xs = np.arange(window.left, window.left + window.width)
    outside = (ys < rows[0]) | (ys >= rows[1])
    return outside[:, None] | ((xs < 0) | (xs >= width))[None]


def strips(raster: Raster) -> Iterator[Window]:
    """Yields windows of full rows that cover an image, from top to bottom."""
    rows = max(1, STRIP_PX // raster.width)
    for top in range(0, raster.height, rows):
        yield Window(top, 0, min(rows, raster.height - top), raster.width)


@contextmanager
def decoding(path: Path | str) -> Iterator[None]:
    """Context manager that turns any error of a decoder into an OSError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # rasterio puts the reason into the cause
        raise OSError(f"{path}: {cause}") from error


def _open_pil(path: Path | str, indices: bool) -> Raster:
    with decoding(path):
        try:
            image = Image.open(path)
        except Image.UnidentifiedImageError:
            raise ValueError("not an image, or cut off at its head") from None
    with image:
        if image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA") and _is_deep(image):
            return FileRaster(path)  # PIL would reduce it to 8 bits
        mode, count, dtype = _MODES.get(image.mode, ("RGB", 3, "uint8"))
        if image.mode == "P" and indices:
            mode, count = ("L" if _all_grey(image) else "P"), 1
        elif image.mode in ("LA", "RGBA") and not indices:
            mode = image.mode  # alpha says where there are data
        shape = (count, image.height, image.width)

    def read_pixels() -> np.ndarray:
        with decoding(path), Image.open(path) as image:
            pixels = np.array(image if image.mode in ("1", mode) else image.convert(mode), dtype)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    raster = MemoryRaster(path, shape, dtype, read_pixels)
    raster.alpha = count if mode in ("LA", "RGBA") else None
    return raster


def _is_deep(image: Image.Image) -> bool:
    """Whether a PNG has 16 bits a band."""
    return bool(image.tile) and "16" in str(image.tile[0][3])


def _all_grey(image: Image.Image) -> bool:
    colours = np.array(image.getpalette("RGB") or ()).reshape(-1, 3)
    return bool(len(colours)) and bool((colours == colours[:, :1]).all())


def _refuse_short(file: Any, path: Path) -> None:
    """Raises OSError for a truncated ENVI file, which GDAL would fill with zeros."""
    if file.driver != "ENVI":
        return
    tags = {key.replace(" ", "_"): value for key, value in file.tags(ns="ENVI").items()}
    packed = tags.get("file_compression", "0").strip() not in ("", "0")
    offset = int(tags.get("header_offset", "0"))
    needed = offset + file.count * file.height * file.width * np.dtype(file.dtypes[0]).itemsize
    if not packed and path.stat().st_size < needed:
        raise OSError(f"cut off: {path.stat().st_size} bytes where its header asks for {needed}")


def _reflected(start: int, length: int, size: int) -> np.ndarray:
    """(length,) indices in 0..size - 1, as in numpy's padding mode "reflect"."""
    period = max(1, 2 * (size - 1))
    steps = np.arange(start, start + length) % period
    return np.minimum(steps, period - steps) if size > 1 else np.zeros(length, int)
