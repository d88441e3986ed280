import copy
import itertools
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from training.losses import LossTerms
from training.monitor import LossMonitor
from training.optim import OPTIMIZERS, WeightAverage, build_optimizer, set_lr
from training.schedule import LR_POLICIES, MOMENTA, check_flags, learning_rate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.5e-4), (1, 1.486493e-4), (50, 8.038301e-5), (99, 2.377340e-6)]
)
def test_poly_schedule_has_the_published_values(step, expected):
    assert learning_rate("poly", 1.5e-4, step, 100, 1) == pytest.approx(expected, rel=1e-6)


def test_poly_schedule_ends_at_zero():
    assert learning_rate("poly", 1.5e-4, 100, 100, 1) == 0


@pytest.mark.parametrize(
    ("policy", "lr", "epoch", "epochs", "expected"),
    [  # published values of TFINet (linear) and of Rucode (exponential)
        ("linear", 2e-4, 1, 50, 1.960784e-4),
        ("linear", 2e-4, 49, 50, 7.843e-6),
        ("step", 2e-4, 15, 50, 2e-4),
        ("step", 2e-4, 16, 50, 2e-5),
        ("step", 2e-4, 49, 50, 2e-7),
        ("exponential", 1e-4, 37, 150, 3.2400684e-5),
        ("exponential", 1e-4, 149, 150, 1.0690263e-6),
    ],
)
def test_published_rates_by_epoch(policy, lr, epoch, epochs, expected):
    for step in (7 * epoch, 7 * epoch + 6):  # the first and the last step of that epoch
        got = learning_rate(policy, lr, step, 7 * epochs, 7)
        assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("recipe", "step", "expected"),
    [  # published values of NAIC 2020
        ("naic2020_stage1_d16", 0, 0.01),
        ("naic2020_stage1_d16", 160_000, 0.0054052786),
        ("naic2020_stage1_d16", 304_000, 0.0007678950),
        ("naic2020_stage1_d16", 320_000, 0.0001),
        ("naic2020_stage2_d8", 0, 0.001),
        ("naic2020_stage2_d8", 160_000, 0.00058229821),
        ("naic2020_stage2_d8", 304_000, 0.00016071773),
        ("naic2020_stage2_d8", 320_000, 0.0001),
        ("dfc2020_deeplabv3plus", 0, 0.01),
        ("dfc2020_deeplabv3plus", 320_000, 0.01),
        ("dfc2020_unet", 320_000, 0.01),
    ],
)
def test_recipes_of_land_cover_have_the_published_rates(recipe, step, expected):
    given = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text(encoding="utf-8"))
    total = given.get("max_steps", 500_000)
    rate = learning_rate(
        given["lr_policy"], given["lr"], step, total, 6000, lr_min=given.get("lr_min", 0)
    )
    assert rate == pytest.approx(expected, rel=1e-6)


def test_every_policy_starts_at_the_given_rate_and_never_rises():
    for policy in LR_POLICIES:
        rates = [learning_rate(policy, 1e-3, step, 30, 5) for step in range(30)]
        assert rates[0] == 1e-3 and all(b <= a for a, b in itertools.pairwise(rates))
        assert rates[-1] > 0


def test_every_optimiser_says_whether_it_takes_a_momentum():
    assert list(OPTIMIZERS) == list(MOMENTA)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_heads_learn_ten_times_as_fast_as_the_backbone(kind):
    network = Tiny()
    optimizer = build_optimizer(network, kind, lr=1e-3, weight_decay=1e-4)
    backbone, heads = optimizer.param_groups
    assert backbone["lr"] == 1e-3 and heads["lr"] == pytest.approx(1e-2)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4, 1e-4]
    assert {id(p) for p in backbone["params"]} == {id(p) for p in network.backbone.parameters()}
    assert {id(p) for p in heads["params"]} == {id(p) for p in network.head.parameters()}
    set_lr(optimizer, learning_rate("poly", 1e-3, 50, 100, 1))
    assert heads["lr"] == pytest.approx(10 * backbone["lr"])
    assert backbone["lr"] == pytest.approx(1e-3 * 0.5**0.9)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_network_without_a_backbone_learns_at_the_rate_itself(kind):
    network = Tiny().backbone  # no name in it says "backbone"
    optimizer = build_optimizer(network, kind, lr=1e-3, weight_decay=0, head_lr_factor=10)
    (group,) = optimizer.param_groups
    assert group["lr"] == 1e-3 and len(group["params"]) == 4
    set_lr(optimizer, 1e-4)
    assert group["lr"] == 1e-4


def steps(network, optimizer, *gradients):
    """Takes a step with each number as the gradient of every weight."""
    for gradient in gradients:
        for p in network.parameters():
            p.grad = torch.full_like(p, gradient)
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "options", "gradients", "moved"),
    [
        ("adam", {}, (0.3,), 1.0),
        ("sgd", {}, (0.3, 0.2), 0.3 + (0.9 * 0.3 + 0.2)),  # momentum is 0.9
        ("sgd", {"momentum": 0.5}, (0.3, 0.2), 0.3 + (0.5 * 0.3 + 0.2)),
        ("sgd", {"momentum": 0.0}, (0.3, 0.2), 0.5),
        # the mean square is 0.01 * 0.09 after one step, 0.99 times that + 0.01 * 0.04 after two
        ("rmsprop", {}, (0.3,), 0.3 / 0.03),
        ("rmsprop", {}, (0.3, 0.2), 10 + 0.2 / 0.001291**0.5),
        ("rmsprop", {"momentum": 0.5}, (0.3, 0.2), 10 + (0.5 * 10 + 0.2 / 0.001291**0.5)),
    ],
)
def test_the_first_steps_move_every_weight_by_so_many_times_its_rate(
    kind, options, gradients, moved
):
    network = Tiny()
    before = [p.detach().clone() for p in network.parameters()]
    steps(network, build_optimizer(network, kind, lr=1e-3, weight_decay=0.0, **options), *gradients)
    for (name, p), old in zip(network.named_parameters(), before, strict=True):
        way = moved * (1e-3 if "backbone" in name else 1e-2)
        torch.testing.assert_close(old - p.detach(), torch.full_like(p, way), rtol=1e-3, atol=1e-6)


def test_weight_decay_pulls_every_weight_towards_zero():
    network = Tiny()
    before = [p.detach().clone() for p in network.parameters()]
    steps(network, build_optimizer(network, "sgd", 1e-2, weight_decay=0.5, head_lr_factor=1), 0.0)
    for p, old in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 1e-2 * 0.5))


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"momentum": 0.9}, r"--momentum 0\.9 is of --optimizer sgd and rmsprop, got adam"),
        ({"lr_min": 1e-2}, r"--lr-min 0\.01 .*below --lr.*--lr 0\.001"),
        ({"lr_min": 1e-4, "policy": "constant"}, r"--lr-min.*got --lr-policy constant"),
        ({"gamma": 0.5}, r"--lr-gamma 0\.5 is of --lr-policy step and exponential, got poly"),
    ],
)
def test_flags_without_effect_are_errors(flags, error):
    usual = {"optimizer": "adam", "momentum": None, "policy": "poly", "lr": 1e-3, "lr_min": 0.0}
    check_flags(**usual, gamma=None)
    with pytest.raises(ValueError, match=error):
        check_flags(**{**usual, "gamma": None, **flags})


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimiser_goes_on_from_its_saved_state(kind):
    first, second = Tiny(), Tiny()
    one = build_optimizer(first, kind, lr=1e-3, weight_decay=1e-4)
    steps(first, one, 0.3, -0.1)
    second.load_state_dict(first.state_dict())
    two = build_optimizer(second, kind, lr=1e-3, weight_decay=1e-4)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    steps(first, one, 0.2)
    steps(second, two, 0.2)
    torch.testing.assert_close(list(second.parameters()), list(first.parameters()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_first_step_that_overflows_leaves_nothing_behind(kind):
    torch.use_deterministic_algorithms(True)  # memory not yet written is NaN
    try:
        network, plain = Tiny(), Tiny()
        plain.load_state_dict(network.state_dict())
        optimizer = build_optimizer(network, kind, lr=1e-3, weight_decay=0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)  # halves it, to 1
        scaler.scale(torch.zeros(1))
        for gradient in (float("inf"), 0.3):
            for p in network.parameters():
                p.grad = torch.full_like(p, gradient)
            scaler.step(optimizer)
            scaler.update()
        steps(plain, build_optimizer(plain, kind, lr=1e-3, weight_decay=0), 0.3)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(list(network.parameters()), list(plain.parameters()))


def moved(network, by):
    with torch.no_grad():
        for p in network.parameters():
            p.add_(by)
    return network


def test_average_follows_its_formula_with_a_warm_start():
    network = Tiny()
    start = network.head.weight.detach().clone()
    average = WeightAverage(network, decay=0.999)
    average.update(moved(network, 1.0))  # decay (1 + 0) / (10 + 0) = 0.1
    torch.testing.assert_close(average.state["head.weight"], 0.1 * start + 0.9 * (start + 1))
    average.update(moved(network, 1.0))  # decay 2 / 11
    expected = 2 / 11 * (start + 0.9) + 9 / 11 * (start + 2)
    torch.testing.assert_close(average.state["head.weight"], expected)


def test_average_never_decays_slower_than_asked():
    network = Tiny()
    average = WeightAverage(network, decay=0.05)
    start = network.head.weight.detach().clone()
    average.update(moved(network, 1.0))
    torch.testing.assert_close(average.state["head.weight"], start + 0.95)


def test_batch_norm_statistics_are_copied_not_averaged():
    network = Tiny()
    average = WeightAverage(network)
    network.train()(torch.randn(4, 3, 8, 8))
    average.update(network)
    norm = network.backbone[1]
    torch.testing.assert_close(average.state["backbone.1.running_mean"], norm.running_mean)
    assert average.state["backbone.1.num_batches_tracked"] == 1


def test_applied_average_is_taken_back():
    network = Tiny()
    average = WeightAverage(network)
    average.update(moved(network, 1.0))
    own = {k: v.clone() for k, v in network.state_dict().items()}
    with average.applied(network):
        torch.testing.assert_close(network.state_dict(), average.state)
        assert not torch.equal(network.head.weight, own["head.weight"])
    torch.testing.assert_close(network.state_dict(), own, rtol=0, atol=0)
    with pytest.raises(KeyError), average.applied(network):
        raise KeyError
    torch.testing.assert_close(network.state_dict(), own, rtol=0, atol=0)


def test_average_does_not_change_while_it_is_applied_and_trained_on():
    network = Tiny()
    average = WeightAverage(network)
    kept = {k: v.clone() for k, v in average.state.items()}
    with average.applied(network):
        moved(network, 1.0)
    torch.testing.assert_close(average.state, kept, rtol=0, atol=0)


def test_average_continues_from_a_checkpoint():
    first, second = Tiny(), Tiny()
    second.load_state_dict(first.state_dict())
    one = WeightAverage(first)
    one.update(moved(first, 1.0))
    saved = {k: v for k, v in one.state_dict().items()}
    saved["weights"] = {k: v.clone() for k, v in saved["weights"].items()}
    two = WeightAverage(second)
    two.load_state_dict(saved)
    one.update(moved(first, 1.0))
    two.update(first)
    torch.testing.assert_close(one.state, two.state, rtol=0, atol=0)


def terms(total):
    return LossTerms(*(torch.tensor(float(v)) for v in (total, total - 1, 0.5)))


def test_monitor_gives_means_since_the_last_reading():
    monitor = LossMonitor()
    monitor.add(1, ["a"], terms(2))
    monitor.add(2, ["b"], terms(4))
    assert monitor.read() == {"total": 3, "semantic": 2, "change": 0.5}
    assert len(monitor) == 0
    monitor.add(3, ["c"], terms(8))
    assert monitor.read()["total"] == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_monitor_names_the_first_bad_step_its_tiles_and_what_to_do(value):
    monitor = LossMonitor()
    monitor.add(6, ["sound"], terms(2))
    monitor.add(7, ["bad1", "bad2"], terms(value))
    monitor.add(8, ["after"], terms(value))
    with pytest.raises(
        FloatingPointError, match=r"step 7.*bad1, bad2.*--lr.*--pretrain-from"
    ) as error:
        monitor.read()
    assert "sound" not in str(error.value) and "after" not in str(error.value)


def test_monitor_keeps_no_graph():
    x = torch.ones((), requires_grad=True)
    monitor = LossMonitor()
    monitor.add(1, ["a"], LossTerms(x * 2, x, x))
    assert not monitor.read()["total"] - 2
