"""From-to or class areas of a map, from its summary.json or counted from its pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from report.files import read_json
from report.structures import Amounts
from utils.rasters.gdal import rasterio
from utils.structures import Scheme

STRIP_PX = 1 << 22  # pixels counted at a time


def read_amounts(folder: Path, scheme: Scheme, in_pixels: bool = False) -> Amounts:
    """Areas by from-to transition, or by class for land cover, of a whole map.

    Args:
        folder: of the map.
        scheme: classes of the map.
        in_pixels: count pixels; otherwise hectares if the map has a CRS.
    """
    summary = read_json(folder / "summary.json")
    return _of_summary(summary, scheme, in_pixels) or _counted(folder, scheme, in_pixels)


def _of_summary(summary: Any, scheme: Scheme, in_pixels: bool) -> Amounts | None:
    """Amounts from summary.json; None if it is missing, invalid or has other classes."""
    try:
        if (summary["task"], tuple(summary["classes"])) != (scheme.task, scheme.classes):
            return None
        with_area = summary["area_method"] is not None and not in_pixels
        key, unit = ("hectares", "ha") if with_area else ("pixels", "px")
        return _amounts_of(summary, key, unit)
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _amounts_of(summary: Mapping[str, Any], key: str, unit: str) -> Amounts:
    valid, no_data = float(summary[key]["valid"]), float(summary[key]["nodata"])
    if summary["task"] == "land_cover":
        return Amounts(None, np.array(summary["by_class"][key], float), valid, unit, no_data)
    table = np.array(summary["matrix"][key], float)
    return Amounts(table[1:, 1:], None, valid, unit, no_data)


def _counted(folder: Path, scheme: Scheme, in_pixels: bool) -> Amounts:
    """Amounts counted from the pixels of the map."""
    k = scheme.num_classes
    if scheme.task == "land_cover":
        sums, unit = _sums(folder / "classes.tif", k + 1, in_pixels)
        classes = sums[1 : k + 1]
        return Amounts(None, classes, float(classes.sum()), unit, float(sums[0] + sums[-1]))
    codes = folder / "transition.tif"
    side, path = (k, codes) if k and codes.exists() else (1, folder / "change.tif")
    sums, unit = _sums(path, side * side + 1, in_pixels)
    transitions = sums[1:-1].reshape(side, side)
    return Amounts(transitions, None, float(sums[:-1].sum()), unit, float(sums[-1]))


def _sums(path: Path, states: int, in_pixels: bool) -> tuple[np.ndarray, str]:
    """(states + 1,) areas of the values 0..states - 1 and of all other values; and their unit."""
    from maps.areas import M2_PER_HA, PixelAreas

    total = np.zeros(states + 1)
    with rasterio().open(path) as file:
        areas = PixelAreas(file.crs, file.transform, file.height, file.width)
        without = in_pixels or areas.method is None
        rows = max(1, STRIP_PX // file.width)
        for top in range(0, file.height, rows):
            count = min(rows, file.height - top)
            window = rasterio().windows.Window(0, top, file.width, count)
            values = file.read(1, window=window).astype(np.int64)
            values[(values < 0) | (values > states)] = states
            weights = None if without else _weights(areas, top, count, file.width).ravel()
            total += np.bincount(values.ravel(), weights, minlength=states + 1)
    return (total, "px") if without else (total / M2_PER_HA, "ha")


def _weights(areas: Any, top: int, rows: int, width: int) -> np.ndarray:
    """(rows, width) square metres of each pixel."""
    return np.nan_to_num(np.broadcast_to(areas.strip(top, rows), (rows, width)))
