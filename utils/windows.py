"""Cutting a scene into windows, and blending what is predicted in them."""

from typing import NamedTuple

import torch
from torch import Tensor

FAINT = 1e-5  # weight where another window sees more; counts only where there is no other


class Window(NamedTuple):
    """A rectangle of a scene, in pixels; it may reach beyond the right and bottom edge."""

    top: int
    left: int
    height: int
    width: int


def grid(
    height: int, width: int, tile_px: int, overlap_px: int = 0, full: bool = False
) -> list[Window]:
    """Windows that cover a scene, row by row, all of one size.

    That is `tile_px` x `tile_px`; along a shorter side of the scene, unless `full`, it is that side
    rounded up to a multiple of 32 pixels.

    Args:
        height: of the scene, pixels, at least 1.
        width: of the scene, pixels, at least 1.
        tile_px: largest side of a window.
        overlap_px: what neighbours share, at most half a window.
        full: never smaller windows.

    Raises:
        ValueError: a tile below 1 px, or an overlap outside 0..tile_px / 2.
    """
    if tile_px < 1:
        raise ValueError(f"--tile-px {tile_px} must be at least 1 pixel")
    if not 0 <= 2 * overlap_px <= tile_px:
        raise ValueError(
            f"--overlap-px {overlap_px} must lie in 0..{tile_px // 2}, half of --tile-px {tile_px}"
        )
    sides = [tile_px if full else min(tile_px, -(-length // 32) * 32) for length in (height, width)]
    return [
        Window(top, left, *sides)
        for top in starts(height, tile_px, overlap_px)
        for left in starts(width, tile_px, overlap_px)
    ]


def starts(length: int, tile_px: int, overlap_px: int) -> list[int]:
    """Where windows begin along one axis: at equal steps, until one reaches the end."""
    step = tile_px - overlap_px
    return [step * i for i in range(max(1, -(-(length - tile_px) // step) + 1))]


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


class Strip(NamedTuple):
    """Finished rows of a scene."""

    top: int
    values: Tensor  # (C, h, W) float32


class Blender:
    """Joins windows of one scene into strips of rows, overlaps blended, a few rows in memory.

    Windows come in the order of `grid`. A pixel is the mean of the windows that hold it, weighted
    by `ramp` in both directions; without overlap it is exactly the one window's value.

    Args:
        height: of the scene, pixels.
        width: of the scene, pixels.
        tile_px: of the grid.
        overlap_px: of the grid.
        full: of the grid.
    """

    def __init__(self, height: int, width: int, tile_px: int, overlap_px: int, full: bool = False):
        self.height, self.width = height, width
        windows = grid(height, width, tile_px, overlap_px, full)
        self._side = windows[0].height, windows[0].width
        self._rows = self._weights(height, tile_px, overlap_px, self._side[0])
        self._columns = self._weights(width, tile_px, overlap_px, self._side[1])
        self._reach = windows[-1].left + self._side[1]  # columns, those past the edge included
        self._top = 0
        self._sums: Tensor | None = None  # (C, side, reach): the rows from _top on

    def _weights(
        self, length: int, tile_px: int, overlap_px: int, side: int
    ) -> tuple[Tensor, Tensor]:
        """One window's weights along an axis, and the sum of all windows' weights along it."""
        begins = starts(length, tile_px, overlap_px)
        weights = ramp(side, overlap_px if len(begins) > 1 else 0)
        total = torch.zeros(begins[-1] + side)
        for begin in begins:
            total[begin : begin + side] += weights
        return weights, total

    def add(self, window: Window, values: Tensor) -> Strip | None:
        """Adds the next window, (C, h, w); returns the rows that no later window touches."""
        done = self._advance(window.top) if window.top > self._top else None
        if self._sums is None:
            self._sums = values.new_zeros(
                len(values), self._side[0], self._reach, dtype=torch.float32
            )
        weight = self._rows[0][:, None] * self._columns[0]
        columns = slice(window.left, window.left + self._side[1])
        self._sums[..., columns] += values.float() * weight.to(values.device)
        return done

    def finish(self) -> Strip:
        """The last rows, after the last window."""
        return self._advance(self.height)

    def _advance(self, top: int) -> Strip:
        """Hands out the rows above `top` and moves on."""
        count = min(top, self.height) - self._top
        total = self._rows[1][self._top : self._top + count, None] * self._columns[1]
        values = self._sums[:, :count] / total.to(self._sums.device)
        strip = Strip(self._top, values[..., : self.width])
        self._sums = torch.cat([self._sums[:, count:], torch.zeros_like(self._sums[:, :count])], 1)
        self._top = top
        return strip
