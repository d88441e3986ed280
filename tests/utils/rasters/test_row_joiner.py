import numpy as np
import pytest

from utils.rasters.windows import windows_of
from utils.rasters.writing import RowJoiner


@pytest.mark.parametrize("multiple", [None, 1, 8, 64])
@pytest.mark.parametrize("shape", [(50, 70, 32), (20, 31, 32), (96, 32, 32), (65, 200, 20)])
def test_rectangles_become_strips_of_full_rows(shape, multiple):
    height, width, side = shape
    whole = np.arange(2 * height * width).reshape(2, height, width)
    joiner, found = RowJoiner(height, width, multiple), []
    for window in windows_of(height, width, side):
        rows = slice(window.top, window.top + window.height)
        piece = whole[:, rows, window.left : window.left + window.width]
        found += joiner.add(window.top, window.left, {"a": piece, "b": piece[0]})
    tops = [top for top, _ in found]
    heights = [strip["a"].shape[1] for _, strip in found]
    assert tops == np.cumsum([0, *heights])[:-1].tolist() and sum(heights) == height
    assert multiple is None or set(heights[:-1]) <= {multiple}
    np.testing.assert_array_equal(np.concatenate([s["a"] for _, s in found], axis=1), whole)
    np.testing.assert_array_equal(np.concatenate([s["b"] for _, s in found]), whole[0])


def test_rows_may_be_left_out():
    joiner = RowJoiner(30, 4)
    assert [top for top, _ in joiner.add(10, 0, {"a": np.zeros((10, 4))})] == [10]
    assert not list(joiner.add(20, 0, {"a": np.zeros((10, 2))}))
    assert [top for top, _ in joiner.add(20, 2, {"a": np.ones((10, 2))})] == [20]
