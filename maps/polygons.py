"""Polygons of what changed from what to what: a GeoPackage, and GeoJSON.

One polygon is one 4-connected region of one from-to code (see utils.regions). The map is read in
strips and polygons are written as they are finished. Area and mean probability are sums over a
polygon's pixels, so they agree with the summary; where outlines are simplified, or cut at 180
degrees, the area that a program measures on the geometry differs from them.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import numpy as np

from maps.areas import PLANE, WGS84, PixelAreas, check_grids
from maps.transitions import read_codes
from maps.vector_files import LAYER, WRITERS, Polygons, style
from utils.files import atomic_path, make_folder
from utils.rasters.gdal import rasterio
from utils.regions import RegionMaker, Regions, outlines
from utils.structures import Scheme

FORMATS = tuple(WRITERS)
PACKAGES = {"gpkg": ("shapely", "pyogrio"), "geojson": ("shapely",)}
STRIP_PIXELS = 2**20  # read at a time
BATCH_CORNERS = 2**18  # made into polygons at a time
FIRST_SHARE = 0.7  # of a tolerance; shapely bounds areas, not distances: less where it goes too far
SMALLEST_TOLERANCE = 0.5**0.5  # pixels: the smallest triangle between their corners is half of one
WAITING_CORNERS = 2**19  # of touching polygons that wait for each other to be simplified


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
    rows: int | None = None,
) -> dict:
    """Writes `changes.gpkg` and `changes.geojson` into `folder`, and `changes.qml` beside them.

    Fields: `from`, `to` (names of classes; empty for a binary change), `code` (see
    maps.transitions), `area_m2`, `area_ha`, `probability` (mean P(changed) of the pixels).
    Unknown areas (no CRS) and probabilities are empty. Areas are those of the pixels, also of
    simplified polygons. GeoJSON is in EPSG:4326, longitude first, shells counter-clockwise, cut
    at 180 degrees. The same maps give the same bytes.

    Args:
        folder: made if need be.
        transition_tif: codes; 0 and its nodata value make no polygon.
        probability_tif: P(changed) on the same grid, NaN where not known; None leaves it empty.
        scheme: classes and colours.
        min_area_m2: polygons whose pixels have less are left out, square metres on the ground.
        simplify_m: outlines leave those of the pixels by at most this, metres on the ground, and
            less where pixels are not square; shared borders stay shared (shapely 2.1 and later;
            before, each polygon is simplified by itself).
        formats: of FORMATS.
        overwrite: replace files that exist.
        rows: read at a time; None: as many as fit into a bounded memory.

    Returns:
        `polygons` and `area_m2` (None without a CRS), of those written; `dropped`, how many were
        too small; `files`, their names.

    Raises:
        ValueError: an unknown format, a package that is not installed, a file that exists, maps
            of two grids, a value that is no code, or a wish that needs a CRS where there is none.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    paths = _checked_paths(folder, formats, overwrite)
    with ExitStack() as stack:
        codes = stack.enter_context(rasterio().open(transition_tif))
        probs = probability_tif and stack.enter_context(rasterio().open(probability_tif))
        if probs:
            check_grids(codes, probs)
        areas = PixelAreas(codes.crs, codes.transform, codes.height, codes.width)
        check_crs(codes.crs, formats, min_area_m2, simplify_m, codes.name)
        writers = [
            stack.enter_context(WRITERS[name](path, codes.crs, codes.transform, scheme))
            for name, path in paths.items()
        ]
        tolerance_px = simplify_m / _largest_side(areas) if simplify_m else 0.0
        totals = {"polygons": 0, "area_m2": 0.0, "dropped": 0}
        for regions in _regions(codes, probs, areas, scheme, rows, bool(simplify_m)):
            keep = regions.sums[0] >= min_area_m2 if min_area_m2 else regions.value > 0
            totals["polygons"] += int(keep.sum())
            totals["area_m2"] += float(regions.sums[0, keep].sum())
            totals["dropped"] += int((~keep).sum())
            _write(regions.take(keep), codes.transform, tolerance_px, writers)
            del regions  # its corners, before the writers finish
        if areas.method is None:
            totals["area_m2"] = None
    with atomic_path(folder / f"{LAYER}.qml") as temporary:
        temporary.write_text(style(scheme), encoding="utf-8")
    return {**totals, "files": [*(path.name for path in paths.values()), f"{LAYER}.qml"]}


def check_packages(formats: Sequence[str]) -> None:
    """Raises ValueError unless the packages that write these formats are installed."""
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
    crs: object | None,
    formats: Sequence[str],
    min_area_m2: float = 0,
    simplify_m: float = 0,
    name: object = "the map",
) -> None:
    """Raises ValueError where a wish needs to know more of where a map lies.

    Args:
        crs: of the map, as rasterio gives it; None for none.
        formats: GeoJSON is in degrees, so it needs a CRS that has a place on the Earth.
        min_area_m2: other than 0 it needs a CRS.
        simplify_m: likewise.
        name: of the map or of its first image, for the error.
    """
    wishes = {
        "--min-area": min_area_m2,
        "--simplify": simplify_m,
        "--vector geojson": "geojson" in formats,
    }
    wish = next((wish for wish, wanted in wishes.items() if wanted), None)
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


def _has_degrees(crs: object) -> bool:
    from rasterio.warp import transform

    try:
        transform(crs, "EPSG:4326", [0.0], [0.0])
    except Exception:  # GDAL has a private class for every kind of failure
        return False
    return True


def _name_of(crs: object) -> str:
    """The name that a CRS gives itself, such as "unknown engineering CRS"."""
    text = crs.to_wkt()
    return text.split('"')[1] if '"' in text else text[:60]


def _largest_side(areas: PixelAreas) -> float:
    """Metres on the ground, of the longer side of the largest pixel of a map."""
    t = areas.transform
    if areas.method == PLANE:
        return max(math.hypot(t.a, t.d), math.hypot(t.b, t.e)) * areas.crs.units_factor[1]
    column, row = np.meshgrid(np.linspace(0, areas.width - 1, 9), np.linspace(0, areas.height, 65))
    row = np.minimum(row, areas.height - 1)
    corner, *ends = (_radians(areas, column + x, row + y) for x, y in ((0, 0), (1, 0), (0, 1)))
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


def _radians(areas: PixelAreas, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """(2, ...): longitude and latitude of corners of pixels."""
    from rasterio.warp import transform

    shape = column.shape
    t, column, row = areas.transform, column.ravel(), row.ravel()
    x, y = t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f
    there = transform(areas.crs, "EPSG:4326", x, y)
    return np.radians(np.array(there)).reshape(2, *shape)


def _regions(
    codes: object,
    probs: object | None,
    areas: PixelAreas,
    scheme: Scheme,
    rows: int | None,
    together: bool,
) -> Iterator[Regions]:
    """Changed regions; sums: square metres, pixels with a probability, and their sum."""
    rows = rows or max(16, STRIP_PIXELS // codes.width)
    maker = RegionMaker(codes.width, 3, WAITING_CORNERS if together else 0)
    for top in range(0, codes.height, rows):
        height = min(rows, codes.height - top)
        window = rasterio().windows.Window(0, top, codes.width, height)
        strip, _ = read_codes(codes, window, scheme)
        layers = [areas.strip(top, height), np.zeros((1, 1)), np.zeros((1, 1))]
        if probs:
            values = probs.read(1, window=window)
            known = np.isfinite(values)
            layers[1:] = [known, np.where(known, values, 0)]
        yield maker.add(strip, layers)
    yield maker.finish()


def _batches(regions: Regions) -> Iterator[Regions]:
    """Parts of about BATCH_CORNERS corners; groups stay whole, but for those that are too large."""
    own = np.bincount(regions.corners.region, minlength=len(regions.value))
    too_large = np.bincount(regions.group, own) > WAITING_CORNERS
    regions = regions._replace(split=regions.split | too_large[regions.group])
    alone = len(too_large) + np.arange(len(own))
    _, unit = np.unique(np.where(regions.split, alone, regions.group), return_inverse=True)
    batch = (np.cumsum(np.bincount(unit, own)) // BATCH_CORNERS)[unit]
    for number in np.unique(batch):
        yield regions.take(batch == number)


def _write(
    regions: Regions,
    transform: object,
    tolerance_px: float,
    writers: Sequence[Callable[[Polygons], None]],
) -> None:
    for batch in _batches(regions):
        polygons = _polygons(batch, transform, tolerance_px)
        for write in writers:
            write(polygons)


def _polygons(regions: Regions, transform: object, tolerance_px: float) -> Polygons:
    import shapely

    t = transform

    def placed(points: np.ndarray) -> np.ndarray:
        there = points @ np.array([[t.a, t.d], [t.b, t.e]])
        there += (t.c, t.f)
        return there

    points, *offsets = outlines(regions.corners)
    points = points if tolerance_px else placed(points)
    geometry = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, offsets)
    del points
    if tolerance_px:
        geometry = _simplified(shapely, geometry, regions, tolerance_px)
        geometry = shapely.transform(geometry, placed)
    area, known, total = regions.sums
    with np.errstate(invalid="ignore"):
        return Polygons(geometry, regions.value, area, total / known)


def _simplified(
    shapely: ModuleType, geometry: np.ndarray, regions: Regions, tolerance_px: float
) -> np.ndarray:
    """With fewer points, none of those left out farther than `tolerance_px` from the new outline.

    Outer borders too, unless a group is split: then a polygon of another batch may share them.
    """
    if not hasattr(shapely, "coverage_simplify"):
        return shapely.simplify(geometry, tolerance_px)
    # neighbours must have all points of a shared border in common: those of the pixels
    pixels = shapely.transform(shapely.segmentize(geometry, 1.0), np.rint)
    simple = geometry.copy()
    for split in (False, True):
        todo = np.flatnonzero(regions.split == split)
        share = FIRST_SHARE
        while len(todo) and share * tolerance_px >= SMALLEST_TOLERANCE:
            simple[todo] = shapely.coverage_simplify(
                pixels[todo], share * tolerance_px, simplify_boundary=not split
            )
            far = _leaves(shapely, pixels[todo], simple[todo], tolerance_px)
            again = np.isin(regions.group[todo], regions.group[todo[far]])
            todo, share = todo[again], share * FIRST_SHARE
        simple[todo] = geometry[todo]
    return simple


def _leaves(
    shapely: ModuleType, pixels: np.ndarray, simple: np.ndarray, tolerance_px: float
) -> np.ndarray:
    """(N,) bool: a point of the first polygon lies farther than that from the second's outline."""
    points, number = shapely.get_coordinates(pixels, return_index=True)
    borders = shapely.boundary(simple)
    shapely.prepare(borders)
    near = shapely.dwithin(borders[number], shapely.points(points), tolerance_px)
    return np.bincount(number[~near], minlength=len(pixels)) > 0
