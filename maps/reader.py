"""Reads the images of a map as rows of pixels on the grid of date 1, with masks of valid data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.preparation import Moments, Preparation
from maps.image_checks import bands_to_read, compare_grids, refuse_cut, refuse_other_counts
from utils.rasters.raster import Raster
from utils.rasters.reading import FileRaster, decoding, read_valid
from utils.rasters.windows import Window
from utils.structures import Scheme

TOLERANCE_PX = 0.01  # error of a warped pixel's position, in pixels of the source image


class GridImage(FileRaster):
    """An image on its own grid or, warped on the fly (bilinear), on the grid of another raster.

    Outside of a warped image there are no data.

    Args:
        path: the image.
        grid: raster whose grid is used; None = the image's own.

    Attributes:
        colours: indices of the bands that are not alpha.

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
        declared = self.nodata
        self._find_nodata()
        if self.alpha is not None:
            self.nodata = declared
        self.height, self.width = grid.height, grid.width
        self.crs, self.transform = grid.crs, grid.transform

    def _gaps(self) -> dict[str, Any]:
        """Options of WarpedVRT for pixels without data: per band, or one alpha band for all."""
        flags = {flag.name for flags in self._file.mask_flag_enums for flag in flags}
        if self.dtype == np.uint8 or flags != {"nodata"}:
            add_alpha = all(c.name != "alpha" for c in self._file.colorinterp)
            return {"add_alpha": add_alpha, "UNIFIED_SRC_NODATA": "YES"}
        return {"nodata": self.nodata[0], "UNIFIED_SRC_NODATA": "NO"}


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
        self.scheme, self.prepare = scheme, Preparation(scheme)
        self.images = [GridImage(path) for path in images]
        first, self.note = self.images[0], None
        if bands is None:
            refuse_other_counts(self.images)
        for image in self.images:
            self.prepare.check_type(image.path, image.dtype)
        self.bands = [
            [image.colours[i] for i in bands_to_read(image, scheme, bands)] for image in self.images
        ]
        if len(self.images) == 2:
            self.note = compare_grids(*self.images, strict_grid)
            if self.note is not None:
                self.images[1] = GridImage(images[1], first)
        self.height, self.width = first.height, first.width
        self.crs, self.transform = first.crs, first.transform
        self.moments: list[Moments | None] = [None] * len(self.images)
        self.numbers = [[band + 1 for band in bands] for bands in self.bands]
        self.notes = [] if self.note is None else [f"{images[1]}: {self.note}"]
        for image in self.images:
            if len(image.colours) < image.count:
                alpha = min({*range(image.count)} - {*image.colours})
                self.notes.append(
                    f"{image.path}: band {alpha + 1} is marked as alpha, so it says where there "
                    "are data"
                )

    def measure(self) -> list[Moments | None]:
        """Mean and standard deviation of the valid pixels of each date, (C, 1, 1) float64."""
        pairs = zip(self.images, self.bands, strict=True)
        return [self.prepare.moments(image, bands) for image, bands in pairs]

    def rows(self, top: int, height: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """`height` rows from `top` on, `reach` columns; reflected beyond the image's edge.

        Where one date has no data, all dates are set to the mean, so that no change is seen.

        Returns:
            (T, C, h, w), uint8 for 8-bit files if the scheme does not standardise, else float32;
            and (h, w) bool, True where all dates have data.
        """
        window, pixels, valid = Window(top, 0, height, reach), [], np.ones((height, reach), bool)
        for image, bands in zip(self.images, self.bands, strict=True):
            found, known = read_valid(image, window, bands)
            pixels.append(found)
            valid = valid if known is None else valid & known
        pairs = zip(pixels, self.moments, strict=True)
        return np.stack([self.prepare(p, valid, moments) for p, moments in pairs]), valid
