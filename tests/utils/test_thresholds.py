import json
import math

import numpy as np
import pytest
import torch

from utils.metrics import ChangeConfusion, binary_change_metrics, to_json
from utils.structures import IGNORE_INDEX
from utils.thresholds import (
    NUM_STEPS,
    REPORTED,
    ThresholdSweep,
    average_precision,
    best_step,
    curve,
    result,
)


def swept(probs, true) -> torch.Tensor:
    sweep = ThresholdSweep()
    probs, true = torch.as_tensor(probs), torch.as_tensor(true)
    sweep.update(probs.reshape(1, 1, -1), true.reshape(1, 1, -1))
    return sweep.counts


def random_tile(seed: int, shape=(2, 20, 30)) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, many of them exactly on a threshold, and a truth they have to do with."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(shape, generator=generator)
    rounded = torch.randint(0, NUM_STEPS + 1, shape, generator=generator) / NUM_STEPS
    probs = torch.where(torch.rand(shape, generator=generator) < 0.5, probs, rounded)
    true = (torch.rand(shape, generator=generator) < probs * 0.7).long()
    true[:, :3, :5] = IGNORE_INDEX
    return probs, true


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_threshold_counts_what_comparing_with_it_does(dtype):
    probs, true = random_tile(0)
    probs = probs.to(dtype).float()
    sweep = ThresholdSweep()
    sweep.update(probs.to(dtype), true)
    known = true != IGNORE_INDEX
    for step in range(NUM_STEPS + 1):
        changed = probs > step / NUM_STEPS
        above = sweep.counts[:, step + 1 :].sum(1).tolist()
        assert above == [int((changed & known & (true == t)).sum()) for t in (0, 1)], step
    assert sweep.counts.sum() == known.sum()


def test_measures_are_those_of_the_thresholded_masks():
    probs, true = random_tile(1)
    measures = curve(swept(probs, true))
    for step in (0, 1, 120, 400, 500, 731, 998):
        confusion = ChangeConfusion(0)
        confusion.update((probs > step / NUM_STEPS).long(), true)
        expected = binary_change_metrics(confusion.counts)
        assert float(measures.threshold[step]) == step / NUM_STEPS
        for name in ("precision", "recall", "f1", "iou"):
            value = float(getattr(measures, name)[step])
            assert value == pytest.approx(expected[f"{name}_change"], abs=1e-12), (step, name)


def test_a_probability_on_a_threshold_is_not_above_it():
    counts = swept([0.0, 0.4, 0.4004, 1.0], [0, 1, 1, 1])
    assert counts[0].nonzero().flatten().tolist() == [0]  # above none
    # 0.4 is above 0 .. 0.399, 0.4004 also above 0.4, 1 above all but 1
    assert counts[1].nonzero().flatten().tolist() == [400, 401, 1000]


def test_best_threshold_and_average_precision_of_a_hand_counted_curve():
    # from the most probable: changed, unchanged, changed, unchanged
    counts = swept([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0])
    # F1 2/3 down to 0.7, 1/2 down to 0.6, 4/5 (2 of 3) from 0.599 to 0.2; 0.5 lies among them
    assert best_step(counts) == 500
    outcome = result(counts)
    assert outcome["threshold"] == 0.5
    assert outcome["f1"] == pytest.approx(4 / 5) and outcome["iou"] == pytest.approx(2 / 3)
    assert outcome["precision"] == pytest.approx(2 / 3) and outcome["recall"] == 1
    assert outcome["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize(
    ("probs", "true", "expected"),
    [
        ([0.9, 0.8], [1, 0], 800),  # 0.8 .. 0.899 are perfect
        ([0.3, 0.2], [1, 0], 299),  # 0.2 .. 0.299
        ([0.9, 0.1], [1, 0], 500),
        ([0.9, 0.1], [1, 1], 99),  # all is changed: anything below 0.1
    ],
)
def test_of_equally_good_thresholds_the_nearest_to_a_half_is_best(probs, true, expected):
    assert best_step(swept(probs, true)) == expected


def test_average_precision_equals_a_plain_loop_over_the_levels():
    for seed in range(3):
        probs, true = random_tile(seed)
        thresholds = (np.arange(NUM_STEPS + 1) / NUM_STEPS).astype(np.float32)
        levels = (probs.numpy()[..., None] > thresholds).sum(-1)  # ties as counted
        known = true.numpy() != IGNORE_INDEX
        levels, changed = levels[known], true.numpy()[known] == 1
        expected, recall_before = 0.0, 0.0
        for level in sorted(set(levels), reverse=True):
            chosen = levels >= level
            recall = changed[chosen].sum() / changed.sum()
            expected += (recall - recall_before) * changed[chosen].mean()
            recall_before = recall
        assert average_precision(swept(probs, true)) == pytest.approx(expected, abs=1e-12)


def test_perfect_and_reversed_rankings():
    true = torch.tensor([0] * 90 + [1] * 10)
    assert average_precision(swept(true * 0.9, true)) == 1
    assert result(swept(true * 0.9, true))["f1"] == 1
    # everything is called changed together: the share of changed pixels
    assert average_precision(swept(torch.full((100,), 0.3), true)) == pytest.approx(0.1)


def test_recall_falls_as_the_threshold_rises():
    recall = curve(swept(*random_tile(4))).recall
    assert (recall.diff() <= 0).all() and recall[0] > recall[-1] == 0


def test_summed_counts_equal_one_count_and_sum_in_place():
    probs, true = random_tile(5)
    half = ThresholdSweep()
    half.update(probs[:1], true[:1])
    other = ThresholdSweep()
    other.update(probs[1:], true[1:])
    half.counts.add_(other.counts)  # what an all-reduce does
    assert torch.equal(half.counts, swept(probs, true))


def test_nothing_changed_in_truth_is_undefined_not_zero():
    outcome = result(swept([0.9, 0.1], [0, 0]))
    for name in ("threshold", "precision", "recall", "f1", "iou", "average_precision"):
        assert math.isnan(outcome[name]), name
    assert outcome["curve"][0]["precision"] == 0 and math.isnan(outcome["curve"][0]["recall"])


def test_no_pixels_at_all_is_undefined():
    outcome = result(swept([0.5], [IGNORE_INDEX]))
    assert math.isnan(outcome["f1"]) and math.isnan(outcome["curve"][7]["f1"])


def test_report_goes_to_json_with_rising_thresholds():
    outcome = json.loads(json.dumps(to_json(result(swept(*random_tile(6)))), allow_nan=False))
    thresholds = [point["threshold"] for point in outcome["curve"]]
    assert thresholds == sorted(set(thresholds)) == [step / NUM_STEPS for step in REPORTED]
    assert thresholds[0] == 0 and thresholds[-1] == 1 and 100 < len(thresholds) < 130
    assert {k / 100 for k in range(101)} <= set(thresholds)
    assert outcome["curve"][-1]["precision"] is None  # nothing is above 1
    assert outcome["f1"] >= max(point["f1"] for point in outcome["curve"])


@pytest.mark.parametrize("bad", [math.nan, 1.01, -0.01, math.inf])
def test_what_is_no_probability_is_an_error_where_there_is_truth(bad):
    with pytest.raises(ValueError, match="1 pixels have a P"):
        swept([bad, 0.5], [1, 0])
    assert swept([bad, 0.5], [IGNORE_INDEX, 0]).sum() == 1


def test_an_average_that_rounding_put_outside_0_to_1_is_counted_at_the_end():
    assert swept([1.0000001, -1e-7], [1, 0]).tolist() == swept([1.0, 0.0], [1, 0]).tolist()


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match="must match"):
        ThresholdSweep().update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))
