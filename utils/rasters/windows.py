"""Divides a scene into windows."""

from typing import NamedTuple

MULTIPLE_PX = 32  # sides of windows are multiples of it, as networks halve them five times


class Window(NamedTuple):
    """A rectangle of a scene, in pixels; it may reach beyond the right and bottom edge."""

    top: int
    left: int
    height: int
    width: int


def windows_of(
    height: int, width: int, tile_px: int, overlap_px: int = 0, full: bool = False
) -> list[Window]:
    """Windows of equal size that cover a scene, row by row; see `along`.

    Args:
        height: of the scene, pixels, at least 1.
        width: of the scene, pixels, at least 1.
        tile_px: largest side of a window.
        overlap_px: overlap of neighbours, at most half of `tile_px`.
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
    high, tops = along(height, tile_px, overlap_px, full)
    wide, lefts = along(width, tile_px, overlap_px, full)
    return [Window(top, left, high, wide) for top in tops for left in lefts]


def along(length: int, tile_px: int, overlap_px: int, full: bool = False) -> tuple[int, list[int]]:
    """Side and first pixels of the windows along one axis, at equal steps.

    There are as few windows as sides of `tile_px` allow. Unless `full`, they are as short as covers
    the axis, in steps of 32 pixels, so that little lies beyond its end.
    """
    count = max(1, -(-(length - overlap_px) // (tile_px - overlap_px)))
    side = tile_px
    if not full:
        needed = -(-(length + (count - 1) * overlap_px) // count)
        if count > 1:  # a window overlaps its neighbours only
            needed = max(needed, 2 * overlap_px)
        side = min(tile_px, -(-needed // MULTIPLE_PX) * MULTIPLE_PX)
    return side, [(side - overlap_px) * i for i in range(count)]
