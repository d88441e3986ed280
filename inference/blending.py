"""Joins what is predicted in overlapping windows into one map, a few rows of it in memory."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from utils.rasters.windows import Window, grid, starts

FAINT = 1e-5  # weight where another window sees more; counts only where there is no other


class Piece(NamedTuple):
    """A finished rectangle of a map."""

    top: int
    left: int
    values: Tensor  # (C, h, w) float32


class Strip(NamedTuple):
    """Finished rows of a map."""

    top: int
    values: Tensor  # (C, h, W) float32


def ramp(side: int, overlap_px: int) -> Tensor:
    """(side,) weights above 0 of a window along one axis; neighbours' add up to 1.

    From the edge inwards next to nothing for a quarter of the overlap, where a network lacks
    context, then linearly up to 1 for half of it.
    """
    weights = torch.ones(side)
    if overlap_px:
        margin = overlap_px // 4
        places = torch.arange(overlap_px) + 0.5
        rising = ((places - margin) / (overlap_px - 2 * margin)).clamp(FAINT, 1 - FAINT)
        weights[:overlap_px] = rising
        weights[side - overlap_px :] = rising.flip(0)
    return weights


class Blender:
    """Takes the windows of a map and gives a finished rectangle for every one of them.

    A pixel is the mean of the windows that hold it, weighted by `ramp` in both directions; without
    overlap it is exactly the one window's value. Windows come in the order of `grid`, from the
    first of any of its rows; the rows that this one shares with the row above are right only if
    that row came before. Memory: overlap x width.

    Args:
        height: of the map, pixels.
        width: of the map, pixels.
        tile_px: of the grid.
        overlap_px: of the grid.
        full: of the grid.

    Attributes:
        tops: first row of each row of windows.
        lefts: first column of each column of windows.
        side: (height, width) of a window.
    """

    def __init__(self, height: int, width: int, tile_px: int, overlap_px: int, full: bool = False):
        window = grid(height, width, tile_px, overlap_px, full)[0]
        self.height, self.width = height, width
        self.side = window.height, window.width
        self.tops = starts(height, tile_px, overlap_px)
        self.lefts = starts(width, tile_px, overlap_px)
        self._overlap = [overlap_px if len(s) > 1 else 0 for s in (self.tops, self.lefts)]
        self._weights = [
            ramp(side, overlap) for side, overlap in zip(self.side, self._overlap, strict=True)
        ]
        self._above: Tensor | None = None  # (C, overlap, reach): sums of the row of windows above
        self._left: Tensor | None = None  # (C, h, overlap): the window on the left, weighted

    @property
    def reach(self) -> int:
        """Columns of a row of windows, those past the edge included."""
        return self.lefts[-1] + self.side[1]

    def bottom(self, row: int) -> int:
        """The first row that the windows of this row do not finish."""
        return self.tops[row + 1] if row + 1 < len(self.tops) else self.height

    def add(self, window: Window, values: Tensor) -> Piece:
        """Adds the next window, (C, h, w); returns the pixels that no later window touches."""
        device, (high, wide) = values.device, self._overlap
        rows, columns = (weights.to(device) for weights in self._weights)
        sums = values.float() * (rows[:, None] * columns)
        begins = wide if window.left and wide else 0  # of the columns that no window shares yet
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
        piece = sums[:, :done, :step] / total.to(device)
        return Piece(window.top, window.left, piece[..., : self.width - window.left])

    def _total(self, axis: int, begin: int, length: int) -> Tensor:
        """(length,) the sum of all windows' weights along an axis, from a window's first pixel."""
        total, overlap = self._weights[axis][:length].clone(), self._overlap[axis]
        if begin and overlap:
            total[:overlap] += self._weights[axis][-overlap:]
        return total


def join_rows(pieces: Iterable[Piece], width: int) -> Iterator[Strip]:
    """Whole rows of a map of this width, from its pieces in order."""
    row: list[Tensor] = []
    for piece in pieces:
        row.append(piece.values)
        if piece.left + piece.values.shape[-1] == width:
            yield Strip(piece.top, torch.cat(row, dim=-1))
            row = []
