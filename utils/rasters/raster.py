"""Images as rows of pixels: their size, georeference, and which pixels have data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.rasters.windows import Window


class Units(NamedTuple):
    """Physical values of stored ones: stored * scale + offset. Both (C, 1, 1) float64."""

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, scale: Sequence[float], offset: Sequence[float]) -> "Units":
        """From one number for each band."""
        return cls(*(np.array(numbers, float).reshape(-1, 1, 1) for numbers in (scale, offset)))

    def of_band(self, number: int) -> "Units":
        """Of one band, numbered from 0."""
        return Units(self.scale[number], self.offset[number])

    @property
    def are_plain(self) -> bool:
        """Whether stored values are the physical ones."""
        return bool((self.scale == 1).all() and (self.offset == 0).all())


class Raster:
    """An image file, or its pixels in memory.

    Attributes:
        path: the file.
        height, width: in pixels.
        count: number of bands.
        dtype: numpy dtype.
        crs, transform: of rasterio; None if the file has none.
        nodata: for each band, the value of pixels without data, or None; empty: none is declared.
        alpha: index of the band that is marked as alpha; None if there is none.
        names: for each band, what the file calls it, in small letters, or None; empty: nothing.
        points: ground control points, (row, column, x, y) each; empty: none.
    """

    crs: Any = None
    transform: Any = None
    nodata: Sequence[float | None] = ()
    alpha: int | None = None
    names: Sequence[str | None] = ()
    points: Sequence[tuple[float, float, float, float]] = ()

    def __init__(self, path: Path | str, shape: Sequence[int], dtype: Any):
        """`shape`: (bands, height, width)."""
        self.path = path if isinstance(path, Path) else Path(path)
        self.count, self.height, self.width = shape
        self.dtype = np.dtype(dtype)

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """Pixels (C, h, w) of a window inside the image; bands are numbered from 0.

        Raises:
            OSError: the file cannot be decoded.
        """
        raise NotImplementedError

    def masked(self, window: Window, bands: Sequence[int]) -> np.ndarray | None:
        """(h, w) bool: where a mask or alpha says that there are no data; None: nowhere.

        A band marked as alpha that is among `bands` is a measurement.
        """
        return None

    def units(self, bands: Sequence[int]) -> Units | None:
        """What stored values of these bands stand for, as the file says; None: it does not."""
        return None

    @property
    def may_have_gaps(self) -> bool:
        """Whether some pixels may have no data."""
        return bool(self.nodata) or self.dtype.kind == "f" or self.alpha is not None

    def missing(self, pixels: np.ndarray, bands: Sequence[int]) -> np.ndarray | None:
        """(C, h, w) bool: nodata values and numbers that are not finite; None: nowhere."""
        declared = [self.nodata[band] for band in bands] if self.nodata else []
        if any(value is not None for value in declared):
            found = np.zeros(pixels.shape, bool)
            for out, band, value in zip(found, pixels, declared, strict=True):
                if value is not None:
                    np.equal(band, value, out=out)
        elif pixels.dtype.kind != "f":
            return None
        else:
            found = np.zeros(pixels.shape, bool)
        return found | ~np.isfinite(pixels) if pixels.dtype.kind == "f" else found

    def valid(self, window: Window, bands: Sequence[int], pixels: np.ndarray) -> np.ndarray | None:
        """(h, w) bool: pixels with data; None: all.

        A pixel has no data where a mask or alpha is 0, and where a band that is read has its
        nodata value or is not finite. In 8-bit images, where 0 is also a dark colour, all bands
        that are read must have their nodata value.

        Args:
            window: inside the image.
            bands: that are read.
            pixels: as `read` returns them.
        """
        missing, masked = self.missing(pixels, bands), self.masked(window, bands)
        if missing is None:
            return None if masked is None else ~masked
        valid = ~(missing.all(0) if self.dtype == np.uint8 else missing.any(0))
        return valid if masked is None else valid & ~masked


class MemoryRaster(Raster):
    """Pixels in memory, decoded on the first `read`.

    Args:
        path: for error messages.
        shape: (bands, height, width).
        dtype: numpy dtype.
        decode: returns the pixels (bands, height, width); an alpha band that is no band of the
            image comes last.
    """

    def __init__(self, path: Path | str, shape: Sequence[int], dtype: Any, decode: Callable):
        super().__init__(path, shape, dtype)
        self._decode, self._pixels = decode, None

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster; a view if `bands` are consecutive."""
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        return self._whole()[_as_slice(bands), rows, columns]

    def masked(self, window: Window, bands: Sequence[int]) -> np.ndarray | None:
        """See Raster."""
        pixels = self._whole()
        if len(pixels) == self.count:
            return None
        rows = slice(window.top, window.top + window.height)
        return pixels[-1, rows, window.left : window.left + window.width] == 0

    def _whole(self) -> np.ndarray:
        if self._pixels is None:
            self._pixels = self._decode()
        return self._pixels


class JoinedRaster(Raster):
    """Bands of several images of one size as one image."""

    def __init__(self, parts: Sequence[tuple[Raster, Sequence[int]]]):
        first = parts[0][0]
        count = sum(len(bands) for _, bands in parts)
        dtype = np.result_type(*(raster.dtype for raster, _ in parts))
        super().__init__(first.path, (count, first.height, first.width), dtype)
        self._parts = parts

    @classmethod
    def of(
        cls, parts: Sequence[tuple[Raster, Sequence[int]]]
    ) -> tuple["JoinedRaster", Sequence[int]]:
        """Joins bands of images; also returns the indices of all bands."""
        joined = cls(parts)
        return joined, range(joined.count)

    @property
    def may_have_gaps(self) -> bool:
        """See Raster."""
        return any(raster.may_have_gaps for raster, _ in self._parts)

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster; all bands."""
        return np.concatenate([raster.read(window, chosen) for raster, chosen in self._parts])

    def units(self, bands: Sequence[int]) -> Units | None:
        """See Raster; all bands."""
        found = [(raster.units(chosen), len(chosen)) for raster, chosen in self._parts]
        if all(units is None for units, _ in found):
            return None
        known = [Units.of([1] * count, [0] * count) if u is None else u for u, count in found]
        return Units(*map(np.concatenate, zip(*known, strict=True)))

    def masked(self, window: Window, bands: Sequence[int]) -> np.ndarray | None:
        """See Raster."""
        found = [raster.masked(window, chosen) for raster, chosen in self._parts]
        found = [mask for mask in found if mask is not None]
        return np.any(found, axis=0) if found else None

    def missing(self, pixels: np.ndarray, bands: Sequence[int]) -> np.ndarray | None:
        """See Raster; all bands."""
        if not self.may_have_gaps:
            return None
        found, first = [], 0
        for raster, chosen in self._parts:
            values = pixels[first : first + len(chosen)].astype(raster.dtype, copy=False)
            gaps = raster.missing(values, chosen)
            found.append(np.zeros(values.shape, bool) if gaps is None else gaps)
            first += len(chosen)
        return np.concatenate(found)


def _as_slice(bands: Sequence[int]) -> slice | list[int]:
    """Consecutive indices as a slice, with which numpy makes a view."""
    first = bands[0]
    consecutive = list(bands) == list(range(first, first + len(bands)))
    return slice(first, first + len(bands)) if consecutive else list(bands)
