"""Reads the images of a map as rows of pixels on the grid of date 1, with masks of valid data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.bands import GREY
from datasets.sentinel.reader import scale_s1, scale_s2
from maps.image_checks import (
    bands_to_read,
    check_type,
    describe_grids,
    refuse_cut,
    refuse_other_counts,
)
from utils.rasters.gdal import rasterio
from utils.rasters.reading import FileRaster, Raster, decoding, read_padded
from utils.rasters.statistics import mean_and_std, to_grey
from utils.rasters.windows import Window
from utils.schemes import S1_BANDS, S2_BANDS
from utils.structures import Scheme

TOLERANCE_PX = 0.01  # error of a warped pixel's position, in pixels of the source image
Moments = list[tuple[np.ndarray, np.ndarray]]


class GridImage(FileRaster):
    """An image on its own grid or, warped on the fly (bilinear), on the grid of another raster.

    Its last band, number `count - 1`, is a mask in the image's type: 1 = data, 0 = no data. A pixel
    has no data where alpha or a mask is 0, outside of a warped image, and where a band that is read
    has its nodata value or is not finite. In 8-bit images, where 0 is also a dark colour, all bands
    that are read must have their nodata value.

    Args:
        path: the image.
        grid: raster whose grid is used; None = the image's own.

    Raises:
        OSError: the file is missing, no image, or truncated.
    """

    def __init__(self, path: Path, grid: Raster | None = None):
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no {path}; check the path")
        super().__init__(path)
        with decoding(path):
            refuse_cut(self._file, Path(path))
        self.colours = [i for i, c in enumerate(self._file.colorinterp) if c.name != "alpha"]
        self.bands_of_file, self.count = self.count, len(self.colours) + 1
        self._alpha = None  # 1-based number of the alpha band of a warped image
        self._nodata = self._file.nodatavals
        if grid is not None:
            self._warp(grid)

    def _warp(self, grid: Raster) -> None:
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        with decoding(self.path):
            self._file = WarpedVRT(
                self._file,
                crs=grid.crs,
                transform=grid.transform,
                height=grid.height,
                width=grid.width,
                resampling=Resampling.bilinear,
                tolerance=TOLERANCE_PX,
                **self._gaps(),
            )
        kinds = [c.name for c in self._file.colorinterp]
        if "alpha" in kinds:
            self._alpha = kinds.index("alpha") + 1
        else:
            self._nodata = self._file.nodatavals
        self.height, self.width = grid.height, grid.width
        self.crs, self.transform = grid.crs, grid.transform

    def _gaps(self) -> dict[str, Any]:
        """Options of WarpedVRT for pixels without data: per band, or one alpha band for all."""
        flags = {flag.name for flags in self._file.mask_flag_enums for flag in flags}
        if self.dtype == np.uint8 or flags != {"nodata"}:
            add_alpha = all(c.name != "alpha" for c in self._file.colorinterp)
            return {"add_alpha": add_alpha, "UNIFIED_SRC_NODATA": "YES"}
        return {"nodata": self._nodata[0], "UNIFIED_SRC_NODATA": "NO"}

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        region = rasterio().windows.Window(window.left, window.top, window.width, window.height)
        last = self.count - 1
        chosen = [self.colours[band] + 1 for band in bands if band != last]
        with decoding(self.path):
            pixels = self._file.read(chosen, window=region)
            if last not in bands:
                return pixels
            valid = self._valid(pixels, chosen, region)
        return np.concatenate([pixels, valid[None].astype(pixels.dtype)])

    def _valid(self, pixels: np.ndarray, chosen: Sequence[int], region: Any) -> np.ndarray:
        """(h, w) bool: pixels with data."""
        flags = [flag.name for flag in self._file.mask_flag_enums[chosen[0] - 1]]
        missing = self.missing(pixels, chosen)
        valid = ~(missing.all(0) if self.dtype == np.uint8 else missing.any(0))
        if self._alpha is not None:
            return valid & (self._file.read(self._alpha, window=region) > 0)
        if "alpha" in flags or "per_dataset" in flags:
            return valid & (self._file.read_masks(chosen[0], window=region) > 0)
        return valid

    def missing(self, pixels: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
        """(C, h, w) bool: nodata or non-finite values. `chosen`: band numbers from 1."""
        nodata = [self._nodata[band - 1] for band in chosen]
        pairs = zip(pixels, nodata, strict=True)
        found = np.array([np.zeros(p.shape, bool) if n is None else p == n for p, n in pairs])
        return found | ~np.isfinite(pixels) if pixels.dtype.kind == "f" else found


class MapReader:
    """Reads rows of a map's images, date 2 on the grid of date 1, prepared for the networks.

    Args:
        images: T paths.
        scheme: of the networks: bands and standardisation. Images are standardised by statistics
            over all valid pixels of the whole image (`measure`).
        bands: file bands to read, in the order of the scheme; None = by the scheme's names.
        strict_grid: refuse a date 2 on another grid.

    Attributes:
        height, width: of date 1, pixels.
        crs, transform: of date 1, or None.
        note: text on the warping of date 2 and its coverage of date 1; None if not warped.
        notes: all notes for the user, each with the name of its file.
        numbers: for each image, the 1-based numbers of the bands that are read.

    Raises:
        FileNotFoundError, OSError: a file is missing, no image, or truncated.
        ValueError: the images do not fit together, or the networks cannot read them.
    """

    def __init__(
        self,
        images: Sequence[Path],
        scheme: Scheme,
        bands: Sequence[str] | None = None,
        strict_grid: bool = False,
    ):
        self.scheme = scheme
        self.images = [GridImage(path) for path in images]
        first, self.note = self.images[0], None
        if bands is None:
            refuse_other_counts(self.images)
        for image in self.images:
            check_type(image, scheme)
        self.bands = [bands_to_read(image, scheme, bands) for image in self.images]
        if len(self.images) == 2:
            self.note = describe_grids(*self.images, strict_grid)
            if self.note is not None:
                self.images[1] = GridImage(images[1], first)
        self.height, self.width = first.height, first.width
        self.crs, self.transform = first.crs, first.transform
        self.moments: Moments | None = None
        self.numbers = [
            [image.colours[band] + 1 for band in bands]
            for image, bands in zip(self.images, self.bands, strict=True)
        ]
        self.notes = [] if self.note is None else [f"{images[1]}: {self.note}"]
        for image in self.images:
            alpha = sorted({*range(image.bands_of_file)} - {*image.colours})
            if alpha:
                self.notes.append(
                    f"{image.path}: band {alpha[0] + 1} is marked as alpha, so it says where there "
                    "are data"
                )

    def measure(self) -> Moments:
        """Mean and standard deviation of the valid pixels of each date, (C, 1, 1) float64."""
        joint, grey = self.scheme.standardise == "joint", self._grey
        pairs = zip(self.images, self.bands, strict=True)
        return [mean_and_std(_Measured(i), b, joint=joint, grey=grey) for i, b in pairs]

    @property
    def _grey(self) -> bool:
        return tuple(self.scheme.bands) == GREY and len(self.bands[0]) == 3

    def rows(self, top: int, height: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """`height` rows from `top` on, `reach` columns; reflected beyond the image's edge.

        Where one date has no data, all dates are set to the mean, so that no change is seen.

        Returns:
            (T, C, h, w), uint8 for 8-bit files if the scheme does not standardise, else float32;
            and (h, w) bool, True where all dates have data.
        """
        window, pixels, valid = Window(top, 0, height, reach), [], True
        for image, bands in zip(self.images, self.bands, strict=True):
            found = read_padded(image, window, [*bands, image.count - 1])
            pixels.append(found[:-1])
            valid = valid & (found[-1] > 0)
        return np.stack([self._prepared(p, date, valid) for date, p in enumerate(pixels)]), valid

    def _prepared(self, pixels: np.ndarray, date: int, valid: np.ndarray) -> np.ndarray:
        """Pixels (C, h, w), scaled and filled, as input of the networks' own normalisation."""
        pixels = self._scaled(pixels)
        pixels = to_grey(pixels) if self._grey else pixels
        if self.scheme.standardise != "none":
            pixels, fill = self._standardised(pixels, date), np.zeros(len(pixels))
        else:
            fill = np.array(self.scheme.mean) * self.scheme.scale
        if pixels.dtype == np.uint8:
            fill = fill.round().astype(np.uint8)
        else:
            pixels = pixels.astype(np.float32, copy=False)
            for band, value in zip(pixels, fill, strict=True):
                band[~np.isfinite(band)] = value
        if not valid.all():
            pixels[:, ~valid] = fill[:, None]
        return pixels

    def _standardised(self, pixels: np.ndarray, date: int) -> np.ndarray:
        """Pixels minus mean, divided by standard deviation; band by band to save memory."""
        result = np.empty(pixels.shape, np.float32)
        moments = [np.broadcast_to(m, (len(pixels), 1, 1)) for m in self.moments[date]]
        for out, band, mean, std in zip(result, pixels, *moments, strict=True):
            out[:] = (band.astype(np.float64) - mean) / std
        return result

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Sentinel-2 digital numbers and Sentinel-1 decibels -> 0..1; other bands unchanged."""
        if self.scheme.bands[0] not in (*S1_BANDS, *S2_BANDS):
            return pixels
        scaled = [
            (scale_s1 if name in S1_BANDS else scale_s2)(band.astype(np.float32))
            for name, band in zip(self.scheme.bands, pixels, strict=True)
        ]
        return np.stack(scaled)


class _Measured(Raster):
    """A GridImage as float32, NaN where it has no data."""

    def __init__(self, image: GridImage):
        super().__init__(image.path, (image.count, image.height, image.width), np.float32)
        self.image = image

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        chosen = [self.image.colours[band] + 1 for band in bands]
        *pixels, valid = self.image.read(window, [*bands, self.image.count - 1])
        pixels, beyond = np.array(pixels), valid == 0
        gaps = self.image.missing(pixels, chosen)
        beyond &= ~gaps.any(0)  # outside or masked: all bands; elsewhere each band has its own gaps
        return np.where(gaps | beyond, np.float32(np.nan), pixels)
