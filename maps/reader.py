"""The images of a map as a scene, on the grid of date 1."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from datasets.preparation import Preparation
from datasets.reader import Reading
from datasets.samples import SceneSamples
from datasets.sentinel.scaling import S2_MOST
from maps.image_checks import (
    bands_to_read,
    compare_grids,
    refuse_cut,
    refuse_other_counts,
    refuse_other_orders,
)
from maps.image_values import value_notes
from utils.rasters.gdal import GDAL_TYPES, rasterio
from utils.rasters.raster import Raster, Units
from utils.rasters.reading import FileRaster, decoding
from utils.structures import ImageFile, Scene, Scheme

TOLERANCE_PX = 0.01  # error of a warped pixel's position, in pixels of the source image


class Told(NamedTuple):
    """What the user says of the values of an image; None: what the file says.

    A value stands for (value + offset) * scale; where there are no data, it is `nodata`.
    """

    nodata: float | None = None
    scale: float | None = None  # with an offset, and without a tag: that of Sentinel-2
    offset: float | None = None


NOTHING_TOLD = Told()


class GridImage(FileRaster):
    """An image on its own grid or, warped on the fly (bilinear), on the grid of another raster.

    An image that is placed by ground control points is warped onto a grid in their CRS. Outside of
    a warped image there are no data.

    Args:
        path: the image.
        grid: raster whose grid is used; None = the image's own.
        told: what the user says of its values.

    Attributes:
        colours: indices of the bands that are not alpha.
        colour_names: what the file calls them, see Raster.names.
        by_points: number of its ground control points, if it is placed by them; otherwise 0.

    Raises:
        OSError: the file is missing, no image, or truncated.
        ValueError: it is placed by RPCs, or its type cannot hold the nodata value.
    """

    def __init__(self, path: Path, grid: Raster | None = None, told: Told = NOTHING_TOLD):
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no {path}; check the path")
        super().__init__(path)
        with decoding(path):
            refuse_cut(self._file, Path(path))
        self.colours = [i for i, c in enumerate(self._file.colorinterp) if c.name != "alpha"]
        self.colour_names = [self.names[i] for i in self.colours]
        self._told = told
        self._tags = self._file.scales, self._file.offsets
        if told.nodata is not None:
            refuse_nodata(told.nodata, self)
            self.nodata = (told.nodata,) * self.count
        placed = self.transform is not None
        points, crs = self._file.gcps
        self.by_points = 0 if placed or crs is None else len(points)
        if not placed and not self.by_points and self._file.rpcs is not None:
            raise ValueError(
                f"{path} is placed by RPCs, which need a terrain model. Rectify it first: gdalwarp "
                "-rpc -to RPC_DEM=DEM.tif -t_srs EPSG:... IN OUT"
            )
        if self.by_points:
            self._warp({"src_crs": crs, "crs": crs})
        if grid is not None:
            size = {"height": grid.height, "width": grid.width}
            self._warp({"crs": grid.crs, "transform": grid.transform, **size})

    def units(self, bands: Sequence[int]) -> Units | None:
        """See Raster; as the user says, or the tags of the file."""
        scale, offset = ([float(of[band]) for band in bands] for of in self._tags)
        if self._told.scale is not None:
            scale = [self._told.scale] * len(bands)
        elif self._told.offset is not None and set(scale) == {1}:
            scale = [1 / S2_MOST] * len(bands)
        if self._told.offset is not None:
            offset = [self._told.offset * factor for factor in scale]
        found = Units.of(scale, offset)
        told = self._told.scale is not None or self._told.offset is not None
        return None if found.are_plain and not told else found

    def _warp(self, place: Mapping[str, Any]) -> None:
        """Warps the file as it is now; `place`: options of WarpedVRT for CRS and grid."""
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        with decoding(self.path):
            self._file = WarpedVRT(
                self._with_one_nodata(),
                resampling=Resampling.bilinear,
                tolerance=TOLERANCE_PX,
                **place,
                **self._gaps(),
            )
        declared = self.nodata
        self._find_nodata()
        if self.alpha is not None:
            self.nodata = declared
        self.height, self.width = self._file.shape
        self.crs, self.transform = self._file.crs, self._file.transform

    def _gaps(self) -> dict[str, Any]:
        """Options of WarpedVRT for pixels without data: per band, or one alpha band for all."""
        flags = {flag.name for flags in self._file.mask_flag_enums for flag in flags}
        source = {} if self._told.nodata is None else {"src_nodata": self._told.nodata}
        if self.dtype == np.uint8 or (flags != {"nodata"} and not source):
            add_alpha = all(c.name != "alpha" for c in self._file.colorinterp)
            return {"add_alpha": add_alpha, "UNIFIED_SRC_NODATA": "YES", **source}
        nodata = self.nodata[0] if self._alike() else common_nodata(self.dtype)
        return {"nodata": nodata, "UNIFIED_SRC_NODATA": "NO", **source}

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


def refuse_nodata(value: float, image: FileRaster) -> None:
    """Raises ValueError if the type of an image cannot hold the value of --nodata."""
    whole = float(value).is_integer()
    if image.dtype.kind != "f" and not (whole and _holds(image.dtype, int(value))):
        raise ValueError(
            f"--nodata {value:g}: {image.path} holds {image.dtype}, in which there is no such "
            "value; check it, and give one for each date if they differ"
        )


def _holds(dtype: np.dtype, value: int) -> bool:
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


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
        told: of each image, what the user says of its values.

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
        told: Sequence[Told] | None = None,
    ):
        told = [NOTHING_TOLD] * len(paths) if told is None else told
        images = [GridImage(path, told=one) for path, one in zip(paths, told, strict=True)]
        self.scheme, self._told = scheme, dict(zip(paths, told, strict=True))
        self._paths, self._first, self.note = paths, images[0], None
        if bands is None:
            refuse_other_counts(images)
        for image in images:
            Preparation(scheme).check_type(image.path, image.dtype)
        self._bands = [
            tuple(image.colours[i] for i in bands_to_read(image, scheme, bands)) for image in images
        ]
        read = list(zip(images, self._bands, strict=True))
        refuse_other_orders(read, scheme, bands)
        if len(images) == 2:
            self.note = compare_grids(*images, strict_grid)
        self.height, self.width = self._first.height, self._first.width
        self.crs, self.transform = self._first.crs, self._first.transform
        self.numbers = [[band + 1 for band in bands] for bands in self._bands]
        self.notes = [] if self.note is None else [f"{paths[1]}: {self.note}"]
        self.notes += value_notes(read, scheme, bands)

    def samples(self, tile_px: int, overlap_px: int) -> SceneSamples:
        """The windows of the map, row by row; see SceneSamples."""
        files = zip(self._paths, self._bands, strict=True)
        scene = Scene("map", tuple((ImageFile(path, bands),) for path, bands in files))
        reading = Reading(NoLabels(), self._open)
        windows = {"tile_px": tile_px, "overlap_px": overlap_px, "whole_px": 0}
        return SceneSamples([scene], self.scheme, reading, path=self._paths[0], **windows)

    def _open(self, path: Path) -> GridImage:
        warped = self.note is not None and path == self._paths[1]
        return GridImage(path, self._first if warped else None, self._told[path])


class NoLabels(NamedTuple):
    """The labels of images that have none."""

    num_dates: int = 0
    about: str = "none"
