"""The area of each pixel of a map on the ground, in square metres.

In a projected CRS (a plane), it is the product of the pixel's sides, in any linear unit. In a
geographic CRS, it is the exact area on the ellipsoid, row by row. If a projection changes areas by
more than 1 % at the map's location (Web Mercator, a distant UTM zone), its scale is corrected.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

PLANE, ELLIPSOID, CORRECTED = "plane", "ellipsoid", "plane, corrected by its scale"
MAX_STRETCH = 0.01  # tolerated relative error of areas in a plane; UTM: 0.1 % within its zone
NUM_COLUMNS = 17  # where the scale of a plane is computed; interpolated linearly between
WGS84 = (6378137.0, 1 / 298.257223563)
M2_PER_HA = 10_000


class PixelAreas:
    """Areas of the pixels of one raster.

    Args:
        crs: a rasterio CRS, or None.
        transform: affine transform of rasterio, from (column, row) of pixel corners to coordinates.
        height: rows.
        width: columns.

    Attributes:
        method: PLANE, ELLIPSOID or CORRECTED; None without a CRS or transform: areas are unknown.

    Raises:
        ValueError: a geographic CRS without an ellipsoid, or pixels without extent.
    """

    def __init__(self, crs: CRS, transform: Affine, height: int, width: int):
        self.crs, self.transform, self.height, self.width = crs, transform, height, width
        self.method: str | None = None
        self._plane_area = abs(transform.determinant)  # square metres or radians, below
        if not self._plane_area > 0:
            raise ValueError(f"transform {tuple(transform)[:6]}: pixels have no extent")
        if not crs or transform.is_identity:  # an identity transform means no georeference
            return
        self._unit = crs.units_factor[1]  # metres or radians
        self._plane_area *= self._unit**2
        if crs.is_geographic:
            self.method, self._ellipsoid = ELLIPSOID, ellipsoid(crs)
        else:
            self.method = CORRECTED if self._stretches() else PLANE

    def of_window(self, window: Window) -> np.ndarray:
        """(h, W) square metres of the pixels in a window of whole rows; see `strip`."""
        shape = window.height, self.width
        return np.broadcast_to(self.strip(window.row_off, window.height), shape)

    def strip(self, top: int, rows: int) -> np.ndarray:
        """Square metres of each pixel of `rows` rows from `top` on.

        Returns:
            float64 (rows, 1) where all pixels of a row are equal, else (rows, width); NaN without
            a CRS.
        """
        if self.method is None:
            return np.full((rows, 1), np.nan)
        if self.method == PLANE:
            return np.full((rows, 1), self._plane_area)
        if self.method == CORRECTED:
            return self._corrected(top, rows)
        turned = bool(self.transform.b or self.transform.d)
        return self._turned_zones(top, rows) if turned else self._zones(top, rows)

    def middle(self) -> float:
        """Square metres of the pixel in the middle of the map; NaN without a CRS."""
        row = self.strip(self.height // 2, 1)[0]
        return float(row[len(row) // 2])

    def _zones(self, top: int, rows: int) -> np.ndarray:
        """Exact areas of pixels bounded by two parallels and two meridians."""
        edges = self.transform.f + self.transform.e * np.arange(top, top + rows + 1)
        from_equator = zone_area(edges * self._unit, *self._ellipsoid)
        longitudes = abs(self.transform.a) * self._unit
        return longitudes * np.abs(np.diff(from_equator))[:, None]

    def _turned_zones(self, top: int, rows: int) -> np.ndarray:
        """Areas for rows that do not follow parallels, by the latitude of each pixel's centre."""
        row, column = np.mgrid[top : top + rows, 0 : self.width] + 0.5
        _, latitudes = _coordinates(self.transform, column, row)
        return self._plane_area * density(latitudes * self._unit, *self._ellipsoid)

    def _stretches(self) -> bool:
        """Whether areas in the plane are wrong by more than MAX_STRETCH anywhere on the map."""
        rows = {0, self.height // 2, self.height - 1}
        try:
            true = np.concatenate([self._nodes(row, 1)[1][0] for row in rows])
        except Exception:  # GDAL raises a private error if a CRS has no latitudes
            return False
        stretch = np.abs(true[np.isfinite(true)] / self._plane_area - 1)
        return bool((stretch > MAX_STRETCH).any())

    def _corrected(self, top: int, rows: int) -> np.ndarray:
        columns, areas = self._nodes(top, rows)
        middles = np.arange(self.width) + 0.5
        return np.stack([np.interp(middles, columns, row) for row in areas])

    def _nodes(self, top: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns (N,), and true areas (rows, N) of pixels around them."""
        columns = np.linspace(0.5, self.width - 0.5, NUM_COLUMNS if self.width > 1 else 1)
        column, row = np.meshgrid(columns, np.arange(top, top + rows) + 0.5)
        east, west = self.radians(column + 0.5, row), self.radians(column - 0.5, row)
        south, north = self.radians(column, row + 0.5), self.radians(column, row - 0.5)
        across, down = _short_way(east - west), _short_way(south - north)
        spanned = np.abs(across[0] * down[1] - across[1] * down[0])  # square radians
        latitudes = (north[1] + south[1]) / 2
        return columns, spanned * density(latitudes, *WGS84)

    def radians(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """(2, ...) longitude and latitude of points in pixels, in radians."""
        from rasterio.warp import transform  # slow to import

        x, y = _coordinates(self.transform, column, row)
        there = transform(self.crs, "EPSG:4326", x.ravel(), y.ravel())
        return np.radians(np.array(there)).reshape(2, *np.shape(column))


def check_grids(one: DatasetReader, other: DatasetReader) -> None:
    """Raises ValueError unless two open rasters lie on one grid."""
    if (one.crs, one.transform, one.shape) != (other.crs, other.transform, other.shape):
        raise ValueError(
            f"{one.name} and {other.name} do not lie on one grid (CRS, transform, size); both must "
            "be of one map"
        )


def zone_area(latitude: np.ndarray, radius: float, flattening: float) -> np.ndarray:
    """Square metres from the equator to a parallel, 1 radian wide; negative in the south.

    Args:
        latitude: radians; clipped to the poles.
        radius: of the equator, metres.
        flattening: of the ellipsoid, 0 for a sphere.

    Reference: Snyder 1987, "Map Projections - A Working Manual", eq. 3-12.
    """
    sine = np.sin(np.clip(latitude, -math.pi / 2, math.pi / 2))
    if flattening <= 0:
        return radius**2 * sine
    e = math.sqrt(flattening * (2 - flattening))
    q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)
    return radius**2 * q / 2


def density(latitude: np.ndarray, radius: float, flattening: float) -> np.ndarray:
    """Square metres per square radian at a latitude: the derivative of `zone_area`."""
    e2 = flattening * (2 - flattening)
    curved = (1 - e2) / (1 - e2 * np.sin(latitude) ** 2) ** 2
    return radius**2 * curved * np.clip(np.cos(latitude), 0, None)


def ellipsoid(crs: CRS) -> tuple[float, float]:
    """(radius of the equator in metres, flattening) of the ellipsoid of a CRS.

    Raises:
        ValueError: the CRS names no ellipsoid.
    """
    number = r"([-+.\deE]+)"
    found = re.search(rf'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*{number},\s*{number}', crs.to_wkt())
    if not found:
        raise ValueError(
            f"{crs}: no ellipsoid, so areas in degrees have no size on the ground; warp the images "
            "to a projected CRS (gdalwarp -t_srs)"
        )
    radius, inverse = float(found[1]), float(found[2])
    return radius, 1 / inverse if inverse else 0.0


def _coordinates(
    transform: Affine, column: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    t = transform
    return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f


def _short_way(difference: np.ndarray) -> np.ndarray:
    """(2, ...) differences of longitude and latitude; longitude wrapped to -pi..pi."""
    longitude = (difference[0] + math.pi) % (2 * math.pi) - math.pi
    return np.stack([longitude, difference[1]])
