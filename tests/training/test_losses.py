import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.steps import forward_backward
from models.normalise import Normalise
from training.losses import (
    SENSEEARTH_CLASS_WEIGHTS,
    Loss,
    LossTerms,
    Pixels,
    change_loss,
    class_weights,
    dice_loss,
    semantic_loss,
)
from utils.schemes import NAIC2020, SECOND
from utils.structures import IGNORE_INDEX, Logits, Sample, items

K = 6


def make_batch(seed=0, batch=3, size=5, ignored=0.4):
    """Random targets with ignored pixels, and logits for them."""
    rng = torch.Generator().manual_seed(seed)
    semantic = torch.randint(K, (batch, 2, size, size), generator=rng)
    semantic[torch.rand(semantic.shape, generator=rng) < ignored] = IGNORE_INDEX
    change = torch.randint(2, (batch, size, size), generator=rng)
    change[torch.rand(change.shape, generator=rng) < ignored / 4] = IGNORE_INDEX
    logits = Logits(
        torch.randn(batch, 2, K, size, size, generator=rng, requires_grad=True),
        torch.randn(batch, size, size, generator=rng, requires_grad=True),
    )
    names = [str(i) for i in range(batch)]
    return logits, Sample(names, torch.zeros(batch, 2, 3, size, size), semantic, change)


def slow_semantic_loss(logits, target, weights):
    """Pixel by pixel: per date the weighted mean over labelled pixels; dates added."""
    total = 0.0
    for date in range(target.shape[1]):
        nominator = denominator = 0.0
        for b, y, x in np.ndindex(target.shape[0], *target.shape[2:]):
            k = target[b, date, y, x]
            if k == IGNORE_INDEX:
                continue
            scores = logits[b, date, :, y, x].astype(np.float64)
            log_p = scores[k] - np.log(np.exp(scores).sum())
            nominator -= weights[k] * log_p
            denominator += weights[k]
        total += nominator / denominator if denominator else 0.0
    return total


def slow_change_loss(logits, target):
    """Pixel by pixel: changed pixels count twice in the sum, once in the count."""
    total, count = 0.0, 0
    for index in np.ndindex(*target.shape):
        if target[index] == IGNORE_INDEX:
            continue
        p = 1 / (1 + math.exp(-logits[index]))
        total += -2 * math.log(p) if target[index] == 1 else -math.log(1 - p)
        count += 1
    return total / count


def test_all_unchanged_at_even_odds_costs_ln2_and_all_changed_twice_that():
    logits = torch.zeros(2, 4, 4)  # P(changed) = 0.5
    count = torch.tensor(32.0)
    unchanged = change_loss(logits, torch.zeros(2, 4, 4, dtype=torch.long), count)
    changed = change_loss(logits, torch.ones(2, 4, 4, dtype=torch.long), count)
    assert unchanged.item() == pytest.approx(math.log(2), rel=1e-6)
    assert changed.item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_change_loss_is_a_mean_over_pixels_not_over_weights():
    # one changed pixel of four, odds even: (2 + 1 + 1 + 1) / 4 * ln2
    target = torch.tensor([[[1, 0], [0, 0]]])
    loss = change_loss(torch.zeros(1, 2, 2), target, torch.tensor(4.0))
    assert loss.item() == pytest.approx(5 / 4 * math.log(2), rel=1e-6)


def test_change_loss_falls_where_a_changed_pixel_scores_higher():
    target = torch.ones(1, 1, 1, dtype=torch.long)
    one = torch.tensor(1.0)
    sure, unsure = (change_loss(torch.full((1, 1, 1), s), target, one) for s in (3.0, -3.0))
    assert sure < unsure


@pytest.mark.parametrize("weights", [None, SENSEEARTH_CLASS_WEIGHTS])
def test_losses_agree_with_a_slow_reading_of_their_definition(weights):
    logits, batch = make_batch()
    tensor = None if weights is None else torch.tensor(weights)
    terms = Loss(tensor)(logits, batch)
    semantic = slow_semantic_loss(
        logits.semantic.detach().numpy(), batch.semantic.numpy(), weights or (1.0,) * K
    )
    change = slow_change_loss(logits.change.detach().numpy(), batch.change.numpy())
    assert terms.semantic.item() == pytest.approx(semantic, rel=1e-5)
    assert terms.change.item() == pytest.approx(change, rel=1e-5)
    assert terms.total.item() == pytest.approx(2 * change + semantic, rel=1e-5)


def test_published_class_weights():
    assert SENSEEARTH_CLASS_WEIGHTS == (2, 1, 2, 2, 1, 1)


def test_published_class_weights_are_for_the_classes_of_second_at_two_dates():
    others = tuple("abcdef")
    for scheme, pseudo_labels, expected in (
        (SECOND, False, [2, 1, 2, 2, 1, 1]),
        (SECOND, True, None),
        (SECOND._replace(task="land_cover"), False, None),
        (SECOND._replace(task="land_cover", classes=others), False, None),
        (SECOND._replace(classes=others), False, None),
        (SECOND._replace(classes=SECOND.classes[::-1]), False, None),
        (NAIC2020, False, None),
    ):
        found = class_weights(None, scheme, pseudo_labels)
        assert expected is None if found is None else found.tolist() == expected


def test_given_class_weights_are_one_a_class():
    assert class_weights([1.0] * 8, NAIC2020).tolist() == [1] * 8
    with pytest.raises(ValueError, match=r"--class-weights has 6 numbers.* 8 classes: water, "):
        class_weights([1.0] * 6, NAIC2020)


def land_cover_batch(seed=0):
    """One date, with ignored pixels; main and auxiliary logits."""
    logits, batch = make_batch(seed, batch=4)
    other, _ = make_batch(seed + 1, batch=4)
    batch = batch._replace(images=batch.images[:, :1], semantic=batch.semantic[:, :1])
    return Logits(logits.semantic[:, :1], aux_semantic=other.semantic[:, :1]), batch


@pytest.mark.parametrize("weights", [None, SENSEEARTH_CLASS_WEIGHTS])
def test_a_mean_over_all_pixels_is_that_of_plain_cross_entropy_per_pixel(weights):
    logits, batch = land_cover_batch()
    weights = None if weights is None else torch.tensor(weights)
    assert (batch.semantic == IGNORE_INDEX).any()
    main, aux = (
        F.cross_entropy(x[:, 0], batch.semantic[:, 0], weights, ignore_index=255, reduction="none")
        for x in (logits.semantic, logits.aux_semantic)
    )
    terms = Loss(weights, mean_over="all")(logits, batch)
    torch.testing.assert_close(terms.semantic, main.mean())
    torch.testing.assert_close(terms.aux_semantic, aux.mean())
    torch.testing.assert_close(terms.total, main.mean() + 0.4 * aux.mean())


def test_a_mean_over_labelled_pixels_is_plain_cross_entropy():
    logits, batch = land_cover_batch()
    terms = Loss()(logits, batch)
    for term, x in ((terms.semantic, logits.semantic), (terms.aux_semantic, logits.aux_semantic)):
        plain = F.cross_entropy(x[:, 0], batch.semantic[:, 0], ignore_index=255)
        torch.testing.assert_close(term, plain)


class Pointwise(torch.nn.Module):
    """Class logits from each pixel alone, and auxiliary ones."""

    def __init__(self):
        super().__init__()
        self.main, self.aux = torch.nn.Conv2d(3, K, 1), torch.nn.Conv2d(3, K, 1)

    def forward(self, images):
        x = images[:, 0]
        return Logits(self.main(x)[:, None], aux_semantic=self.aux(x)[:, None])


@pytest.mark.parametrize("mean_over", ["labelled", "all"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_batch_in_parts_is_divided_by_the_pixels_of_the_whole(mean_over, parts):
    torch.manual_seed(0)
    network, (_, batch) = Pointwise(), land_cover_batch()
    images = torch.rand(batch.images.shape)
    batch = batch._replace(images=images)
    batch.semantic[0] = IGNORE_INDEX  # parts with different numbers of labelled pixels
    normalise = Normalise.of(NAIC2020)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss = Loss(mean_over=mean_over)
    terms = forward_backward(network, normalise, batch, loss, parts, scaler)
    found = network.main.weight.grad.clone()
    network.zero_grad()
    logits = network(normalise(images))
    losses = [
        F.cross_entropy(x[:, 0], batch.semantic[:, 0], ignore_index=255, reduction="none").sum()
        for x in (logits.semantic, logits.aux_semantic)
    ]
    count = batch.semantic.numel() if mean_over == "all" else (batch.semantic != 255).sum()
    total = (losses[0] + 0.4 * losses[1]) / count
    total.backward()
    torch.testing.assert_close(terms.total, total.detach())
    torch.testing.assert_close(found, network.main.weight.grad, rtol=1e-4, atol=1e-6)


def test_dates_are_averaged_apart():
    # date 1: one labelled pixel of loss ln6; date 2: two; each date adds its own mean
    logits = torch.zeros(1, 2, K, 1, 2)
    target = torch.tensor([[[[0, IGNORE_INDEX]], [[1, 2]]]])
    batch = Sample(["a"], torch.zeros(1), target, torch.zeros(1, 1, 2, dtype=torch.long))
    loss = semantic_loss(logits, target, Loss().count_pixels(batch).semantic)
    assert loss.item() == pytest.approx(2 * math.log(6), rel=1e-6)


def test_pixels_count_weights_of_labelled_and_known_pixels():
    target = torch.tensor([[[[0, IGNORE_INDEX]], [[1, 3]]]])
    change = torch.tensor([[[0, IGNORE_INDEX]]])
    batch = Sample(["a"], torch.zeros(1), target, change)
    plain = Loss().count_pixels(batch)
    weighted = Loss(torch.tensor(SENSEEARTH_CLASS_WEIGHTS)).count_pixels(batch)
    assert plain.semantic.tolist() == [1, 2] and plain.change.item() == 1
    assert weighted.semantic.tolist() == [2, 1 + 2] and weighted.change.item() == 1
    for weights in (None, torch.tensor(SENSEEARTH_CLASS_WEIGHTS)):
        everything = Loss(weights, mean_over="all").count_pixels(batch)
        assert everything.semantic.tolist() == [2, 2] and everything.change.item() == 1


@pytest.mark.parametrize("mean_over", ["labelled", "all"])
def test_all_ignored_tile_gives_zero_loss_with_a_gradient(mean_over):
    logits, batch = make_batch(batch=1)
    batch = batch._replace(
        semantic=torch.full_like(batch.semantic, IGNORE_INDEX),
        change=torch.full_like(batch.change, IGNORE_INDEX),
    )
    loss = Loss(torch.tensor(SENSEEARTH_CLASS_WEIGHTS), mean_over=mean_over)
    terms = loss(logits, batch)
    assert [t.item() for t in terms[:3]] == [0, 0, 0] and terms.gate is None
    terms.total.backward()
    assert logits.semantic.grad.eq(0).all() and logits.change.grad.eq(0).all()


def test_all_unchanged_tile_trains_the_change_head_alone():
    logits, batch = make_batch(batch=1)
    batch = batch._replace(
        semantic=torch.full_like(batch.semantic, IGNORE_INDEX),
        change=torch.zeros_like(batch.change),
    )
    Loss()(logits, batch).total.backward()
    assert logits.semantic.grad.eq(0).all() and logits.change.grad.gt(0).all()


def test_ignored_pixels_have_no_say():
    logits, batch = make_batch()
    before = Loss()(logits, batch).total
    with torch.no_grad():
        for score, target in ((logits.change, batch.change),):
            score[target == IGNORE_INDEX] += 100
        logits.semantic.masked_fill_((batch.semantic == IGNORE_INDEX)[:, :, None], 7.0)
    assert Loss()(logits, batch).total.item() == pytest.approx(before.item(), rel=1e-6)


@pytest.mark.parametrize("mean_over", ["labelled", "all"])
def test_parts_add_up_to_the_whole(mean_over):
    logits, batch = make_batch(batch=5)
    weights = torch.tensor(SENSEEARTH_CLASS_WEIGHTS)
    loss = Loss(weights, mean_over=mean_over)
    whole = loss(logits, batch)
    whole.total.backward()
    gradients = [x.grad.clone() for x in (logits.semantic, logits.change)]
    logits.semantic.grad = logits.change.grad = None
    pixels = Loss(weights, mean_over=mean_over).count_pixels(batch)
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        part = items(batch, rows)
        part_logits = Logits(logits.semantic[rows], logits.change[rows])
        parts.append(loss(part_logits, part, pixels))
        parts[-1].total.backward()
    for values, expected in zip(zip(*parts, strict=True), whole[:3], strict=False):
        assert sum(values).item() == pytest.approx(expected.item(), rel=1e-5)
    for x, expected in zip((logits.semantic, logits.change), gradients, strict=True):
        torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("mean_over", ["labelled", "all"])
def test_pixels_of_parts_add_up(mean_over):
    _, batch = make_batch(batch=4)
    whole = Loss(None, mean_over=mean_over).count_pixels(batch)
    parts = [
        Loss(mean_over=mean_over).count_pixels(items(batch, slice(i, None, 2))) for i in range(2)
    ]
    assert whole.share == 1 and isinstance(whole, Pixels)
    for values, expected in zip(zip(*parts, strict=True), whole[:2], strict=False):
        torch.testing.assert_close(sum(values), expected)


@pytest.mark.parametrize("missing", ["semantic", "change"])
def test_a_network_without_a_head_has_no_such_loss(missing):
    logits, batch = make_batch()
    terms = Loss()(logits._replace(**{missing: None}), batch)
    assert getattr(terms, missing) is None
    assert terms.total.item() > 0 and isinstance(terms, LossTerms)


def test_half_precision_logits_are_added_up_in_float32():
    logits, batch = make_batch(batch=2, size=200, ignored=0)
    half = Logits(*(None if x is None else x.detach().bfloat16() for x in logits))
    same = Logits(*(None if x is None else x.float() for x in half))
    assert Loss()(half, batch).total.dtype == torch.float32
    for a, b in zip(Loss()(half, batch)[:3], Loss()(same, batch)[:3], strict=True):
        torch.testing.assert_close(a, b)


def test_dice_counts_soft_hits_over_the_whole_batch():
    # hits 0.8 + 0.6, predicted 0.8 + 0.6 + 0.4 + 0.2, true 2; the ignored pixel counts nowhere
    probs = torch.tensor([[[0.8, 0.4, 0.9]], [[0.6, 0.2, 0.0]]])
    target = torch.tensor([[[1, 0, IGNORE_INDEX]], [[1, 0, 0]]])
    assert dice_loss(probs, target).item() == pytest.approx(1 - (2 * 1.4 + 1) / (2.0 + 2 + 1))


def test_dice_of_a_perfect_and_of_an_opposite_prediction():
    target = torch.tensor([[[1, 1, 0, 0]]])
    assert dice_loss(target.float(), target).item() == pytest.approx(0)
    assert dice_loss(1 - target.float(), target).item() == pytest.approx(1 - 1 / 5)
    assert dice_loss(torch.zeros(1, 1, 4), target * 0).item() == pytest.approx(0)  # 0 / 0 guarded


def test_parts_count_dice_in_their_share():
    logits, batch = make_batch(batch=4)
    loss = Loss(change_loss="dice_bce")
    pixels = loss.count_pixels(batch, micro_batches=4)
    whole = loss(Logits(None, logits.change), batch).total
    parts = [
        loss(
            Logits(None, logits.change[i : i + 1]),
            items(batch, slice(i, i + 1)),
            pixels,
        ).total
        for i in range(4)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=0.1)  # Dice of each, averaged


def test_dice_bce_is_dice_plus_unweighted_cross_entropy():
    logits, batch = make_batch()
    terms = Loss(change_loss="dice_bce")(Logits(None, logits.change), batch)
    denominator = Loss().count_pixels(batch).change
    want = change_loss(logits.change, batch.change, denominator, 1.0)
    want = want + dice_loss(logits.change.sigmoid(), batch.change)
    assert terms.total.item() == pytest.approx(want.item(), rel=1e-6)
    assert terms.change.item() == pytest.approx(want.item(), rel=1e-6)


def test_the_gate_adds_unweighted_cross_entropy_times_its_factor():
    logits, batch = make_batch()
    plain = Loss()(logits, batch)
    gated = Loss()(logits._replace(aux_change=logits.change), batch)
    denominator = Loss().count_pixels(batch).change
    gate = change_loss(logits.change, batch.change, denominator, 1.0)
    assert gated.gate.item() == pytest.approx(gate.item(), rel=1e-6)
    assert gated.total.item() == pytest.approx((plain.total + 2 * gate).item(), rel=1e-6)
    half = Loss(aux_weight=1)(logits._replace(aux_change=logits.change), batch)
    assert half.total.item() == pytest.approx((plain.total + gate).item(), rel=1e-6)
