"""Windows joined piece by piece, each pixel the weighted mean of the windows that hold it."""

import pytest
import torch

from helpers.windows import joined
from inference.blending import Blender, ramp
from utils.rasters.windows import windows_of

SHAPES = [(100, 90, 32, 8), (64, 64, 64, 16), (7, 200, 32, 16), (33, 65, 32, 0), (50, 31, 20, 5)]


def weighted_mean(height: int, width: int, overlap_px: int, windows) -> torch.Tensor:
    """The definition, with whole maps in float64 in memory."""
    side = windows[0][0]
    rows, columns = (
        ramp(length, overlap_px if any(w[axis] for w, _ in windows) else 0).double()
        for axis, length in ((0, side.height), (1, side.width))
    )
    weight = rows[:, None] * columns
    sums, total = torch.zeros(2, 2000, 2000, dtype=torch.float64), torch.zeros(2000, 2000).double()
    for window, values in windows:
        place = (slice(window.top, window.top + side.height),)
        place += (slice(window.left, window.left + side.width),)
        sums[(slice(None), *place)] += values * weight
        total[place] += weight
    return (sums / total)[:, :height, :width]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pixel_is_the_weighted_mean_of_its_windows(shape):
    torch.manual_seed(0)
    windows = [(w, torch.rand(2, w.height, w.width)) for w in windows_of(*shape)]
    blender = Blender(*shape)
    found = joined(*shape[:2], [blender.add(*pair) for pair in windows])
    expected = weighted_mean(*shape[:2], shape[3], windows)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES[:1] + SHAPES[4:])
def test_rows_do_not_depend_on_where_one_began_but_for_the_row_above(shape):
    torch.manual_seed(0)
    windows = [(w, torch.rand(2, w.height, w.width)) for w in windows_of(*shape)]
    every = Blender(*shape)
    expected = {(p.top, p.left): p.values for p in (every.add(*pair) for pair in windows)}
    for row in range(1, len(every.tops)):
        later = Blender(*shape)
        for window, values in windows:
            if window.top >= every.tops[row - 1]:
                piece = later.add(window, values)
                if piece.top >= every.tops[row]:
                    assert torch.equal(piece.values, expected[piece.top, piece.left])


def test_equal_windows_give_what_they_hold():
    blender = Blender(100, 90, 32, 12)
    pieces = [blender.add(w, torch.full((2, 32, 32), 0.25)) for w in windows_of(100, 90, 32, 12)]
    torch.testing.assert_close(joined(100, 90, pieces), torch.full((2, 100, 90), 0.25))


def test_memory_is_that_of_the_overlap():
    blender = Blender(400, 3000, 64, 16)
    for window in windows_of(400, 3000, 64, 16)[:130]:
        blender.add(window, torch.rand(1, 64, 64))
    assert blender._above.shape == (1, 16, blender.reach)
