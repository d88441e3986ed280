"""Joins windows of a map of any width: only what neighbouring windows share is kept."""

from typing import NamedTuple

from torch import Tensor

from utils.windows import Window, grid, ramp, starts


class Piece(NamedTuple):
    """A finished rectangle of a map."""

    top: int
    left: int
    values: Tensor  # (C, h, w) float32


class PieceBlender:
    """As `utils.windows.Blender`, but gives a finished rectangle for every window.

    Windows come in the order of `grid`, from the first of any of its rows; the rows that this one
    shares with the row above are right only if that row came before. Memory: overlap x width.

    Args:
        height: of the map, pixels.
        width: of the map, pixels.
        tile_px: of the grid.
        overlap_px: of the grid.

    Attributes:
        tops: first row of each row of windows.
        lefts: first column of each column of windows.
        side: (height, width) of a window.
    """

    def __init__(self, height: int, width: int, tile_px: int, overlap_px: int):
        window = grid(height, width, tile_px, overlap_px)[0]
        self.height, self.width = height, width
        self.side = window.height, window.width
        self.tops = starts(height, tile_px, overlap_px)
        self.lefts = starts(width, tile_px, overlap_px)
        self._overlap = [overlap_px if len(s) > 1 else 0 for s in (self.tops, self.lefts)]
        self._weights = [
            ramp(side, overlap) for side, overlap in zip(self.side, self._overlap, strict=True)
        ]
        self._above: Tensor | None = None  # (C, overlap, reach): sums of the row of windows above
        self._left: Tensor | None = None  # (C, h, overlap): those of the window on the left

    @property
    def reach(self) -> int:
        """Columns of a row of windows, those past the edge included."""
        return self.lefts[-1] + self.side[1]

    def bottom(self, row: int) -> int:
        """The first row that the windows of this row do not finish."""
        return self.tops[row + 1] if row + 1 < len(self.tops) else self.height

    def add(self, window: Window, values: Tensor) -> Piece:
        """Adds the next window, (C, h, w); returns the pixels that no later window touches."""
        device = values.device
        rows, columns = (weights.to(device) for weights in self._weights)
        sums = values.float() * (rows[:, None] * columns)
        high, wide = self._overlap
        first, last = window.left == 0, window.left == self.lefts[-1]
        if not first and wide:
            sums[..., :wide] += self._left
        step = self.side[1] if last else self.side[1] - wide
        self._left = sums[..., step:]
        own = slice(window.left, window.left + step)
        sums = sums[..., :step]
        if high:
            if self._above is None:
                self._above = sums.new_zeros(len(sums), high, self.reach)
            if window.top:
                sums[:, :high] += self._above[..., own]
            if window.top != self.tops[-1]:
                self._above[..., own] = sums[:, self.side[0] - high :]
        done = self.bottom(self.tops.index(window.top)) - window.top
        total = self._total(0, window.top, done)[:, None] * self._total(1, window.left, step)
        piece = sums[:, :done] / total.to(device)
        return Piece(window.top, window.left, piece[..., : self.width - window.left])

    def _total(self, axis: int, begin: int, length: int) -> Tensor:
        """(length,) the sum of all windows' weights along an axis, from a window's first pixel."""
        total, overlap = self._weights[axis][:length].clone(), self._overlap[axis]
        if begin and overlap:
            total[:overlap] += self._weights[axis][-overlap:]
        return total
