"""Writers of change polygons to GeoPackage and GeoJSON, both incremental."""

from __future__ import annotations

import errno
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maps.areas import M2_PER_HA
from maps.qgis_style import vector_style
from maps.transitions import names, num_codes, pair, palette
from utils.files import atomic_path
from utils.structures import Scheme

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

LAYER = "changes"  # also the stem of the files
LOGS = ("-wal", "-shm", "-journal")  # ends of the names of SQLite's files beside an open one
DECIMALS = 7  # of degrees in GeoJSON: 1 cm
WAITING = 2**24  # bytes of polygons buffered for a GeoPackage; each write takes 0.1 s
STAMP = "2000-01-01T00:00:00.000Z"  # fixed time stamp of a GeoPackage, for reproducible bytes
NO_TIME = "OGR_CURRENT_DATE"  # GDAL option that sets the time stamp
STRAIGHT_PX = 64  # longer edges are subdivided for GeoJSON: straight lines are curved in degrees
STRAIGHT_M = 500_000  # longer edges are subdivided, so that successive points are near in longitude


class Polygons(NamedTuple):
    """N polygons and their fields; NaN = unknown."""

    geometry: np.ndarray  # (N,) shapely polygons in coordinates of the map
    code: np.ndarray  # (N,) int32, see maps.transitions
    area_m2: np.ndarray  # (N,) float64
    probability: np.ndarray  # (N,) float64 in 0..1, mean P(changed)


Append = Callable[[Polygons], None]


def refuse_open(path: Path) -> None:
    """Raises OSError if another program has a GeoPackage open.

    Beside an open file lies SQLite's log of recent changes. It would be applied to a new file of
    the same name. What a program that crashed left there is completed, or removed with its file.
    """
    logs = [log for end in LOGS if (log := Path(f"{path}{end}")).exists()]
    if not logs:
        return
    if path.exists():
        try:
            with closing(sqlite3.connect(path, timeout=0)) as file:
                file.execute("PRAGMA journal_mode=DELETE")  # needs the file for itself
        except sqlite3.Error as error:
            raise OSError(
                f"{path} is open in another program ({error}). Remove its layer there (QGIS), or "
                "choose another folder (--out)."
            ) from error
    for log in logs:
        log.unlink(missing_ok=True)


def style(scheme: Scheme) -> str:
    """The QGIS style of both formats: a colour for each code."""
    return vector_style("code", names(scheme)[1:], palette(scheme)[1:], first=1)


@contextmanager
def geopackage(path: Path, crs: CRS, transform: Affine, scheme: Scheme) -> Iterator[Append]:
    """Yields a function that appends polygons to layer "changes" of a GeoPackage.

    The file appears only if the block ends without error.

    Args:
        path: the file.
        crs: of the map and the file, a rasterio CRS, or None.
        transform: of the map; not used here.
        scheme: names of classes.

    Raises:
        OSError: the file cannot be written.
    """
    import shapely

    with atomic_path(path) as temporary:
        temporary.unlink()
        _append_layer(temporary, _no_polygons(), crs, scheme, append=False)
        waiting, count = [], 0

        def append(polygons: Polygons) -> None:
            nonlocal count
            if sum(len(shape) for one in waiting for shape in one.geometry) > WAITING:
                flush()
            waiting.append(polygons._replace(geometry=shapely.to_wkb(polygons.geometry)))
            count += len(polygons.code)

        def flush() -> None:
            whole = Polygons(*(np.concatenate(column) for column in zip(*waiting, strict=True)))
            waiting.clear()
            _append_layer(temporary, whole, crs, scheme)

        yield append
        if waiting:
            flush()
        _check_count(temporary, count)


def _check_count(path: Path, count: int) -> None:
    """Raises OSError unless the file has `count` polygons; a full disk may give no other error."""
    try:
        with closing(sqlite3.connect(path)) as file:
            found = file.execute(f"SELECT COUNT(*) FROM {LAYER}").fetchone()[0]
    except sqlite3.Error as error:
        raise OSError(_failed(path, str(error))) from error
    if found != count:
        raise OSError(_failed(path, f"{found} of {count} polygons arrived"))


@contextmanager
def _explain_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(_failed(path, error.strerror)) from error
        raise


def _failed(path: Path, why: str) -> str:
    return (
        f"could not write {LAYER}{path.suffix} to {path.parent} ({why}). Is the disk full? Make "
        "room, or choose another folder (--out)."
    )


def _append_layer(
    path: Path, polygons: Polygons, crs: CRS, scheme: Scheme, append: bool = True
) -> None:
    """Appends polygons with geometry in WKB; `append=False` creates the layer."""
    import pyogrio

    columns = fields(polygons, scheme)
    with warnings.catch_warnings(), _without_time():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        try:
            pyogrio.raw.write(
                path,
                polygons.geometry,
                list(columns.values()),
                list(columns),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs.to_wkt() if crs else None,
                append=append,
            )
        except RuntimeError as error:  # base class of pyogrio's errors
            raise OSError(_failed(path, str(error))) from error


@contextmanager
def _without_time() -> Iterator[None]:
    import pyogrio

    before = pyogrio.get_gdal_config_option(NO_TIME)
    pyogrio.set_gdal_config_options({NO_TIME: STAMP})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({NO_TIME: before})


@contextmanager
def geojson(path: Path, crs: CRS, transform: Affine, scheme: Scheme) -> Iterator[Append]:
    """As `geopackage`, for GeoJSON (RFC 7946).

    EPSG:4326, longitude first, shells counter-clockwise. A polygon across 180 degrees is cut there
    and becomes a multipolygon.
    """
    t = transform
    longest = STRAIGHT_PX * max(np.hypot(t.a, t.d), np.hypot(t.b, t.e))
    longest = min(longest, STRAIGHT_M / (crs.units_factor[1] if crs else 1))
    separator = "\n"
    with (
        _explain_full_disk(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):

        def append(polygons: Polygons) -> None:
            nonlocal separator
            for feature in _features(polygons, crs, longest, scheme):
                file.write(separator + feature)
                separator = ",\n"

        file.write(f'{{"type": "FeatureCollection", "name": "{LAYER}", "features": [')
        yield append
        file.write("\n]}\n")


WRITERS: dict[str, Callable[..., AbstractContextManager[Append]]] = {
    "gpkg": geopackage,
    "geojson": geojson,
}


def fields(polygons: Polygons, scheme: Scheme) -> dict[str, np.ndarray]:
    """Field name -> (N,) values; None or NaN = unknown.

    The names are no words of SQL, and fit into the ten letters of a Shapefile.
    """
    known = np.array([None, *scheme.classes], object)
    all_codes = range(num_codes(scheme.num_classes))
    pairs = np.array([pair(code, scheme.num_classes) for code in all_codes])[polygons.code]
    return {
        "from_class": known[pairs[:, 0]],
        "to_class": known[pairs[:, 1]],
        "code": polygons.code,
        "area_m2": polygons.area_m2,
        "area_ha": polygons.area_m2 / M2_PER_HA,
        "mean_prob": polygons.probability,
    }


def _features(polygons: Polygons, crs: CRS, longest: float, scheme: Scheme) -> Iterator[str]:
    """Yields each polygon as a GeoJSON feature, one line of text."""
    columns = fields(polygons, scheme)
    rows = zip(*(_json_values(column) for column in columns.values()), strict=True)
    for geometry, row in zip(_in_degrees(polygons.geometry, crs, longest), rows, strict=True):
        properties = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
        yield f'{{"type": "Feature", "properties": {properties}, "geometry": {geometry}}}'


def _json_values(column: np.ndarray) -> list:
    values = column.tolist()
    return [None if value != value else value for value in values]


def _in_degrees(geometry: np.ndarray, crs: CRS, longest: float) -> np.ndarray:
    """(N,) GeoJSON geometries, as text."""
    import shapely
    from rasterio.warp import transform

    def degrees(points: np.ndarray) -> np.ndarray:
        there = transform(crs, "EPSG:4326", points[:, 0], points[:, 1])
        return np.stack(there, axis=1).round(DECIMALS)

    if not crs.is_geographic:
        geometry = shapely.segmentize(geometry, longest)
    shapes = shapely.transform(geometry, degrees)
    for number in _across(shapes, crosses_180=not crs.is_geographic):
        shapes[number] = _cut(shapes[number], crosses_180=not crs.is_geographic)
    return shapely.to_geojson(shapely.reverse(shapely.normalize(shapes)))


def _across(shapes: np.ndarray, crosses_180: bool) -> np.ndarray:
    """Numbers of the polygons that cross 180 degrees or lie beyond it.

    Args:
        shapes: (N,) polygons in degrees.
        crosses_180: longitude is wrapped to -180..180, so that an edge which crosses
            180 degrees spans more than 180. Otherwise it increases beyond 180.
    """
    import shapely

    points, number = shapely.get_coordinates(shapes, return_index=True)
    across = np.abs(points[:, 0]) > 180
    if crosses_180:
        step = np.abs(np.diff(points[:, 0], prepend=points[:1, 0])) > 180
        across |= step & (np.diff(number, prepend=-1) == 0)
    return np.unique(number[across])


def _cut(polygon: Polygon, crosses_180: bool) -> BaseGeometry:
    """A polygon cut at 180 degrees, its longitudes in -180..180.

    `crosses_180`: see `_across`; antimeridian expects such wrapped polygons.
    """
    import antimeridian
    import shapely

    if not crosses_180:
        polygon = shapely.transform(polygon, _wrapped)
    return antimeridian.fix_polygon(polygon, fix_winding=True, great_circle=False)


def _wrapped(points: np.ndarray) -> np.ndarray:
    """Wraps longitudes to -180..180."""
    return np.stack([(points[:, 0] + 180) % 360 - 180, points[:, 1]], axis=1)


def _no_polygons() -> Polygons:
    none = np.zeros(0)
    return Polygons(none.astype(object), none.astype(np.int32), none, none)
