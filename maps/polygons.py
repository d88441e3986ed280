"""Polygons of changes by from-to code, written as GeoPackage and GeoJSON.

One polygon is one 4-connected region of one from-to code, as outlined by GDAL
(`rasterio.features.shapes`). Pixels that touch only at a corner are in two polygons. Area and mean
probability are computed from a polygon's pixels, so they agree with the summary. The area of the
geometry itself differs if outlines are simplified, or cut at 180 degrees.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maps.areas import PLANE, WGS84, PixelAreas, check_grids
from maps.simplify import simplified
from maps.transitions import read_codes, strips
from maps.vector_files import LAYER, WRITERS, Polygons, style
from utils.files import atomic_path, make_folder
from utils.rasters.gdal import rasterio
from utils.structures import Scheme

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

FORMATS = tuple(WRITERS)
PACKAGES = {"gpkg": ("shapely", "pyogrio"), "geojson": ("shapely", "antimeridian")}
STRIP_PIXELS = 2**24  # pixels summed at a time
BATCH = 2**14  # polygons written at a time


def write_vectors(
    folder: Path | str,
    transition_tif: Path | str,
    probability_tif: Path | str | None,
    scheme: Scheme,
    *,
    min_area_m2: float = 0,
    simplify_m: float = 0,
    formats: Sequence[str] = ("gpkg",),
    overwrite: bool = False,
) -> dict:
    """Writes `changes.gpkg` and `changes.geojson` into `folder`, and `changes.qml` beside them.

    Fields: `from_class`, `to_class` (names; empty for a binary change), `code` (see
    maps.transitions), `area_m2` and `area_ha` (of the pixels, also of simplified polygons),
    `mean_prob` (mean P(changed) of the pixels). Unknown values are empty. GeoJSON is in
    EPSG:4326, longitude first, shells counter-clockwise, cut at 180 degrees. Polygons are ordered
    by their first pixels, row by row; the same maps give the same bytes.

    Args:
        folder: created if missing.
        transition_tif: codes; 0 and its nodata value make no polygon.
        probability_tif: P(changed) on the same grid, NaN = unknown; None: the field is empty.
        scheme: classes and colours.
        min_area_m2: smallest area of a polygon, square metres on the ground.
        simplify_m: largest distance between simplified and original outlines, metres on the
            ground; in one direction smaller if pixels are not square.
        formats: of FORMATS.
        overwrite: replace files that exist.

    Returns:
        `polygons` and `area_m2`: number and total area (None without a CRS) of those written;
        `dropped`: number of polygons that were too small; `files`: names.

    Raises:
        ValueError: an unknown format, a package that is not installed, a file that exists, maps
            on different grids, a value that is no code, or an option that needs a CRS without one.
        OSError: a file cannot be written.
    """
    paths = _checked_paths(Path(folder), formats, overwrite)
    with ExitStack() as stack:
        codes = stack.enter_context(_opened(transition_tif))
        probs = probability_tif and stack.enter_context(_opened(probability_tif))
        if probs:
            check_grids(codes, probs)
        areas = PixelAreas(codes.crs, codes.transform, codes.height, codes.width)
        check_crs(codes.crs, formats, min_area_m2, simplify_m, codes.name)
        found = find_polygons(codes, probs, areas, scheme)
        kept = _take(found, found.area_m2 >= min_area_m2) if min_area_m2 else found
        tolerance_px = simplify_m / _largest_side(areas) if simplify_m else 0.0
        kept = kept._replace(geometry=_placed(kept.geometry, codes.transform, tolerance_px))
        _write(kept, paths, codes, scheme)
    with atomic_path(Path(folder, f"{LAYER}.qml")) as temporary:
        temporary.write_text(style(scheme), encoding="utf-8")
    return {
        "polygons": len(kept.code),
        "area_m2": None if areas.method is None else float(kept.area_m2.sum()),
        "dropped": len(found.code) - len(kept.code),
        "files": [*(path.name for path in paths.values()), f"{LAYER}.qml"],
    }


def _opened(path: Path | str) -> DatasetReader:
    return rasterio().open(path, num_threads="all_cpus")


def find_polygons(
    codes: DatasetReader, probs: DatasetReader | None, areas: PixelAreas, scheme: Scheme
) -> Polygons:
    """The polygons of a map in pixel coordinates (column, row), ordered by their first pixels.

    Args:
        codes: an open raster of codes.
        probs: an open raster of P(changed), NaN = unknown; None: all unknown.
        areas: of the pixels.
        scheme: of the codes.

    Raises:
        ValueError: a value that is no code.
    """
    import shapely
    from rasterio.features import shapes

    whole = np.concatenate(
        [read_codes(codes, window, scheme)[0] for window in strips(codes, STRIP_PIXELS)]
    )
    geometry, values = [], []
    for outline, value in shapes(whole, mask=whole > 0, connectivity=4):
        shell, *holes = outline["coordinates"]
        geometry.append(shapely.Polygon(shell, holes))
        values.append(value)
    del whole
    geometry = np.array(geometry, object)
    if not len(geometry):
        return Polygons(geometry, np.zeros(0, np.int32), np.zeros(0), np.zeros(0))
    first = shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(geometry), 0))
    order = np.lexsort((first[:, 0], first[:, 1]))
    geometry = geometry[order]
    area, known, total = _sums(geometry, codes, probs, areas)
    with np.errstate(invalid="ignore"):
        return Polygons(geometry, np.array(values, np.int32)[order], area, total / known)


def _sums(
    geometry: np.ndarray, codes: DatasetReader, probs: DatasetReader | None, areas: PixelAreas
) -> np.ndarray:
    """(3, N) float64: square metres, number of pixels with a probability, sum of probabilities."""
    import shapely
    from rasterio.features import rasterize

    sums, count = np.zeros((3, len(geometry))), len(geometry)
    _, tops, _, bottoms = shapely.bounds(geometry).T
    for window in strips(probs or codes, STRIP_PIXELS):
        top, shape = window.row_off, (window.height, window.width)
        there = np.flatnonzero((tops < top + window.height) & (bottoms > top))
        if not len(there):
            continue
        marked = zip(geometry[there], there + 1, strict=True)
        origin = rasterio().Affine.translation(0, top)
        labels = rasterize(marked, out_shape=shape, transform=origin, dtype=np.int32)
        inside = labels > 0
        numbers = labels[inside] - 1
        weights = np.broadcast_to(areas.strip(top, window.height), shape)[inside]
        sums[0] += np.bincount(numbers, weights, count)
        if probs:
            values = probs.read(1, window=window)[inside]
            known = np.isfinite(values)
            sums[1] += np.bincount(numbers, known, count)
            sums[2] += np.bincount(numbers, np.where(known, values, 0), count)
    return sums


def _take(polygons: Polygons, which: np.ndarray | slice) -> Polygons:
    return Polygons(*(column[which] for column in polygons))


def _write(
    polygons: Polygons, paths: Mapping[str, Path], codes: DatasetReader, scheme: Scheme
) -> None:
    """Writes one file per format, in batches."""
    for name, path in paths.items():
        with WRITERS[name](path, codes.crs, codes.transform, scheme) as append:
            for start in range(0, len(polygons.code), BATCH):
                append(_take(polygons, slice(start, start + BATCH)))


def _placed(geometry: np.ndarray, transform: Affine, tolerance_px: float) -> np.ndarray:
    """Polygons in coordinates of the map, simplified if there is a tolerance."""
    import shapely

    t = transform
    axes = np.array([[t.a, t.d], [t.b, t.e]])
    if tolerance_px:
        geometry = simplified(geometry, tolerance_px)
    return shapely.transform(geometry, lambda points: points @ axes + (t.c, t.f))


def check_packages(formats: Sequence[str]) -> None:
    """Raises ValueError if a package that writes one of these formats is not installed."""
    needed = {package for name in formats for package in PACKAGES.get(name, ())}
    missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
    if missing:
        raise ValueError(
            f"--vector {' '.join(formats)} needs {' and '.join(missing)}: "
            f"pip install {' '.join(missing)}, or leave polygons out (--vector none)"
        )


def _checked_paths(folder: Path, formats: Sequence[str], overwrite: bool) -> dict[str, Path]:
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ValueError(f"--vector {' '.join(unknown)}: choose from {', '.join(FORMATS)}")
    check_packages(formats)
    make_folder(folder)
    paths = {name: folder / f"{LAYER}.{name}" for name in formats}
    for path in paths.values():
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists; pass --overwrite, or choose another folder (--out)")
    return paths


def check_crs(
    crs: CRS | None,
    formats: Sequence[str],
    min_area_m2: float = 0,
    simplify_m: float = 0,
    name: object = "the map",
) -> None:
    """Raises ValueError if an option needs a CRS that the map does not have.

    Args:
        crs: of the map, a rasterio CRS, or None.
        formats: GeoJSON is in degrees, so it needs a CRS that can be converted to EPSG:4326.
        min_area_m2: needs a CRS unless 0.
        simplify_m: needs a CRS unless 0.
        name: of the map or of its first image, for the error message.
    """
    needing_crs = {
        "--min-area": min_area_m2,
        "--simplify": simplify_m,
        "--vector geojson": "geojson" in formats,
    }
    wish = next((wish for wish, wanted in needing_crs.items() if wanted), None)
    if wish and not crs:
        raise ValueError(
            f"{wish} needs to know where the map lies, and {name} has no CRS. Give the "
            f"images one (gdal_edit.py -a_srs EPSG:... FILE), or leave {wish} out."
        )
    if "geojson" in formats and not _has_degrees(crs):
        raise ValueError(
            f"--vector geojson writes degrees of longitude and latitude, and the CRS of {name} "
            f"has none ({_name_of(crs)}). Choose --vector gpkg, or give the images a CRS of the "
            "Earth (gdal_edit.py -a_srs EPSG:... FILE)."
        )


def _has_degrees(crs: CRS) -> bool:
    from rasterio.warp import transform

    try:
        transform(crs, "EPSG:4326", [0.0], [0.0])
    except Exception:  # GDAL raises private error classes
        return False
    return True


def _name_of(crs: CRS) -> str:
    """The name of a CRS in its WKT, such as "unknown engineering CRS"."""
    text = crs.to_wkt()
    return text.split('"')[1] if '"' in text else text[:60]


def _largest_side(areas: PixelAreas) -> float:
    """Length of the longer side of the largest pixel of a map, metres on the ground."""
    t = areas.transform
    if areas.method == PLANE:
        return max(math.hypot(t.a, t.d), math.hypot(t.b, t.e)) * areas.crs.units_factor[1]
    column, row = np.meshgrid(np.linspace(0, areas.width - 1, 9), np.linspace(0, areas.height, 65))
    row = np.minimum(row, areas.height - 1)
    corner, *ends = (areas.radians(column + x, row + y) for x, y in ((0, 0), (1, 0), (0, 1)))
    sine = np.sin(corner[1])
    e2 = WGS84[1] * (2 - WGS84[1])
    across = WGS84[0] / np.sqrt(1 - e2 * sine**2)  # radius of curvature, east to west
    along = across * (1 - e2) / (1 - e2 * sine**2)
    sides = []
    for end in ends:
        east = (end[0] - corner[0] + math.pi) % (2 * math.pi) - math.pi
        sides.append(np.hypot(east * np.cos(corner[1]) * across, (end[1] - corner[1]) * along))
    sides = np.stack(sides)
    return float(sides[np.isfinite(sides)].max())
