import math

import numpy as np
import pytest
import torch

from inference.pseudo_labels import VoteCounter, agreed, count_tiles, mean_rule, statistics, vote

K = 6


def random_case(teachers: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, 2, 2, 8, 8) predictions that often agree, and (2, 2, 8, 8) true masks."""
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randint(0, K, (teachers, 2, 1, 8, 8), generator=generator).repeat(1, 1, 2, 1, 1)
    noise = torch.rand(preds.shape, generator=generator) < 0.3
    preds = torch.where(noise, torch.randint(0, K, preds.shape, generator=generator), preds)
    true = torch.randint(1, K + 1, (2, 2, 8, 8), generator=generator)
    return preds, true * (torch.rand((2, 1, 8, 8), generator=generator) < 0.3)


def slow_vote(preds: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The published rule, one pixel, one date and one teacher at a time."""
    result = np.zeros_like(true)
    for b, t, y, x in np.ndindex(true.shape):
        votes = [0] * (K + 1)
        for pred in preds:
            if true[b, t, y, x] != 0:
                votes[true[b, t, y, x]] += 1
            elif pred[b, 0, y, x] == pred[b, 1, y, x]:
                votes[pred[b, t, y, x] + 1] += 1
            else:
                votes[0] += 1
        result[b, t, y, x] = votes.index(max(votes))
    return result


def teachers_seeing(choices: list[int]) -> torch.Tensor:
    """One-pixel predictions: class - 1 at both dates, or two different classes for choice 0."""
    pairs = [(0, 1) if choice == 0 else (choice - 1, choice - 1) for choice in choices]
    return torch.tensor(pairs).view(-1, 1, 2, 1, 1)


@pytest.mark.parametrize(
    ("choices", "label", "expected"),
    [
        ([0, 0, 3, 3, 5], 0, 0),  # tie of "unlabelled" and 3
        ([4, 4, 0, 2, 2], 0, 2),  # tie of 4 and 2
        ([3, 3, 3, 0, 0], 0, 3),
        ([1, 2, 3, 4, 5], 0, 1),
        ([0, 0, 3, 3, 5], 6, 6),  # labelled by hand
    ],
)
def test_published_examples_of_the_vote(choices, label, expected):
    true = torch.full((1, 2, 1, 1), label)
    assert vote(teachers_seeing(choices), true).flatten().tolist() == [expected] * 2


@pytest.mark.parametrize("teachers", [1, 2, 5])
def test_vote_matches_a_plain_loop(teachers):
    preds, true = random_case(teachers, seed=teachers)
    result = vote(preds, true)
    assert result.dtype == torch.uint8
    expected = slow_vote(preds.numpy(), true.numpy())
    np.testing.assert_array_equal(result.numpy(), expected)
    assert 0.2 < (expected == 0).mean() < 0.8  # the case is a case


def test_order_of_teachers_does_not_matter():
    preds, true = random_case(4, seed=0)
    assert torch.equal(vote(preds, true), vote(preds.flip(0), true))


def test_adding_the_same_teachers_again_changes_nothing():
    preds, true = random_case(3, seed=1)
    assert torch.equal(vote(preds, true), vote(preds.repeat(2, 1, 1, 1, 1), true))


def test_agreed_is_zero_where_dates_differ():
    pred = torch.tensor([[2, 0, 5], [2, 1, 5]]).view(1, 2, 1, 3)
    assert agreed(pred).flatten().tolist() == [3, 0, 6]
    assert agreed(pred[:, :1]).flatten().tolist() == [3, 1, 6]  # one date always agrees


def test_unanimous_needs_every_teacher_on_one_class():
    for choices, expected in [([4, 4], True), ([4, 2], False), ([4, 0], False), ([0, 0], False)]:
        counter = VoteCounter(K)
        for pred in teachers_seeing(choices):
            counter.add(pred)
        assert counter.unanimous().item() is expected, choices


def test_vote_without_teachers_is_an_error():
    with pytest.raises(ValueError, match="--checkpoints"):
        VoteCounter(K).winner()


def test_mean_rule_labels_only_agreeing_and_sure_pixels():
    # pixels: sure twice | dates differ | second date unsure | labelled by hand
    date1 = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    date2 = torch.tensor([[0.8, 0.2], [0.1, 0.9], [0.6, 0.4], [0.9, 0.1]])
    probs = torch.stack([date1, date2]).permute(0, 2, 1).view(1, 2, 2, 1, 4)
    true = torch.tensor([[0, 0, 0, 2], [0, 0, 0, 1]]).view(1, 2, 1, 4)
    strict = mean_rule(probs, true, min_confidence=0.8)
    assert strict.squeeze().tolist() == [[1, 0, 0, 2], [1, 0, 0, 1]]
    assert mean_rule(probs, true).squeeze().tolist() == [[1, 0, 1, 2], [1, 0, 1, 1]]
    assert strict.dtype == torch.uint8


def test_mean_rule_of_one_hot_probabilities_is_the_vote_of_one_teacher():
    preds, true = random_case(1, seed=7)
    probs = torch.nn.functional.one_hot(preds[0], K).movedim(-1, 2).float()
    assert torch.equal(mean_rule(probs, true, 1.0), vote(preds, true))


def test_min_confidence_outside_zero_to_one_is_an_error():
    with pytest.raises(ValueError, match="--min-confidence=90"):
        mean_rule(torch.ones(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 1), 90)


def test_stats_of_hand_counted_pixels():
    # unchanged: labelled 1 (right), 1 (wrong), 2 (right), unlabelled, 2 (truth unknown) | changed
    masks = torch.tensor([[1, 1, 2, 0, 2, 1], [1, 1, 2, 0, 2, 2]]).view(1, 2, 1, 6)
    true = torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 2]]).view(1, 2, 1, 6)
    dense = torch.tensor([[1, 2, 2, 1, 255, 1], [1, 2, 2, 1, 255, 2]]).view(1, 2, 1, 6)
    unanimous = torch.tensor([True, False, True, False, False, True]).view(1, 1, 6)
    (counts,) = count_tiles(masks, true, unanimous, 3, dense)
    result = statistics(counts)
    assert result["unchanged_pixels"] == 5 and result["labelled_pixels"] == 4
    assert result["share_labelled"] == 4 / 5
    assert result["pixels_per_class"] == [2, 2, 0]
    assert result["share_per_class"] == [2 / 5, 2 / 5, 0]
    assert result["teacher_agreement"] == 2 / 5
    assert result["accuracy"] == 2 / 3
    assert result["accuracy_per_class"][:2] == [1 / 2, 1]
    assert math.isnan(result["accuracy_per_class"][2])


def test_stats_match_a_plain_loop_and_each_tile_is_counted_by_itself():
    preds, true = random_case(3, seed=3)
    generator = torch.Generator().manual_seed(4)
    dense = torch.randint(0, K + 1, (2, 1, 8, 8), generator=generator).repeat(1, 2, 1, 1)
    counter = VoteCounter(K)
    for pred in preds:
        counter.add(pred)
    masks, unanimous = counter.result(true), counter.unanimous()
    counts = count_tiles(masks, true, unanimous, K, dense)
    for b in range(2):
        one = slice(b, b + 1)
        alone = count_tiles(masks[one], true[one], unanimous[one], K, dense[one])
        assert torch.equal(alone[0], counts[b])

    labels, unchanged = masks[:, 0].numpy(), (true[:, 0] == 0).numpy()
    truth = dense[:, 0].numpy()
    rated = unchanged & (labels > 0) & (truth > 0)
    every = (preds[:, :, :] == preds[:1, :, :1]).all(0).all(1).numpy()
    result = statistics(counts.sum(0))
    assert result["share_labelled"] == (labels[unchanged] > 0).mean()
    assert result["accuracy"] == (labels == truth)[rated].mean()
    assert result["teacher_agreement"] == every[unchanged].mean()


def test_stats_of_nothing_are_undefined():
    true = torch.ones(1, 2, 2, 2)
    counts = count_tiles(true.long(), true, torch.ones(1, 2, 2, dtype=torch.bool), 2)
    result = statistics(counts.sum(0))
    assert result["unchanged_pixels"] == 0
    assert math.isnan(result["share_labelled"]) and math.isnan(result["accuracy"])
    assert math.isnan(result["teacher_agreement"])
