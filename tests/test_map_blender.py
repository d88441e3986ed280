"""Windows joined piece by piece are what windows joined strip by strip are."""

import pytest
import torch

from utils.map_blender import PieceBlender
from utils.windows import Blender, grid

SHAPES = [(100, 90, 32, 8), (64, 64, 64, 16), (7, 200, 32, 16), (33, 65, 32, 0), (50, 31, 20, 5)]


def joined(height: int, width: int, pieces) -> torch.Tensor:
    """The whole, every pixel given exactly once."""
    whole, count = torch.zeros(2, height, width), torch.zeros(height, width)
    for top, left, values in pieces:
        place = (..., slice(top, top + values.shape[1]), slice(left, left + values.shape[2]))
        whole[place] = values
        count[place[1:]] += 1
    assert (count == 1).all()
    return whole


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_make_up_the_blenders_strips(shape):
    torch.manual_seed(0)
    windows = [(w, torch.rand(2, w.height, w.width)) for w in grid(*shape)]
    pieces, strips = PieceBlender(*shape), Blender(*shape)
    found = joined(*shape[:2], [pieces.add(*pair) for pair in windows])
    expected = [strips.add(*pair) for pair in windows] + [strips.finish()]
    expected = torch.cat([strip.values for strip in expected if strip is not None], 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES[:1] + SHAPES[4:])
def test_rows_do_not_depend_on_where_one_began_but_for_the_row_above(shape):
    torch.manual_seed(0)
    windows = [(w, torch.rand(2, w.height, w.width)) for w in grid(*shape)]
    every = PieceBlender(*shape)
    expected = {(p.top, p.left): p.values for p in (every.add(*pair) for pair in windows)}
    for row in range(1, len(every.tops)):
        later = PieceBlender(*shape)
        for window, values in windows:
            if window.top >= every.tops[row - 1]:
                piece = later.add(window, values)
                if piece.top >= every.tops[row]:
                    assert torch.equal(piece.values, expected[piece.top, piece.left])


def test_equal_windows_give_what_they_hold():
    blender = PieceBlender(100, 90, 32, 12)
    pieces = [blender.add(w, torch.full((2, 32, 32), 0.25)) for w in grid(100, 90, 32, 12)]
    torch.testing.assert_close(joined(100, 90, pieces), torch.full((2, 100, 90), 0.25))


def test_memory_is_that_of_the_overlap():
    blender = PieceBlender(400, 3000, 64, 16)
    for window in grid(400, 3000, 64, 16)[:130]:
        blender.add(window, torch.rand(1, 64, 64))
    assert blender._above.shape == (1, 16, blender.reach)
