"""Outlines of polygons with fewer points, in which neighbours still share their borders."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

COVERAGE = 2**7  # polygons simplified at a time
FIRST_SHARE = 0.7  # shapely's tolerance bounds areas, not distances, so it starts with this share
SMALLEST_TOLERANCE = 0.5**0.5  # pixels; the smallest triangle of pixel corners has area 0.5


def simplified(geometry: np.ndarray, tolerance_px: float) -> np.ndarray:
    """Polygons with fewer points; no removed point is farther from the outline than the tolerance.

    Neighbours still share their borders. Shapely's tolerance bounds areas, not distances. If it
    moves an outline too far, that polygon and its group (`touching`) are simplified again with a
    smaller tolerance.

    Args:
        geometry: (N,) polygons along pixels.
        tolerance_px: in pixels.
    """
    import shapely

    # neighbours must have all points of a shared border in common, so add all pixel corners
    pixels = shapely.transform(shapely.segmentize(geometry, 1.0), np.rint)
    groups, simple = touching(pixels), geometry.copy()

    def simplify(todo: np.ndarray) -> None:
        share = FIRST_SHARE
        while len(todo) and share * tolerance_px >= SMALLEST_TOLERANCE:
            simple[todo] = shapely.coverage_simplify(pixels[todo], share * tolerance_px)
            far = _exceeds_tolerance(pixels[todo], simple[todo], tolerance_px)
            again = np.isin(groups[todo], groups[todo[far]])
            todo, share = todo[again], share * FIRST_SHARE
        simple[todo] = geometry[todo]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(simplify, _whole_groups(groups)))
    return simple


def _whole_groups(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of polygons, at least COVERAGE at a time; a group is never divided.

    The time of `shapely.coverage_simplify` grows faster than the number of polygons.
    """
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order], append=-1)) + 1
    start = 0
    for end in ends:
        if end - start >= COVERAGE or end == len(order):
            yield order[start:end]
            start = end


def touching(pixels: np.ndarray) -> np.ndarray:
    """(N,) int group of each polygon; polygons that touch, even at a corner, are in one group.

    Args:
        pixels: (N,) polygons with a point at every corner of a pixel along their outlines.
    """
    import shapely

    points, number = shapely.get_coordinates(pixels, return_index=True)
    order = np.lexsort(points.T)
    points, number = points[order], number[order]
    same = np.all(points[1:] == points[:-1], axis=1)
    return components(len(pixels), number[:-1][same], number[1:][same])


def components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(count,) int: connected component of each node; edges join `first[i]` and `second[i]`."""
    parent = np.arange(count)
    while len(first):
        low, high = np.minimum(first, second), np.maximum(first, second)
        parent[high] = low  # all are roots; if a root occurs several times, any assignment is valid
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above
        first, second = parent[first], parent[second]
        apart = first != second
        first, second = first[apart], second[apart]
    return parent


def _exceeds_tolerance(pixels: np.ndarray, simple: np.ndarray, tolerance_px: float) -> np.ndarray:
    """(N,) bool: a point of `pixels` is farther than the tolerance from the outline of `simple`."""
    import shapely

    points, number = shapely.get_coordinates(pixels, return_index=True)
    borders = shapely.boundary(simple)
    shapely.prepare(borders)
    near = shapely.dwithin(borders[number], shapely.points(points), tolerance_px)
    return np.bincount(number[~near], minlength=len(pixels)) > 0
