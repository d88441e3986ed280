"""Cutting a scene into windows, and blending what is predicted in them."""

from typing import NamedTuple


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
