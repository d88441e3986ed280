"""The files that polygons of change go to: GeoPackage and GeoJSON, both written piece by piece."""

import errno
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.areas import M2_PER_HA
from utils.files import atomic_path
from utils.qgis_style import vector_style
from utils.structures import Scheme
from utils.transitions import names, num_codes, pair, palette

LAYER = "changes"  # also the stem of the files
DECIMALS = 7  # of degrees in GeoJSON: 1 cm
WAITING = 2**20  # points of polygons that go to a GeoPackage at once: each time takes 0.1 s
STRAIGHT_PX = 64  # longer edges get points between in GeoJSON: what is straight bends in degrees


class Polygons(NamedTuple):
    """N polygons and their fields; NaN = not known."""

    geometry: np.ndarray  # (N,) shapely polygons in coordinates of the map
    code: np.ndarray  # (N,) int32, see utils.transitions
    area_m2: np.ndarray  # (N,) float64
    probability: np.ndarray  # (N,) float64 in 0..1, mean P(changed)


Append = Callable[[Polygons], None]


def style(scheme: Scheme) -> str:
    """The QGIS style of both formats: a colour for each code."""
    return vector_style("code", names(scheme)[1:], palette(scheme)[1:], first=1)


@contextmanager
def geopackage(path: Path, crs: object, transform: object, scheme: Scheme) -> Iterator[Append]:
    """Yields what appends polygons to layer "changes" of a GeoPackage in the map's CRS.

    The file appears when the block ends well.

    Args:
        path: the file.
        crs: of the map, as rasterio gives it; None for none.
        transform: of the map; not used here.
        scheme: names of classes.

    Raises:
        OSError: it cannot be written.
    """
    import shapely

    with atomic_path(path) as temporary:
        temporary.unlink()
        _append_layer(temporary, _no_polygons(), crs, scheme, append=False)
        waiting, count = [], 0

        def append(polygons: Polygons) -> None:
            nonlocal count
            waiting.append(polygons)
            count += len(polygons.code)
            if sum(shapely.get_num_coordinates(part.geometry).sum() for part in waiting) > WAITING:
                flush()

        def flush() -> None:
            whole = Polygons(*(np.concatenate(column) for column in zip(*waiting, strict=True)))
            _append_layer(temporary, whole, crs, scheme)
            waiting.clear()

        yield append
        if waiting:
            flush()
        _check_count(temporary, count)


def _check_count(path: Path, count: int) -> None:
    """Reads the file back: on a full disk not every loss is an error."""
    try:
        with closing(sqlite3.connect(path)) as file:
            found = file.execute(f"SELECT COUNT(*) FROM {LAYER}").fetchone()[0]
    except sqlite3.Error as error:
        raise OSError(_failed(path, str(error))) from error
    if found != count:
        raise OSError(_failed(path, f"{found} of {count} polygons arrived"))


@contextmanager
def _told_of_full_disks(path: Path) -> Iterator[None]:
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
    path: Path, polygons: Polygons, crs: object, scheme: Scheme, append: bool = True
) -> None:
    import pyogrio
    import shapely

    columns = fields(polygons, scheme)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        try:
            pyogrio.raw.write(
                path,
                shapely.to_wkb(polygons.geometry),
                list(columns.values()),
                list(columns),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs.to_wkt() if crs else None,
                append=append,
            )
        except RuntimeError as error:  # of pyogrio
            raise OSError(_failed(path, str(error))) from error


@contextmanager
def geojson(path: Path, crs: object, transform: object, scheme: Scheme) -> Iterator[Append]:
    """The same for GeoJSON (RFC 7946): EPSG:4326, longitude first, shells counter-clockwise.

    A polygon across the date line is not cut there.
    """
    t = transform
    longest = STRAIGHT_PX * max(np.hypot(t.a, t.d), np.hypot(t.b, t.e))
    separator = "\n"
    with (
        _told_of_full_disks(path),
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
    """Name -> (N,) values; None or NaN where not known."""
    known = np.array([None, *scheme.classes], object)
    all_codes = range(num_codes(scheme.num_classes))
    pairs = np.array([pair(code, scheme.num_classes) for code in all_codes])[polygons.code]
    return {
        "from": known[pairs[:, 0]],
        "to": known[pairs[:, 1]],
        "code": polygons.code,
        "area_m2": polygons.area_m2,
        "area_ha": polygons.area_m2 / M2_PER_HA,
        "probability": polygons.probability,
    }


def _features(polygons: Polygons, crs: object, longest: float, scheme: Scheme) -> Iterator[str]:
    """Each polygon as a line of GeoJSON."""
    columns = fields(polygons, scheme)
    rows = zip(*(_json_values(column) for column in columns.values()), strict=True)
    for geometry, row in zip(_in_degrees(polygons.geometry, crs, longest), rows, strict=True):
        properties = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
        yield f'{{"type": "Feature", "properties": {properties}, "geometry": {geometry}}}'


def _json_values(column: np.ndarray) -> list:
    values = column.tolist()
    return [None if value != value else value for value in values]


def _in_degrees(geometry: np.ndarray, crs: object, longest: float) -> np.ndarray:
    """GeoJSON geometries (N,), as texts."""
    import shapely
    from rasterio.warp import transform

    def degrees(points: np.ndarray) -> np.ndarray:
        there = transform(crs, "EPSG:4326", points[:, 0], points[:, 1])
        return np.stack(there, axis=1).round(DECIMALS)

    if not crs.is_geographic:
        geometry = shapely.segmentize(geometry, longest)
    shapes = shapely.transform(geometry, degrees)
    return shapely.to_geojson(shapely.reverse(shapely.normalize(shapes)))


def _no_polygons() -> Polygons:
    none = np.zeros(0)
    return Polygons(none.astype(object), none.astype(np.int32), none, none)
