"""Divides a scene into windows."""

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of a scene, in pixels; it may reach beyond the right and bottom edge."""

    top: int
    left: int
    height: int
    width: int


def windows_of(
    height: int, width: int, tile_px: int, overlap_px: int = 0, full: bool = False
) -> list[Window]:
    """Windows of equal size that cover a scene, row by row.

    The size is `tile_px` x `tile_px`. If a side of the scene is shorter, unless `full`, the window
    has that side rounded up to a multiple of 32 pixels.

    Args:
        height: of the scene, pixels, at least 1.
        width: of the scene, pixels, at least 1.
        tile_px: largest side of a window.
        overlap_px: overlap of neighbours, at most half a window.
        full: windows are never smaller than `tile_px`.

    Raises:
        ValueError: `tile_px` below 1, or an overlap outside 0..tile_px / 2.
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
    """First pixels of the windows along one axis, in equal steps until a window reaches the end."""
    step = tile_px - overlap_px
    return [step * i for i in range(max(1, -(-(length - tile_px) // step) + 1))]
