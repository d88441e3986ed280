import json
import math

import numpy as np
import pytest
import torch

from utils.figures.curves import BEST, CURVE, SIDE_PX, precision_recall_picture
from utils.metrics import to_json
from utils.thresholds import result

PAPER = (255, 255, 255)


def outcome(precision: float, recall: float) -> dict:
    """A result with a straight curve and its best threshold at a given place."""
    points = [{"precision": 1 - 0.5 * k / 100, "recall": k / 100} for k in range(101)]
    f1 = 2 * precision * recall / (precision + recall)
    return {
        **{"threshold": 0.43, "precision": precision, "recall": recall, "f1": f1},
        **{"iou": f1 / (2 - f1), "average_precision": 0.7, "curve": points},
    }


def counted_result(seed: int = 0) -> dict:
    levels = torch.arange(1001, dtype=torch.float64) / 1000
    counts = torch.stack([1e5 * torch.exp(-9 * levels), 4e3 * levels**2 + 20])
    return result(counts.round().long())


def pixels_of(picture, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W) bool."""
    return (np.asarray(picture) == colour).all(-1)


def dot_of(picture) -> np.ndarray:
    """Centre (x, y) of the mark: the only red square of 5 x 5 pixels, letters being thinner."""
    red = np.lib.stride_tricks.sliding_window_view(pixels_of(picture, BEST), (5, 5)).all((2, 3))
    ys, xs = np.nonzero(red)
    assert np.ptp(xs) < 8 and np.ptp(ys) < 8
    return np.array([xs.mean(), ys.mean()])


def test_the_chosen_threshold_is_marked_where_it_lies():
    without = precision_recall_picture(outcome(0.5, 0.5) | {"threshold": math.nan})
    assert not pixels_of(without, BEST).any()
    first = dot_of(precision_recall_picture(outcome(0.2, 0.2)))
    for precision, recall in [(0.2, 0.9), (0.8, 0.2), (0.8, 0.9), (0.5, 0.5)]:
        moved = dot_of(precision_recall_picture(outcome(precision, recall))) - first
        expected = SIDE_PX * np.array([recall - 0.2, 0.2 - precision])  # right and up
        np.testing.assert_allclose(moved, expected, atol=1.5)


def test_the_curve_runs_from_left_to_right_and_falls():
    picture = precision_recall_picture(outcome(0.8, 0.4) | {"threshold": None})
    ys, xs = np.nonzero(pixels_of(picture, CURVE))
    assert np.ptp(xs) == pytest.approx(SIDE_PX, abs=5)
    assert np.ptp(ys) == pytest.approx(SIDE_PX / 2, abs=5)
    assert np.corrcoef(xs, ys)[0, 1] > 0.99


def test_the_picture_of_a_sweep_and_of_its_json_are_one():
    values = counted_result()
    picture = precision_recall_picture(values)
    again = precision_recall_picture(json.loads(json.dumps(to_json(values))))
    assert picture.mode == "RGB" and SIDE_PX < picture.width < 1.3 * SIDE_PX
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(again))


def test_nothing_changed_makes_a_picture_that_says_so():
    counts = torch.zeros(2, 1001, dtype=torch.int64)
    counts[0, 3] = 7
    picture = np.asarray(precision_recall_picture(result(counts)))
    assert not pixels_of(picture, CURVE).any() and not pixels_of(picture, BEST).any()
    assert (picture[-60:] != PAPER).any()  # the sentence at the foot


def test_a_title_is_drawn():
    first, second = (precision_recall_picture(outcome(0.8, 0.4), title) for title in ("", "val"))
    assert first.size == second.size and first.tobytes() != second.tobytes()
