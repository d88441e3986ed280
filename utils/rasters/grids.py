"""Georeference of images: CRS and transform."""

from typing import Any

import numpy as np

from utils.rasters.raster import Raster


def grid_difference(first: Raster, second: Raster) -> str | None:
    """Text on how CRS, transform or control points of two images differ; None if they are equal.

    Corners may differ by a hundredth of a pixel. Control points place images without a transform.
    """
    if first.crs != second.crs:
        return f"CRS {_short(first.crs)} and {_short(second.crs)}"
    if first.transform is None or second.transform is None:
        same = first.transform is second.transform
        if same and list(first.points) != list(second.points):
            return "ground control points"
    else:
        one, two = (np.reshape(r.transform[:6], (2, 3)) for r in (first, second))
        corners = np.array([[0, first.width, 0], [0, 0, first.height], [1, 1, 1]])
        pixel = np.hypot(*one[:, :2]).min()
        same = np.abs((one - two) @ corners).max() < 0.01 * pixel
    if same:
        return None
    return f"transform {_numbers(first.transform)} and {_numbers(second.transform)}"


def shifted(transform: Any, left: int, top: int) -> Any:
    """The transform of a window that begins at pixel (left, top); None stays None."""
    if transform is None:
        return None
    a, b, c, d, e, f = transform[:6]
    return type(transform)(a, b, c + a * left + b * top, d, e, f + d * left + e * top)


def _short(crs: Any) -> str:
    text = "none" if crs is None else crs.to_string()
    return text if len(text) < 40 else text[:37] + "..."


def _numbers(transform: Any) -> str:
    return "none" if transform is None else str([float(value) for value in transform[:6]])
