import itertools

import pytest
import torch
from torch import nn

from utils.losses import LossTerms
from utils.monitor import LossMonitor
from utils.optim import LR_POLICIES, WeightAverage, build_adam, learning_rate, set_lr


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


def test_every_policy_starts_at_the_given_rate_and_never_rises():
    for policy in LR_POLICIES:
        rates = [learning_rate(policy, 1e-3, step, 30, 5) for step in range(30)]
        assert rates[0] == 1e-3 and all(b <= a for a, b in itertools.pairwise(rates))
        assert rates[-1] > 0


def test_heads_learn_ten_times_as_fast_as_the_backbone():
    network = Tiny()
    optimizer = build_adam(network, lr=1e-3, weight_decay=1e-4)
    backbone, heads = optimizer.param_groups
    assert backbone["lr"] == 1e-3 and heads["lr"] == pytest.approx(1e-2)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4, 1e-4]
    assert {id(p) for p in backbone["params"]} == {id(p) for p in network.backbone.parameters()}
    assert {id(p) for p in heads["params"]} == {id(p) for p in network.head.parameters()}
    set_lr(optimizer, learning_rate("poly", 1e-3, 50, 100, 1))
    assert heads["lr"] == pytest.approx(10 * backbone["lr"])
    assert backbone["lr"] == pytest.approx(1e-3 * 0.5**0.9)


def test_the_first_adam_step_moves_every_weight_by_its_rate():
    network = Tiny()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = build_adam(network, lr=1e-3, weight_decay=0.0)
    for p in network.parameters():
        p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    for (name, p), old in zip(network.named_parameters(), before, strict=True):
        rate = 1e-3 if "backbone" in name else 1e-2
        torch.testing.assert_close(old - p.detach(), torch.full_like(p, rate), rtol=1e-3, atol=1e-6)


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
