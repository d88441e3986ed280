"""Polygons of what changed from what to what: a GeoPackage, and GeoJSON.

One polygon is one 4-connected region of one from-to code (see utils.regions). The map is read in
strips and polygons are written as they are finished. Area and mean probability are sums over a
polygon's pixels, so they are those of the map, also where outlines are simplified.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import numpy as np

from utils.areas import PixelAreas, check_grids
from utils.files import atomic_path, make_folder
from utils.gdal import rasterio
from utils.regions import RegionMaker, Regions, outlines
from utils.structures import Scheme
from utils.transitions import read_codes
from utils.vector_files import LAYER, WRITERS, Polygons, style

FORMATS = tuple(WRITERS)
PACKAGES = {"gpkg": ("shapely", "pyogrio"), "geojson": ("shapely",)}
STRIP_PIXELS = 2**21  # read at a time
BATCH_CORNERS = 2**18  # made into polygons at a time
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
    utils.transitions), `area_m2`, `area_ha`, `probability` (mean P(changed) of the pixels).
    Unknown areas (no CRS) and probabilities are empty. GeoJSON is in EPSG:4326, longitude first,
    shells counter-clockwise.

    Args:
        folder: made if need be.
        transition_tif: codes; 0 and its nodata value make no polygon.
        probability_tif: P(changed) on the same grid, NaN where not known; None leaves it empty.
        scheme: classes and colours.
        min_area_m2: smaller polygons are left out, square metres on the ground.
        simplify_m: outlines may leave those of the pixels by about this, metres; shared borders
            stay shared (shapely 2.1 and later; before, each polygon is simplified by itself).
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
        _check_crs(codes, formats, min_area_m2, simplify_m)
        writers = [
            stack.enter_context(WRITERS[name](path, codes.crs, codes.transform, scheme))
            for name, path in paths.items()
        ]
        totals = {"polygons": 0, "area_m2": 0.0, "dropped": 0}
        tolerance_px = simplify_m / areas.middle() ** 0.5 if simplify_m else 0.0
        for regions in _regions(codes, probs, areas, scheme, rows, bool(simplify_m)):
            keep = regions.sums[0] >= min_area_m2 if min_area_m2 else regions.value > 0
            totals["dropped"] += int((~keep).sum())
            for batch in _batches(regions.take(keep)):
                polygons = _polygons(batch, codes.transform, tolerance_px)
                totals["polygons"] += len(polygons.code)
                totals["area_m2"] += float(polygons.area_m2.sum())
                for write in writers:
                    write(polygons)
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


def _check_crs(
    codes: object, formats: Sequence[str], min_area_m2: float, simplify_m: float
) -> None:
    if codes.crs:
        return
    wishes = {"--min-area": min_area_m2, "--simplify": simplify_m, "geojson": "geojson" in formats}
    for wish, wanted in wishes.items():
        if wanted:
            raise ValueError(
                f"{wish} needs to know where the map lies, and {codes.name} has no CRS. Give the "
                f"images one (gdal_edit.py -a_srs EPSG:... FILE), or leave {wish} out."
            )


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


def _polygons(regions: Regions, transform: object, tolerance_px: float) -> Polygons:
    import shapely

    t = transform

    def placed(points: np.ndarray) -> np.ndarray:
        return points @ np.array([[t.a, t.d], [t.b, t.e]]) + (t.c, t.f)

    points, *offsets = outlines(regions.corners)
    points = points if tolerance_px else placed(points)
    geometry = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, offsets)
    if tolerance_px:
        for split in (False, True):
            which = regions.split == split
            geometry[which] = _simplified(shapely, geometry[which], tolerance_px, not split)
        geometry = shapely.transform(geometry, placed)
    area, known, total = regions.sums
    with np.errstate(invalid="ignore"):
        return Polygons(geometry, regions.value, area, total / known)


def _simplified(
    shapely: ModuleType, geometry: np.ndarray, tolerance_px: float, outer: bool
) -> np.ndarray:
    """With fewer points; `outer` borders too, which no polygon of another batch shares then."""
    if not hasattr(shapely, "coverage_simplify"):
        return shapely.simplify(geometry, tolerance_px)
    # neighbours must have all points of a shared border in common: those of the pixels
    pixels = shapely.transform(shapely.segmentize(geometry, 1.0), np.rint)
    return shapely.coverage_simplify(pixels, tolerance_px, simplify_boundary=outer)
