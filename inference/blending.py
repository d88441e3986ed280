"""Blends predictions of overlapping windows into one map, with only a few rows in memory."""

from typing import NamedTuple

import torch
from torch import Tensor

from utils.rasters.windows import Window, along

EDGE_WEIGHT = 1e-5  # weight of a window's outer edge; negligible unless no other window covers it


class Piece(NamedTuple):
    """A finished rectangle of a map."""

    top: int
    left: int
    values: Tensor  # (C, h, w) float32


def ramp(side: int, overlap_px: int) -> Tensor:
    """(side,) positive weights of a window along one axis; those of two neighbours sum to 1.

    From the edge inwards, the weight is `EDGE_WEIGHT` for a quarter of the overlap, where the
    network lacks context. It then rises linearly to 1 over half of the overlap.
    """
    weights = torch.ones(side)
    if overlap_px:
        margin = overlap_px // 4
        places = torch.arange(overlap_px) + 0.5
        rising = ((places - margin) / (overlap_px - 2 * margin)).clamp(EDGE_WEIGHT, 1 - EDGE_WEIGHT)
        weights[:overlap_px] = rising
        weights[side - overlap_px :] = rising.flip(0)
    return weights


class Blender:
    """Blends the windows of a map; returns one finished rectangle for each window.

    A pixel is the mean of the windows that cover it, weighted by `ramp` in both directions; without
    overlap it is exactly the value of its window. Windows must come in the order of `windows_of`.
    They may begin with any row of windows, but then the overlap with the row above is not blended.
    Memory: overlap x width.

    Args:
        height: of the map, pixels.
        width: of the map, pixels.
        tile_px: argument of `windows_of`.
        overlap_px: argument of `windows_of`.
        full: argument of `windows_of`.

    Attributes:
        tops: first row of each row of windows.
        lefts: first column of each column of windows.
        side: (height, width) of a window.
    """

    def __init__(self, height: int, width: int, tile_px: int, overlap_px: int, full: bool = False):
        self.height, self.width = height, width
        high, self.tops = along(height, tile_px, overlap_px, full)
        wide, self.lefts = along(width, tile_px, overlap_px, full)
        self.side = high, wide
        self._overlap = [overlap_px if len(s) > 1 else 0 for s in (self.tops, self.lefts)]
        self._weights = [
            ramp(side, overlap) for side, overlap in zip(self.side, self._overlap, strict=True)
        ]
        self._above: Tensor | None = None  # (C, overlap, reach): weighted sums of the row above
        self._left: Tensor | None = None  # (C, h, overlap): weighted values of the left window

    @property
    def reach(self) -> int:
        """Columns covered by a row of windows, including those past the map's edge."""
        return self.lefts[-1] + self.side[1]

    def bottom(self, row: int) -> int:
        """The first pixel row that this row of windows does not finish."""
        return self.tops[row + 1] if row + 1 < len(self.tops) else self.height

    def add(self, window: Window, values: Tensor) -> Piece:
        """Adds the next window, (C, h, w); returns the pixels that no later window touches."""
        device, (high, wide) = values.device, self._overlap
        rows, columns = (weights.to(device) for weights in self._weights)
        sums = values.float() * (rows[:, None] * columns)
        begins = wide if window.left and wide else 0  # first column not shared with the left window
        step = self.side[1] - (0 if window.left == self.lefts[-1] else wide)
        left, self._left = self._left, sums[..., step:].clone()
        above = None
        if high and self._above is None:
            self._above = sums.new_zeros(len(sums), high, self.reach)
        if high and window.top:
            above = self._above[..., window.left : window.left + step]
            sums[:, :high, begins:step] += above[..., begins:]
        if begins:
            left = left.clone() if above is not None else left
            if above is not None:
                left[:, :high] += above[..., :begins]
            sums[..., :begins] += left
        if high and window.top != self.tops[-1]:
            self._above[..., window.left : window.left + step] = sums[:, -high:, :step]
        done = self.bottom(self.tops.index(window.top)) - window.top
        total = self._total(0, window.top, done)[:, None] * self._total(1, window.left, step)
        piece = sums[:, :done, :step].div_(total.to(device))
        return Piece(window.top, window.left, piece[..., : self.width - window.left])

    def _total(self, axis: int, begin: int, length: int) -> Tensor:
        """(length,) sum of all windows' weights along an axis, from pixel `begin` on."""
        total, overlap = self._weights[axis][:length].clone(), self._overlap[axis]
        if begin and overlap:
            total[:overlap] += self._weights[axis][-overlap:]
        return total
