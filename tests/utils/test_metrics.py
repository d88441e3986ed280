import itertools
import json
import math

import numpy as np
import pytest
import torch

from utils.metrics import (
    ChangeConfusion,
    ConfusionMatrix,
    binary_change_metrics,
    cohen_kappa,
    confusion_for,
    iou,
    land_cover_metrics,
    metrics_for,
    sek_from_confusion,
    semantic_change_metrics,
    stack_dates,
    to_json,
    transition_states,
)
from utils.structures import IGNORE_INDEX, TASKS

GOLDEN = torch.tensor([[50, 5, 3], [4, 30, 2], [1, 2, 3]])
K = 6


def random_masks(batch: int, seed: int, share_changed: float = 0.4) -> torch.Tensor:
    """(B, 2, 8, 8) masks in 0..K, both dates 0 together."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(1, K + 1, (batch, 2, 8, 8), generator=generator)
    changed = torch.rand((batch, 1, 8, 8), generator=generator) < share_changed
    return masks * changed


def counted(pred: torch.Tensor, true: torch.Tensor, num_classes: int = K) -> torch.Tensor:
    confusion = ChangeConfusion(num_classes)
    confusion.update(pred, true)
    return confusion.counts


def slow_metrics(pred: np.ndarray, true: np.ndarray) -> dict:
    """The published formulas in plain loops over pixels, one matrix per definition."""
    stacked, transitions = np.zeros((K + 1, K + 1)), np.zeros((K * K + 1, K * K + 1))

    def state(a: int, b: int) -> int:
        return 0 if a == 0 else 1 + (a - 1) * K + (b - 1)

    for n, y, x in np.ndindex(pred.shape[0], *pred.shape[2:]):
        t, p = true[n, :, y, x], pred[n, :, y, x]
        if (t > K).any():
            continue
        stacked[t[0], p[0]] += 1
        stacked[t[1], p[1]] += 1
        transitions[state(*t), state(*p)] += 1

    def sek(m: np.ndarray) -> tuple:
        c = [[m[0, 0], m[0, 1:].sum()], [m[1:, 0].sum(), m[1:, 1:].sum()]]
        iou_0 = c[0][0] / (c[0][0] + c[0][1] + c[1][0])
        iou_1 = c[1][1] / (c[1][1] + c[0][1] + c[1][0])
        m = m.copy()
        m[0, 0] = 0
        po = np.trace(m) / m.sum()
        pe = sum(m[k].sum() * m[:, k].sum() for k in range(len(m))) / m.sum() ** 2
        kappa = (po - pe) / (1 - pe)
        return kappa, kappa * np.exp(iou_1 - 1), (iou_0 + iou_1) / 2, c

    kappa, sek_value, miou, c = sek(stacked)
    right = sum(stacked[i, i] for i in range(1, K + 1))
    precision, recall = right / stacked[:, 1:].sum(), right / stacked[1:].sum()
    return {
        "score": 0.3 * miou + 0.7 * sek_value,
        "miou": miou,
        "sek": sek_value,
        "sek_transition": sek(transitions)[1],
        "kappa": kappa,
        "fscd": 2 * precision * recall / (precision + recall),
        "oa": np.trace(stacked) / stacked.sum(),
        "iou_change": c[1][1] / (c[1][1] + c[0][1] + c[1][0]),
        "f1_change": 2 * c[1][1] / (2 * c[1][1] + c[0][1] + c[1][0]),
        "precision_change": c[1][1] / (c[1][1] + c[0][1]),
        "recall_change": c[1][1] / (c[1][1] + c[1][0]),
        "iou_per_class": [
            stacked[k, k] / (stacked[k].sum() + stacked[:, k].sum() - stacked[k, k])
            for k in range(1, K + 1)
        ],
        "confusion": stacked.tolist(),
    }


def test_published_3x3_example_gives_the_published_numbers():
    sek = sek_from_confusion(GOLDEN)
    assert sek.miou == pytest.approx(0.7668253968, abs=1e-10)
    assert sek.iou_change == pytest.approx(0.74, abs=1e-12)
    assert sek.kappa == pytest.approx(0.2129629630, abs=1e-10)
    assert sek.sek == pytest.approx(0.212962963 * math.exp(0.74 - 1), abs=1e-9)  # 0.16420543
    assert sek.score == pytest.approx(0.3449914203, abs=1e-10)
    assert GOLDEN[0, 0] == 50  # the input is left as it was


def test_random_masks_match_a_plain_loop_over_pixels():
    true, pred = random_masks(2, seed=0), random_masks(2, seed=1)
    true[0, :, 0, :3] = IGNORE_INDEX
    expected = slow_metrics(pred.numpy(), true.numpy())
    metrics = semantic_change_metrics(counted(pred, true), K)
    assert metrics.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-12, err_msg=key)


def test_hand_counted_masks():
    # date 1 / date 2 of four pixels:  hit      wrong class at date 2   false alarm   missed
    true = torch.tensor([[[[1, 1, 0, 2]], [[2, 2, 0, 1]]]])
    pred = torch.tensor([[[[1, 1, 2, 0]], [[2, 1, 1, 0]]]])
    metrics = semantic_change_metrics(counted(pred, true, num_classes=2), 2)
    # stacked: (1,1) (2,2) | (1,1) (2,1) | (0,2) (0,1) | (2,0) (1,0)
    assert metrics["confusion"] == [[0, 1, 1], [1, 2, 0], [1, 1, 1]]
    assert metrics["oa"] == 3 / 8
    assert metrics["precision_change"] == metrics["recall_change"] == 4 / 6
    assert metrics["iou_change"] == 4 / 8
    assert metrics["fscd"] == 3 / 6  # 3 right of 6 predicted and of 6 true
    assert metrics["iou_per_class"] == [2 / 5, 1 / 4]


def test_from_to_variant_counts_a_half_right_pixel_as_wrong():
    true = torch.tensor([[[[1, 1, 2, 0]], [[2, 2, 1, 0]]]])
    pred = torch.tensor([[[[1, 1, 2, 0]], [[2, 1, 1, 0]]]])
    counts = counted(pred, true, num_classes=2)
    # states: (1,2) -> 2, (2,1) -> 3, (1,1) -> 1
    assert counts[2].tolist() == [0, 1, 1, 0, 0]
    assert counts[3].tolist() == [0, 0, 0, 1, 0]
    metrics = semantic_change_metrics(counts, 2)
    # from-to: po = 2/3, pe = (2*1 + 1*1) / 9 = 1/3, kappa = 1/2; stacked: po = 5/6, pe = 1/2
    assert metrics["sek_transition"] == pytest.approx(1 / 2)
    assert metrics["sek"] == pytest.approx(2 / 3)


def test_perfect_prediction_scores_one():
    true = random_masks(3, seed=2)
    metrics = semantic_change_metrics(counted(true, true), K)
    assert metrics.pop("confusion") is not None
    assert metrics.pop("iou_per_class") == [1.0] * K
    assert all(value == pytest.approx(1.0) for value in metrics.values()), metrics


def test_batches_in_any_order_and_size_give_the_same_counts():
    true, pred = random_masks(6, seed=3), random_masks(6, seed=4)
    confusion = ChangeConfusion(K)
    for rows in ([5], [0, 3], [1, 2, 4]):
        confusion.update(pred[rows].to(torch.uint8), true[rows].to(torch.uint8))
    assert torch.equal(confusion.counts, counted(pred, true))


def test_renaming_the_classes_keeps_the_metrics():
    true, pred = random_masks(4, seed=5), random_masks(4, seed=6)
    rename = torch.tensor([0, 4, 1, 6, 2, 3, 5])
    before = semantic_change_metrics(counted(pred, true), K)
    after = semantic_change_metrics(counted(rename[pred], rename[true]), K)
    for key in before.keys() - {"confusion", "iou_per_class"}:
        assert after[key] == pytest.approx(before[key]), key
    assert [after["iou_per_class"][i - 1] for i in rename[1:]] == before["iou_per_class"]


def test_swapping_the_dates_keeps_the_stacked_matrix():
    true, pred = random_masks(4, seed=7), random_masks(4, seed=8)
    straight = stack_dates(counted(pred, true), K)
    assert torch.equal(straight, stack_dates(counted(pred.flip(1), true.flip(1)), K))
    assert straight.sum() == 2 * true[:, 0].numel()


def test_summed_counts_equal_one_count_and_sum_in_place():
    true, pred = random_masks(4, seed=9), random_masks(4, seed=10)
    half = ChangeConfusion(K)
    half.update(pred[:2], true[:2])
    half.counts.add_(counted(pred[2:], true[2:]))  # what an all-reduce does
    assert torch.equal(half.counts, counted(pred, true))


@pytest.mark.parametrize("bad", [(255, 255), (255, 3), (7, 1), (-1, -1), (0, 3), (2, 0)])
def test_impossible_truth_is_not_counted(bad):
    true = torch.tensor(bad).view(1, 2, 1, 1)
    assert counted(torch.ones_like(true), true).sum() == 0


@pytest.mark.parametrize("bad", [(7, 7), (0, 3), (-1, -1)])
def test_impossible_prediction_is_an_error(bad):
    pred = torch.tensor(bad).view(1, 2, 1, 1)
    with pytest.raises(ValueError, match="1 predicted pixels lie outside"):
        counted(pred, torch.ones_like(pred))


def test_impossible_prediction_without_truth_is_no_error():
    pred = torch.full((1, 2, 1, 1), 9)
    assert counted(pred, torch.full_like(pred, IGNORE_INDEX)).sum() == 0


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match="must be alike"):
        ConfusionMatrix(2).update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))


def test_transition_states_number_every_pair_once():
    dates = torch.cartesian_prod(torch.arange(1, K + 1), torch.arange(1, K + 1))
    states = transition_states(dates.view(-1, 2, 1, 1), K).flatten()
    assert states.tolist() == list(range(1, K * K + 1))


@pytest.mark.parametrize("num_classes", [1, 6, 13, 14, 30, 40])  # types and ways change on the way
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_pixels_are_counted_one_by_one(num_classes, dtype):
    generator = torch.Generator().manual_seed(num_classes)
    true = torch.randint(0, num_classes + 2, (2, 2, 8, 9), generator=generator).to(dtype)
    pred = torch.randint(1, num_classes + 1, (2, 2, 8, 9), generator=generator).to(dtype)
    true[0, :, 0] = 255
    expected = torch.zeros(num_classes**2 + 1, num_classes**2 + 1, dtype=torch.int64)
    for i, row, column in itertools.product(range(2), range(8), range(9)):
        (a, b), (c, d) = true[i, :, row, column].tolist(), pred[i, :, row, column].tolist()
        if max(a, b) <= num_classes and (a > 0) == (b > 0):
            state = (a - 1) * num_classes + b if a else 0
            expected[state, (c - 1) * num_classes + d] += 1
    confusion = ChangeConfusion(num_classes)
    confusion.update(pred, true)
    assert torch.equal(confusion.counts, expected)


def test_nothing_changed_anywhere_is_undefined_not_zero():
    nothing = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    metrics = semantic_change_metrics(counted(nothing, nothing), K)
    assert metrics["oa"] == 1 and metrics["kappa"] == 0
    for key in ("score", "miou", "sek", "fscd", "iou_change", "f1_change", "recall_change"):
        assert math.isnan(metrics[key]), key


def test_missing_every_change_is_zero_not_undefined():
    true = random_masks(1, seed=11)
    metrics = semantic_change_metrics(counted(torch.zeros_like(true), true), K)
    assert metrics["fscd"] == metrics["f1_change"] == metrics["recall_change"] == 0
    assert math.isnan(metrics["precision_change"])


def test_nan_becomes_null_at_any_depth():
    text = json.dumps(to_json({"a": math.nan, "b": [1.5, math.nan, [math.nan]], "c": 3}))
    assert json.loads(text) == {"a": None, "b": [1.5, None, [None]], "c": 3}


@pytest.mark.parametrize(("pairs", "kappa"), [([[0, 0], [0, 0]], 0.0), ([[0, 0], [0, 9]], 0.0)])
def test_kappa_is_zero_where_the_published_one_is(pairs, kappa):
    assert cohen_kappa(torch.tensor(pairs)) == kappa


def test_binary_change_of_hand_counted_maps():
    true = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
    pred = torch.tensor([[[0, 0, 1, 1, 0, 1]]])
    metrics = binary_change_metrics(counted(pred, true, num_classes=0))
    assert metrics["confusion"] == [[2, 1], [1, 1]]
    assert metrics["oa"] == 3 / 5
    assert metrics["iou_change"] == 1 / 3
    assert metrics["iou_unchanged"] == 2 / 4
    assert metrics["miou"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    # observed 3/5, by chance 3/5 * 3/5 + 2/5 * 2/5 = 13/25
    assert metrics["kappa"] == pytest.approx((3 / 5 - 13 / 25) / (1 - 13 / 25))
    assert (
        metrics["dice"]
        == metrics["f1_change"]
        == metrics["precision_change"]
        == metrics["recall_change"]
        == 1 / 2
    )


def test_dice_of_binary_change_is_twice_the_overlap_over_both_areas():
    generator = torch.Generator().manual_seed(11)
    pred, true = (torch.randint(0, 2, (2, 9, 9), generator=generator) for _ in range(2))
    metrics = binary_change_metrics(counted(pred, true, num_classes=0))
    dice = 2 * float((pred * true).sum()) / float(pred.sum() + true.sum())
    assert metrics["dice"] == pytest.approx(dice)
    assert metrics["dice"] == pytest.approx(2 * metrics["iou_change"] / (1 + metrics["iou_change"]))


def test_no_change_predicted_and_none_true_is_undefined_but_unchanged_is_right():
    nothing = torch.zeros(1, 4, 4, dtype=torch.uint8)
    metrics = binary_change_metrics(counted(nothing, nothing, num_classes=0))
    assert metrics["oa"] == metrics["iou_unchanged"] == 1
    for key in ("dice", "f1_change", "iou_change", "precision_change", "recall_change", "miou"):
        assert math.isnan(metrics[key]), key


def test_land_cover_of_the_published_example_with_an_absent_class():
    counts = torch.nn.functional.pad(GOLDEN, (0, 1, 0, 1))
    metrics = land_cover_metrics(counts, absent_is_zero=True)
    assert metrics["aa"] == pytest.approx(0.7318007663, abs=1e-10)
    assert metrics["miou"] == pytest.approx(0.4410131, abs=1e-7)
    np.testing.assert_allclose(
        metrics["iou_per_class"], [0.7936508, 0.6976744, 0.2727273, 0], atol=1e-7
    )
    plain = land_cover_metrics(counts)
    assert math.isnan(plain["iou_per_class"][3])
    assert plain["miou"] == pytest.approx(metrics["miou"] * 4 / 3)
    assert plain["oa"] == 83 / 100
    # 58, 36 and 6 pixels of each class
    expected = 0.58 * 50 / 63 + 0.36 * 30 / 43 + 0.06 * 3 / 11
    assert plain["fwiou"] == metrics["fwiou"] == pytest.approx(expected)


def test_land_cover_skips_ignored_pixels():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, IGNORE_INDEX]))
    assert confusion.counts.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert iou(confusion.counts).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_matrix_and_metrics_that_go_to_json(task):
    confusion = confusion_for(task, K)
    masks = random_masks(2, seed=12)
    pred, true = {
        "semantic_change": (masks, masks.roll(1, -1)),
        "binary_change": ((masks[:, 0] > 0).long(), (masks[:, 1].roll(1, -1) > 0).long()),
        "land_cover": (masks[:, :1] % K + 1, masks[:, 1:] % K + 1),
    }[task]
    confusion.update(pred, true)
    metrics = metrics_for(task, confusion.counts, K)
    json.dumps(to_json(metrics), allow_nan=False)
    assert 0 < metrics["oa"] < 1
