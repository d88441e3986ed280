"""Results of whole scenes, written strip by strip: GeoTIFF, or PNG and npz without georeference.

    with open_strips("a.tif", height, width, "uint8", crs=crs, transform=transform) as out:
        out.write(top, strip)

The file appears only if the block ends without error.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.files import atomic_path
from utils.rasters.gdal import rasterio
from utils.rasters.masks import Palette, write_mask, write_probs

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.io import DatasetWriter
    from rasterio.windows import Window

Arrays = dict[str, np.ndarray]
BLOCK_PX = 256  # side of a GeoTIFF's tiles; strips with a multiple of it are fastest


class StripWriter:
    """Writes a GeoTIFF from strips of rows, in any order; base class of other formats.

    The file is tiled and deflated; BigTIFF if it may exceed 4 GB. GDAL's cache is bounded.

    Args:
        path: the file; parent folders are created.
        height: rows of the raster.
        width: columns of the raster.
        dtype: of the file; float16 is stored as float32 and bool as uint8, for other readers.
        crs: a rasterio CRS, or None.
        transform: an affine transform of rasterio, or None.
        palette: RGB colours in 0..255 of the values, for uint8 and one band.
        nodata: the value of pixels without data.
        bands: number of bands.
        descriptions: a text for each band.
    """

    suffixes: tuple[str, ...] = (".tif", ".tiff")

    def __init__(
        self,
        path: Path | str,
        height: int,
        width: int,
        dtype: np.dtype | type | str,
        *,
        crs: CRS | None = None,
        transform: Affine | None = None,
        palette: Palette | None = None,
        nodata: float | None = None,
        bands: int = 1,
        descriptions: Sequence[str] = (),
    ):
        self.path, self.height, self.width, self.bands = Path(path), height, width, bands
        self.dtype = _stored(np.dtype(dtype))
        self.crs, self.transform, self.nodata = crs, transform, nodata
        self.palette, self.descriptions = palette, tuple(descriptions)
        self._arrived = np.zeros(height, bool)
        if palette is not None and (bands != 1 or self.dtype != np.uint8):
            raise ValueError(f"{path}: a palette needs 1 band of uint8, not {bands} of {dtype}")
        if self.descriptions and len(self.descriptions) != bands:
            raise ValueError(f"{path}: {bands} bands, but {len(self.descriptions)} descriptions")

    def write(self, top: int, strip: np.ndarray) -> None:
        """Writes rows from `top` on.

        Args:
            top: first row, from 0.
            strip: (h, W) or (bands, h, W), of a type that can be cast to the file's.

        Raises:
            ValueError: the strip does not lie in the raster, or its type could lose values.
        """
        strip = np.asarray(strip)
        strip = strip[None] if strip.ndim == 2 else strip
        expected = (self.bands, strip.shape[-2] if strip.ndim > 1 else 0, self.width)
        if strip.shape != expected or not 0 <= top <= self.height - strip.shape[1]:
            raise ValueError(
                f"{self.path}: a strip {strip.shape} at row {top} does not lie in a raster of "
                f"({self.bands}, {self.height}, {self.width})"
            )
        if not np.can_cast(strip.dtype, self.dtype, "same_kind"):
            raise ValueError(
                f"{self.path} holds {self.dtype}; a strip of {strip.dtype} could lose values. "
                "Convert it before."
            )
        self._put(top, strip)
        self._arrived[top : top + strip.shape[1]] = True

    def __enter__(self) -> StripWriter:
        with ExitStack() as stack:
            self._open(stack)
            stack.push(self._end)  # runs before the contexts of _open: an error removes the file
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def _open(self, stack: ExitStack) -> None:
        temporary = stack.enter_context(atomic_path(self.path))
        self._checksums = np.zeros((self.bands, self.height), np.uint32)
        stack.push(lambda kind, *_: None if kind else self._verify(temporary))  # after closing
        self._file = stack.enter_context(_created(temporary, self))

    def _put(self, top: int, strip: np.ndarray) -> None:
        """Stores rows (bands, h, W); band by band, since there may be many."""
        window = self._window(top, strip.shape[1])
        for index, band in enumerate(strip):
            values = np.ascontiguousarray(band, self.dtype)
            self._file.write(values, index + 1, window=window)
            self._checksums[index, top : top + len(values)] = _checksums(values)

    def _window(self, top: int, height: int) -> Window:
        """The rasterio window of full rows."""
        return rasterio().windows.Window(0, top, self.width, height)

    def _verify(self, path: Path) -> None:
        """Reads the file back, because closing it on a full disk may lose rows without an error."""
        try:
            with rasterio().open(path) as file:
                for top in range(0, self.height, BLOCK_PX):
                    window = self._window(top, min(BLOCK_PX, self.height - top))
                    for band, written in enumerate(self._checksums[:, top : top + BLOCK_PX]):
                        if _checksums(file.read(band + 1, window=window)) != written.tolist():
                            raise OSError(f"rows from {top} on differ from what was written")
        except OSError as error:
            raise OSError(
                f"could not write {self.path} ({error}). Is the disk full? Make room, or choose "
                "another output folder."
            ) from error

    def _finish(self) -> None:
        """Writes rows that are not yet on the disk; formats held in memory override it."""

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            return
        if not self._arrived.all():
            missing = np.flatnonzero(~self._arrived)
            raise ValueError(
                f"{self.path}: {len(missing)} of {self.height} rows were never written, the first "
                f"is {missing[0]}"
            )
        self._finish()


class PngStripWriter(StripWriter):
    """Strip writer for a palette PNG, held in memory; a PNG cannot store a georeference."""

    suffixes = (".png",)

    def _open(self, stack: ExitStack) -> None:
        if self.palette is None:
            raise ValueError(f"{self.path}: a PNG of classes needs a palette; give one, or a .tif")
        self._raster = np.zeros((self.height, self.width), self.dtype)

    def _put(self, top: int, strip: np.ndarray) -> None:
        self._raster[top : top + strip.shape[1]] = strip[0]

    def _finish(self) -> None:
        write_mask(self.path, self._raster, self.palette)


class NpzStripWriter(PngStripWriter):
    """Strip writer for P(changed) as .npz: key `change`, (H, W) float16 in 0..1."""

    suffixes = (".npz",)

    def _open(self, stack: ExitStack) -> None:
        if self.bands != 1 or self.dtype.kind != "f":
            raise ValueError(
                f"{self.path}: an .npz holds 1 band of floats, not {self.bands} of {self.dtype}; "
                "choose a .tif"
            )
        self._raster = np.zeros((self.height, self.width), np.float16)

    def _finish(self) -> None:
        write_probs(self.path, change=self._raster)


class RowJoiner:
    """Joins rectangles of a raster, from left to right and top to bottom, into strips of full rows.

    Args:
        height: of the raster.
        width: of the raster.
        multiple: rows of a strip, but for the last; None: as they come.
    """

    def __init__(self, height: int, width: int, multiple: int | None = None):
        self.height, self.width, self.multiple = height, width, multiple
        self._rows: Arrays = {}  # waiting rows above the rectangles of this row
        self._above = 0  # number of waiting rows

    def add(self, top: int, left: int, arrays: Arrays) -> Iterator[tuple[int, Arrays]]:
        """Adds a rectangle, arrays (..., h, w) by name; yields finished strips (..., h, width)."""
        height, width = next(iter(arrays.values())).shape[-2:]
        total = self._above + height
        if width == self.width and not self._above:
            self._rows = arrays
        else:
            if left == 0:
                waiting, self._rows = self._rows, {}
                for name, array in arrays.items():
                    shape = (*array.shape[:-2], total, self.width)
                    self._rows[name] = np.empty(shape, array.dtype)
                    if self._above:
                        self._rows[name][..., : self._above, :] = waiting[name]
            for name, array in arrays.items():
                self._rows[name][..., self._above :, left : left + width] = array
        if left + width < self.width:
            return
        first, step = top - self._above, self.multiple or total
        ready = total if top + height == self.height else total - total % step
        for start in range(0, ready, step):
            rows = slice(start, min(start + step, ready))
            yield first + start, {name: array[..., rows, :] for name, array in self._rows.items()}
        self._above = total - ready
        self._rows = {name: array[..., ready:, :].copy() for name, array in self._rows.items()}


def write_with_georeference_of(
    path: Path | str, values: np.ndarray, palette: Palette, image: Path | str
) -> None:
    """Writes a mask as a GeoTIFF with the CRS and transform of an image.

    Args:
        path: the file, .tif.
        values: (H, W) uint8, below len(palette).
        palette: RGB colours in 0..255.
        image: a file of the same size that GDAL can read.
    """
    with rasterio().open(image) as file:
        georeference = {"crs": file.crs, "transform": file.transform}
    with StripWriter(path, *values.shape, "uint8", palette=palette, **georeference) as out:
        out.write(0, values)


STRIP_WRITERS = (StripWriter, PngStripWriter, NpzStripWriter)


def open_strips(
    path: Path | str, height: int, width: int, dtype: np.dtype | type | str, **options: Any
) -> StripWriter:
    """The writer for the suffix of `path`: .tif, .png or .npz. `options`: as for StripWriter.

    Only a GeoTIFF stores `crs`, `transform`, `nodata` and `descriptions`.

    Raises:
        ValueError: another suffix, or values that the format cannot store.
    """
    suffix = Path(path).suffix.lower()
    for kind in STRIP_WRITERS:
        if suffix in kind.suffixes:
            return kind(path, height, width, dtype, **options)
    known = ", ".join(suffix for kind in STRIP_WRITERS for suffix in kind.suffixes)
    raise ValueError(f"{path}: rasters are not written as {suffix!r}; choose from {known}")


@contextmanager
def _created(path: Path, raster: StripWriter) -> Iterator[DatasetWriter]:
    """An empty GeoTIFF, open for writing."""
    file = rasterio().open(
        path,
        "w",
        driver="GTiff",
        height=raster.height,
        width=raster.width,
        count=raster.bands,
        dtype=raster.dtype.name,
        crs=raster.crs,
        transform=raster.transform,
        nodata=raster.nodata,
        tiled=True,
        blockxsize=BLOCK_PX,
        blockysize=BLOCK_PX,
        compress="deflate",
        predictor=_predictor(raster),
        zlevel=1 if raster.dtype.kind == "f" else 6,  # noise: more effort saves nothing
        BIGTIFF="IF_SAFER",
        interleave="band",  # they are written and read one by one
    )
    with file:
        if raster.palette is not None:
            colours = {value: (*rgb, 255) for value, rgb in enumerate(raster.palette)}
            file.write_colormap(1, colours)
        for band, text in enumerate(raster.descriptions, start=1):
            file.set_band_description(band, text)
        yield file


def _checksums(band: np.ndarray) -> list[int]:
    """CRC-32 of each row of (h, W)."""
    return [zlib.crc32(row) for row in band]


def _predictor(raster: StripWriter) -> int:
    """TIFF predictor for deflate: differences of neighbours, except for class numbers."""
    if raster.palette is not None:
        return 1
    return 3 if raster.dtype.kind == "f" else 2


def _stored(dtype: np.dtype) -> np.dtype:
    """The type in which a file holds `dtype`."""
    return {"float16": np.dtype("float32"), "bool": np.dtype("uint8")}.get(dtype.name, dtype)
