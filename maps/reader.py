"""The images of a map as a scene, on the grid of date 1."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from datasets.preparation import Preparation
from datasets.reader import Reading
from datasets.samples import SceneSamples
from maps.image_checks import bands_to_read, compare_grids, refuse_cut, refuse_other_counts
from utils.rasters.gdal import GDAL_TYPES, rasterio
from utils.rasters.raster import Raster
from utils.rasters.reading import FileRaster, decoding
from utils.structures import ImageFile, Scene, Scheme

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
                self._with_one_nodata(),
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
        nodata = self.nodata[0] if self._alike() else common_nodata(self.dtype)
        return {"nodata": nodata, "UNIFIED_SRC_NODATA": "NO"}

    def _alike(self) -> bool:
        return len({str(value) for value in self.nodata}) == 1

    def _with_one_nodata(self) -> Any:
        """The file; if nodata differs from band to band, through a VRT in which it does not."""
        if not self.nodata or None in self.nodata or self._alike():
            return self._file
        bands, nodata = [], common_nodata(self.dtype)
        for number, (dtype, value) in enumerate(zip(self._file.dtypes, self.nodata, strict=True)):
            bands.append(
                f'<VRTRasterBand dataType="{GDAL_TYPES[dtype]}" band="{number + 1}">'
                f"<NoDataValue>{nodata}</NoDataValue><ComplexSource>"
                f"<SourceFilename>{escape(self._file.name)}</SourceFilename>"
                f"<SourceBand>{number + 1}</SourceBand><NODATA>{value}</NODATA>"
                "</ComplexSource></VRTRasterBand>"
            )
        transform = ", ".join(map(repr, self.transform.to_gdal()))
        return rasterio().open(
            f'<VRTDataset rasterXSize="{self.width}" rasterYSize="{self.height}">'
            f"<SRS>{escape(self.crs.to_wkt())}</SRS><GeoTransform>{transform}</GeoTransform>"
            f"{''.join(bands)}</VRTDataset>"
        )


def common_nodata(dtype: np.dtype) -> float:
    """A value that images hardly hold, for pixels without data."""
    if dtype.kind == "f":
        return math.nan
    return float(np.iinfo(dtype).max if dtype.kind == "u" else np.iinfo(dtype).min)


class MapImages:
    """The images of a map as a scene, date 2 on the grid of date 1.

    Args:
        paths: of T images.
        scheme: of the networks: bands and standardisation. Images are standardised by statistics
            over all valid pixels of the whole image.
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
        paths: Sequence[Path],
        scheme: Scheme,
        bands: Sequence[str] | None = None,
        strict_grid: bool = False,
    ):
        self.scheme, images = scheme, [GridImage(path) for path in paths]
        self._paths, self._first, self.note = paths, images[0], None
        if bands is None:
            refuse_other_counts(images)
        for image in images:
            Preparation(scheme).check_type(image.path, image.dtype)
        self._bands = [
            tuple(image.colours[i] for i in bands_to_read(image, scheme, bands)) for image in images
        ]
        if len(images) == 2:
            self.note = compare_grids(*images, strict_grid)
        self.height, self.width = self._first.height, self._first.width
        self.crs, self.transform = self._first.crs, self._first.transform
        self.numbers = [[band + 1 for band in bands] for bands in self._bands]
        self.notes = [] if self.note is None else [f"{paths[1]}: {self.note}"]
        for image in images:
            if len(image.colours) < image.count:
                alpha = min({*range(image.count)} - {*image.colours})
                self.notes.append(
                    f"{image.path}: band {alpha + 1} is marked as alpha, so it says where there "
                    "are data"
                )

    def samples(self, tile_px: int, overlap_px: int) -> SceneSamples:
        """The windows of the map, row by row; see SceneSamples."""
        files = zip(self._paths, self._bands, strict=True)
        scene = Scene("map", tuple((ImageFile(path, bands),) for path, bands in files))
        reading = Reading(NoLabels(), self._open)
        windows = {"tile_px": tile_px, "overlap_px": overlap_px, "whole_px": 0}
        return SceneSamples([scene], self.scheme, reading, path=self._paths[0], **windows)

    def _open(self, path: Path) -> GridImage:
        warped = self.note is not None and path == self._paths[1]
        return GridImage(path, self._first if warped else None)


class NoLabels(NamedTuple):
    """The labels of images that have none."""

    num_dates: int = 0
    about: str = "none"
