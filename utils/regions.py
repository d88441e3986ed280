"""Regions of equal value in a map that arrives in strips of rows, and their outlines.

A region is 4-connected: pixels that touch at a corner only are two regions, so that every outline
is a valid polygon. Strips are labelled by runs of pixels and joined over their seams; a region is
handed out, whole, when a strip has no pixel of it in its last row. Kept until then are that row
and the corners of unfinished regions, 13 bytes each. Results do not depend on where seams are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# the vertical edge of a corner goes down (else up); its region lies below the horizontal one (else
# above)
DOWN, BELOW = 1, 2


class Corners(NamedTuple):
    """N corners of outlines, row by row; where a region touches itself it has two in one place."""

    region: np.ndarray  # (N,) int32
    x: np.ndarray  # (N,) int32, columns from the left
    y: np.ndarray  # (N,) int32, rows from the top
    ways: np.ndarray  # (N,) uint8, of DOWN and BELOW

    def take(self, which: np.ndarray) -> "Corners":
        """Those of an index or a mask."""
        return Corners(*(column[which] for column in self))


class Regions(NamedTuple):
    """R regions; those that began first come first."""

    value: np.ndarray  # (R,) int32, of the map
    sums: np.ndarray  # (S, R) float64, of the layers
    group: np.ndarray  # (R,) int32: equal for regions that touch, also at a corner
    split: np.ndarray  # (R,) bool: regions of its group were, or will be, handed out apart
    corners: Corners  # `region` in 0..R-1

    def take(self, keep: np.ndarray) -> "Regions":
        """Those of a mask (R,), numbered anew; itself, not a copy, where that is all."""
        if keep.all():
            return self
        number = np.cumsum(keep, dtype=np.int32) - 1
        corners = self.corners.take(keep[self.corners.region])
        corners = corners._replace(region=number[corners.region])
        columns = (self.value[keep], self.sums[:, keep], self.group[keep], self.split[keep])
        return Regions(*columns, corners)


class RegionMaker:
    """Takes the strips of a map from top to bottom.

    Args:
        width: of the map.
        num_layers: S, how many layers are summed over each region.
        max_corners: regions that touch, also at a corner, are handed out together, unless more
            corners than this wait for it; 0 hands out each as soon as it is finished.
    """

    def __init__(self, width: int, num_layers: int = 0, max_corners: int = 0):
        self.max_corners = max_corners
        self._top = 0
        self._codes = np.zeros((1, width), np.int32)  # of the last row,
        self._numbers = np.full((1, width), -1, np.int32)  # and its regions in `_open`
        none = np.zeros(0, np.int32)
        corners = Corners(none, none, none, none.astype(np.uint8))
        self._open = Regions(none, np.zeros((num_layers, 0)), none, none.astype(bool), corners)

    def add(self, codes: np.ndarray, layers: Sequence[np.ndarray] = ()) -> Regions:
        """Takes the next rows; returns the regions that are finished.

        Args:
            codes: (h, W) integers; 0 = no region.
            layers: S arrays (h, W) or (h, 1) to be summed over each region.
        """
        codes = np.concatenate([self._codes, codes.astype(np.int32)])
        inside, starts = codes != 0, _run_starts(codes)
        runs = np.cumsum(starts[1:], dtype=np.int32).reshape(starts[1:].shape) - 1
        num_open = len(self._open.value)
        numbers = np.concatenate([self._numbers, np.where(inside[1:], runs + num_open, -1)])
        values = np.concatenate([self._open.value, codes[1:][starts[1:]]])

        meets = inside[1:] & (codes[1:] == codes[:-1]) & (starts[1:] | starts[:-1])
        region = components(len(values), numbers[:-1][meets], numbers[1:][meets])
        labels = np.append(region, np.int32(-1))[numbers]
        regions = self._gather(region, values, labels, layers)
        self._top += len(codes) - 1
        return self._split_off(regions, codes[-1:], labels[-1:])

    def finish(self) -> Regions:
        """The regions that reach the bottom of the map."""
        layers = [np.zeros((1, 1))] * len(self._open.sums)
        return self.add(np.zeros_like(self._codes), layers)

    def _gather(
        self, region: np.ndarray, values: np.ndarray, labels: np.ndarray, layers: Sequence
    ) -> Regions:
        """All regions open or begun; `region` of open ones and runs, `labels` with a row above."""
        count, num_open = int(region.max(initial=-1)) + 1, len(self._open.value)
        value, before = np.zeros(count, np.int32), region[:num_open]
        value[region] = values
        inside = labels[1:] >= 0
        sums = np.zeros((len(layers), count))
        for total, layer, earlier in zip(sums, layers, self._open.sums, strict=True):
            weights = np.broadcast_to(layer, inside.shape)[inside]
            total += np.bincount(labels[1:][inside], weights, minlength=count)
            total += np.bincount(before, earlier, minlength=count)
        around, corners = _vertices(labels, self._top)
        waiting = self._open.corners._replace(region=before[self._open.corners.region])
        corners = Corners(*(np.concatenate(pair) for pair in zip(waiting, corners, strict=True)))
        group = np.arange(count, dtype=np.int32)
        if self.max_corners:
            group = components(count, *_neighbours(around, before, self._open.group))
        split = np.zeros(count, bool)
        split[group[before[self._open.split]]] = True
        return Regions(value, sums, group, split[group], corners)

    def _split_off(self, regions: Regions, codes: np.ndarray, labels: np.ndarray) -> Regions:
        """Keeps what the last row belongs to; returns the rest."""
        in_last = np.zeros(len(regions.value), bool)
        in_last[labels[labels >= 0]] = True
        group_goes_on = np.zeros(len(in_last), bool)
        group_goes_on[regions.group[in_last]] = True
        stays = group_goes_on[regions.group]
        if self.max_corners and np.count_nonzero(stays[regions.corners.region]) > self.max_corners:
            regions, stays = regions._replace(split=regions.split | stays), in_last
        self._open = regions.take(stays)
        number = np.cumsum(stays, dtype=np.int32) - 1
        self._codes, self._numbers = codes, np.append(number, np.int32(-1))[labels]
        return regions.take(~stays)


def components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(count,) int32: numbers 0.. of what pairs of nodes join; the first node's is 0, and so on."""
    parent = np.arange(count, dtype=np.int32)
    while len(first):
        low, high = np.minimum(first, second), np.maximum(first, second)
        parent[high] = low  # all of them are roots; of several that want one, any may win
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above
        first, second = parent[first], parent[second]
        apart = first != second
        first, second = first[apart], second[apart]
    is_root = parent == np.arange(count)
    return (np.cumsum(is_root, dtype=np.int32) - 1)[parent]


def _run_starts(codes: np.ndarray) -> np.ndarray:
    """(h, W) bool: the leftmost pixel of each run of one code."""
    starts = codes != 0
    starts[:, 1:] &= codes[:, 1:] != codes[:, :-1]
    return starts


def _vertices(labels: np.ndarray, top: int) -> tuple[tuple[np.ndarray, ...], Corners]:
    """Where four pixels meet that are not all of one region, and the corners there.

    Args:
        labels: (h + 1, W) regions, -1 = none.
        top: row of the map of labels[1].

    Returns:
        The regions left above, right above, left below and right below of each such place, and the
        corners of all regions.
    """
    padded = np.pad(labels, ((0, 0), (1, 1)), constant_values=-1)
    quarters = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    a, b, c, d = quarters
    places = np.flatnonzero((a != b) | (c != d) | (a != c))
    a, b, c, d = around = tuple(quarter.reshape(-1)[places] for quarter in quarters)
    found = []
    for own, beside, over, across, convex, concave in (
        (d, c, b, a, DOWN | BELOW, BELOW),
        (b, a, d, c, 0, DOWN),
        (c, d, a, b, DOWN | BELOW, BELOW),
        (a, b, c, d, 0, DOWN),
    ):  # in this order, see _crossed
        alone = (own >= 0) & (beside != own) & (over != own)
        inner = (own >= 0) & (beside == own) & (over == own) & (across != own)
        where = np.flatnonzero(alone | inner)
        ways = np.where(alone[where], np.uint8(convex), np.uint8(concave))
        found.append((where, own[where], ways))
    where, region, ways = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(where, kind="stable")
    y, x = np.divmod(places[where[order]], padded.shape[1] - 1)
    x, y = x.astype(np.int32), (y + top).astype(np.int32)
    return around, Corners(region[order], x, y, ways[order])


def _neighbours(
    around: tuple[np.ndarray, ...], before: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of regions that touch: those here, and the open ones of one group."""
    a, b, c, d = around
    first, second = np.concatenate([c, a, a, b]), np.concatenate([d, c, d, c])
    touch = (first >= 0) & (second >= 0) & (first != second)
    _, leader = np.unique(group, return_index=True)
    leaders = np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    leaders[group[leader]] = leader
    first = np.concatenate([first[touch], before])
    return first, np.concatenate([second[touch], before[leaders[group]]])


def outlines(corners: Corners) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The polygons of regions 0..R-1, as shapely.from_ragged_array takes them.

    Args:
        corners: all of each region.

    Returns:
        Coordinates (N, 2) float64 in columns and rows of the map; the first of each ring, and the
        end; the first ring of each polygon, and the end. A polygon's first ring is its shell,
        counter-clockwise as one sees the map (row 0 on top); holes are clockwise. No two
        successive edges have one direction, and each ring begins at its topmost, leftmost edge.
    """
    corners = _crossed(corners.take(np.argsort(corners.region, kind="stable")))
    edges = np.arange(0, len(corners.x), 2, dtype=np.int32)  # the left end of horizontal ones
    leftwards = (corners.ways[0::2] & BELOW) > 0
    order, first = _cycles(_vertical_mates(corners)[edges + ~leftwards] // 2)

    ring_sizes = np.diff(first, append=len(order))
    rings = np.concatenate([[0], np.cumsum(2 * ring_sizes + 1)])
    ring_region = corners.region[2 * order[first]]
    num_regions = int(corners.region[-1]) + 1 if len(corners.region) else 0
    closed = _closed(edges[order], leftwards[order], first)
    coordinates = np.empty((len(closed), 2))
    coordinates[:, 0], coordinates[:, 1] = corners.x[closed], corners.y[closed]
    return coordinates, rings, np.searchsorted(ring_region, np.arange(num_regions + 1))


def _closed(left: np.ndarray, leftwards: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The corners along rings of edges, the first of each ring again at its end.

    Args:
        left: (M,) int32, the left end of each edge; its right end is the next corner.
        leftwards: (M,) bool, where an edge goes from right to left.
        first: where each ring begins in them.
    """
    points = np.empty((len(left), 2), np.int32)
    points[:, 0], points[:, 1] = left + leftwards, left + ~leftwards
    return np.insert(points.ravel(), 2 * np.append(first, len(left))[1:], points[first, 0])


def _crossed(corners: Corners) -> Corners:
    """Parts the outline where a region touches itself at a corner, so that no ring does.

    The two corners there are those of its two pixels, that of the right pixel first. Exchanging
    their horizontal edges makes them those of the two gaps: now the first one's goes left. The
    side that counts is that of an edge's left end, so of the second corner.
    """
    region, x, y, ways = corners
    twice = (region[1:] == region[:-1]) & (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    first, ways = np.flatnonzero(twice), ways.copy()
    ways[first + 1] ^= (ways[first] ^ ways[first + 1]) & BELOW
    return corners._replace(ways=ways)


def _vertical_mates(corners: Corners) -> np.ndarray:
    """(N,) int32: the corner at the other end of each one's vertical edge."""
    width = int(corners.x.max(initial=0)) + 1
    column = corners.region.astype(np.int64) * width + corners.x
    order = np.argsort(column, kind="stable").astype(np.int32)  # down each column
    order += _turned(corners)[order]
    mates = np.empty_like(order)
    mates[order[0::2]], mates[order[1::2]] = order[1::2], order[0::2]
    return mates


def _turned(corners: Corners) -> np.ndarray:
    """(N,) int8: 1 and -1 at two corners in one place, where the first one's edge goes down.

    Down a column the edge that ends in a place comes before the one that begins there.
    """
    region, x, y, ways = corners
    twice = (region[1:] == region[:-1]) & (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    first = np.flatnonzero(twice & ((ways[:-1] & DOWN) > 0))
    turned = np.zeros(len(x), np.int8)
    turned[first], turned[first + 1] = 1, -1
    return turned


def _cycles(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cycles of a permutation, each from its smallest element: elements, and where each begins."""
    after, order = memoryview(following), np.empty_like(following)
    seen, written, first, position = bytearray(len(following)), memoryview(order), [], 0
    for begin in range(len(following)):
        if seen[begin]:
            continue
        first.append(position)
        element = begin
        while not seen[element]:
            seen[element] = 1
            written[position] = element
            position += 1
            element = after[element]
    return order, np.array(first, np.int64)
