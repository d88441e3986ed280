import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.arithmetic import needs_bf16
from inference.decide import to_masks
from inference.predictor import Member, Predictor
from inference.views import TTA_VIEWS, View
from models.normalise import Normalise
from utils.probabilities import mean_probs, to_probs
from utils.schemes import SECOND
from utils.structures import Logits, Probs

CPU = torch.device("cpu")
K = 3


class Pointwise(nn.Module):
    """1x1 convolutions only, so turning the input turns the output."""

    def __init__(self, seed=0, semantic=True, change=True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.classes = nn.Conv2d(3, K, 1) if semantic else None
            self.change = nn.Conv2d(3, 1, 1) if change else None

    def forward(self, images):
        batch, dates = images.shape[:2]
        semantic = change = None
        if self.classes is not None:
            semantic = self.classes(images.flatten(0, 1)).unflatten(0, (batch, dates))
        if self.change is not None:
            change = self.change((images[:, 0] - images[:, -1]).abs()).squeeze(1)
        return Logits(semantic, change)


class Slanted(Pointwise):
    """Adds a ramp from left to right and top to bottom: every view gives another answer."""

    def forward(self, images):
        logits = super().forward(images)
        height, width = images.shape[-2:]
        ramp = torch.linspace(-1, 1, height)[:, None] * 2 + torch.linspace(-1, 1, width)
        slope = torch.arange(K)[:, None, None] * ramp
        return Logits(logits.semantic + slope, logits.change + ramp)


def member(network):
    return Member(network.eval(), Normalise.of(SECOND))


def make_images(height=6, width=6, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 2, 3, height, width), generator=generator).to(torch.uint8)


def assert_same(one: Probs, other: Probs, tolerance=1e-6):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", list(TTA_VIEWS))
def test_every_view_is_undone(name):
    x = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    for view in TTA_VIEWS[name]:
        assert torch.equal(view.undo(view.apply(x)), x)
        turned = x if view.quarter_turns % 2 == 0 else x.transpose(-1, -2)
        assert torch.equal(view.apply(view.undo(turned)), turned)


def test_views_are_all_different():
    x = torch.arange(9).view(3, 3)
    for name, count in (("none", 1), ("flip_rot", 6), ("d4", 8), ("flip_lr", 2), ("flips", 4)):
        assert len({tuple(v.apply(x).flatten().tolist()) for v in TTA_VIEWS[name]}) == count


def test_the_six_published_views_by_hand():
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    published = {
        ((1, 2, 3), (4, 5, 6)),  # as it is
        ((4, 5, 6), (1, 2, 3)),  # upside down, flip(2)
        ((3, 2, 1), (6, 5, 4)),  # mirrored, flip(3)
        ((4, 1), (5, 2), (6, 3)),  # a quarter turn clockwise: transpose, then flip(3)
        ((3, 6), (2, 5), (1, 4)),  # a quarter turn counter-clockwise: flip(3), then transpose
        ((6, 5, 4), (3, 2, 1)),  # a half turn
    }
    ours = {tuple(map(tuple, view.apply(x).tolist())) for view in TTA_VIEWS["flip_rot"]}
    assert ours == published


def test_the_flips_published_for_naic_by_hand():
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    left_right, up_down, both = x.flip(1), x.flip(0), x.flip(0, 1)
    for name, views in (("flip_lr", [x, left_right]), ("flips", [x, up_down, left_right, both])):
        assert [view.apply(x).tolist() for view in TTA_VIEWS[name]] == [v.tolist() for v in views]


def test_a_view_works_on_the_last_two_axes_alone():
    x = torch.randn(2, 2, 3, 4, 4)
    one = View(True, 1).apply(x)
    torch.testing.assert_close(one[1, 0, 2], View(True, 1).apply(x[1, 0, 2]))


@pytest.mark.parametrize("tta", ["flip_rot", "d4"])
@pytest.mark.parametrize("size", [(6, 6), (4, 8)])
def test_tta_of_an_equivariant_network_changes_nothing(tta, size):
    images = make_images(*size)
    predictor = Predictor([member(Pointwise())], CPU)
    assert_same(predictor(images, tta=tta), predictor(images, tta="none"))


@pytest.mark.parametrize("tta", ["none", "flip_rot", "d4"])
@pytest.mark.parametrize("size", [(6, 6), (4, 8)])
def test_tta_is_the_mean_of_views_one_by_one(tta, size):
    images = make_images(*size)
    network = Slanted().eval()
    each = []
    for view in TTA_VIEWS[tta]:
        with torch.no_grad():
            logits = network(view.apply(Normalise.of(SECOND)(images)))
        each.append([view.undo(logits.semantic.softmax(2)), view.undo(logits.change.sigmoid())])
    expected = Probs(*(torch.stack(values).mean(0) for values in zip(*each, strict=True)))
    assert_same(Predictor([member(network)], CPU, tta=tta)(images), expected)


@pytest.mark.parametrize("tta", ["none", "flips", "flip_rot"])
def test_scores_are_resized_before_they_become_probabilities(tta):
    images, size = make_images(8, 12), (5, 6)
    network = Slanted().eval()
    semantic, change = [], []
    for view in TTA_VIEWS[tta]:
        turned = size if view.quarter_turns % 2 == 0 else size[::-1]
        with torch.no_grad():
            logits = network(view.apply(Normalise.of(SECOND)(images)))
        for date in (0, 1):
            scores = F.interpolate(logits.semantic[:, date], turned, mode="bilinear")
            semantic.append(view.undo(scores.softmax(1)))
        scores = F.interpolate(logits.change[:, None], turned, mode="bilinear")
        change.append(view.undo(scores[:, 0].sigmoid()))
    dates = [torch.stack(semantic[date::2]).mean(0) for date in (0, 1)]
    expected = Probs(torch.stack(dates, 1), torch.stack(change).mean(0))
    probs = Predictor([member(network)], CPU, tta=tta)(images, size=size)
    assert probs.semantic.shape == (2, 2, K, *size) and probs.change.shape == (2, *size)
    assert_same(probs, expected)


def test_a_call_can_choose_other_views_than_the_predictors_own():
    images = make_images()
    predictor = Predictor([member(Slanted())], CPU, tta="flip_rot")
    with_tta, without = predictor(images), predictor(images, tta="none")
    assert (with_tta.change - without.change).abs().max() > 1e-3
    assert_same(predictor(images, tta="flip_rot"), with_tta)


def test_an_ensemble_is_the_mean_of_its_members_probabilities():
    images = make_images()
    members = [member(Slanted(seed)) for seed in range(3)]
    each = [Predictor([m], CPU, tta="flip_rot")(images) for m in members]
    pairs = zip(*(probs[:2] for probs in each), strict=True)
    expected = Probs(*(torch.stack(values).mean(0) for values in pairs))
    assert_same(Predictor(members, CPU, tta="flip_rot")(images), expected)


def test_the_gate_is_averaged_only_if_every_member_has_one():
    plain = Probs(change=torch.full((1, 2, 2), 0.2))
    gated = plain._replace(gate=torch.full((1, 2, 2), 0.6))
    assert mean_probs([gated, plain]).gate is None
    torch.testing.assert_close(
        mean_probs([gated, gated._replace(gate=torch.zeros(1, 2, 2))]).gate,
        torch.full((1, 2, 2), 0.3),
    )


def test_members_normalise_each_in_their_own_way():
    images = make_images()
    network = Pointwise()
    other = Member(network.eval(), Normalise(100.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    with torch.no_grad():
        expected = to_probs(network(images.float() / 100))
    assert_same(Predictor([other], CPU)(images), expected, 1e-5)
    both = Predictor([other, member(network)], CPU)(images)
    assert (both.semantic - expected.semantic).abs().max() > 1e-3


def test_probabilities_stay_probabilities():
    probs = Predictor([member(Slanted(s)) for s in range(2)], CPU, tta="d4")(make_images())
    torch.testing.assert_close(probs.semantic.sum(2), torch.ones(2, 2, 6, 6))
    assert probs.change.min() >= 0 and probs.change.max() <= 1
    assert probs.semantic.dtype == probs.change.dtype == torch.float32
    assert probs.semantic.shape == (2, 2, K, 6, 6) and probs.change.shape == (2, 6, 6)


@pytest.mark.parametrize(("semantic", "change"), [(True, False), (False, True)])
def test_networks_with_one_head_predict_that_head(semantic, change):
    predictor = Predictor([member(Pointwise(0, semantic, change))] * 2, CPU, tta="flip_rot")
    probs = predictor(make_images())
    assert (probs.semantic is not None) == semantic and (probs.change is not None) == change


def test_predicting_leaves_no_gradients_and_the_images_alone():
    images = make_images()
    before = images.clone()
    probs = Predictor([member(Slanted())], CPU, tta="d4")(images)
    assert not probs.change.requires_grad and torch.equal(images, before)


@needs_bf16
def test_bf16_inference_is_close_and_adds_up_in_float32():
    images = make_images()
    network = Slanted()
    exact = Predictor([member(network)], CPU, None, "flip_rot")(images)
    rough = Predictor([member(network)], CPU, torch.bfloat16, "flip_rot")(images)
    assert rough.semantic.dtype == torch.float32
    assert_same(rough, exact, 0.03)


def test_mean_probs_of_one_is_itself_and_inputs_are_not_spoilt_for_two():
    one = Probs(torch.full((1, 1, 1, 1, 1), 1.0), torch.full((1, 1, 1), 0.25))
    assert_same(mean_probs([one]), one)
    two = Probs(torch.full((1, 1, 1, 1, 1), 0.0), torch.full((1, 1, 1), 0.75))
    mean = mean_probs([Probs(*(p.clone() for p in one[:2])), two])
    assert mean.semantic.item() == 0.5 and mean.change.item() == 0.5


def test_to_probs_is_softmax_over_classes_and_sigmoid():
    logits = Logits(torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 3, 1, 1), torch.zeros(1, 1, 1))
    probs = to_probs(logits)
    e = np.exp([0.0, 1.0, 2.0])
    np.testing.assert_allclose(probs.semantic.flatten().numpy(), e / e.sum(), rtol=1e-6)
    assert probs.change.item() == 0.5


def test_masks_show_the_class_where_changed_and_0_elsewhere():
    semantic = torch.zeros(1, 2, K, 1, 2)
    semantic[0, 0, 1], semantic[0, 1, 2] = 1.0, 1.0  # date 1: class 1, date 2: class 2
    masks = to_masks(Probs(semantic, torch.tensor([[[0.9, 0.1]]])))
    assert masks.dtype == torch.uint8
    assert masks.tolist() == [[[[2, 0]], [[3, 0]]]]


def test_even_odds_count_as_unchanged_as_published():
    semantic = torch.ones(1, 2, K, 1, 1)
    assert to_masks(Probs(semantic, torch.full((1, 1, 1), 0.5))).eq(0).all()


def test_masks_without_a_change_head_give_every_pixel_a_class():
    semantic = torch.zeros(1, 1, K, 1, 2)
    semantic[0, 0, 0, 0, 0] = semantic[0, 0, 2, 0, 1] = 1
    assert to_masks(Probs(semantic)).tolist() == [[[[1, 3]]]]


def test_masks_without_a_semantic_head_are_1_where_changed():
    masks = to_masks(Probs(change=torch.tensor([[[0.7, 0.2]]])))
    assert masks.tolist() == [[[[1, 0]]]]


def test_normalise_by_hand():
    # (255 / 255 - 0.485) / 0.229, (0 / 255 - 0.456) / 0.224, (51 / 255 - 0.406) / 0.225
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    got = Normalise.of(SECOND)(images).flatten().tolist()
    assert got == pytest.approx([0.515 / 0.229, -0.456 / 0.224, -0.206 / 0.225], rel=1e-5)


def test_normalise_takes_float_images_of_any_scale():
    layer = Normalise(10000.0, (0.1,) * 4, (0.5,) * 4)
    torch.testing.assert_close(layer(torch.full((4, 2, 2), 6000.0)), torch.ones(4, 2, 2))


def test_normalise_refuses_another_number_of_bands():
    with pytest.raises(ValueError, match=r"4 bands.* reads 3.*--checkpoints"):
        Normalise.of(SECOND)(torch.zeros(1, 2, 4, 8, 8))


def test_normalise_adds_nothing_to_a_checkpoint():
    assert Normalise.of(SECOND).state_dict() == {}
