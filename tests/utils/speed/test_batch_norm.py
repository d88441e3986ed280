"""Batch norm over several pixels at a time: the numbers of torch's own."""

import copy

import pytest
import torch
from torch import nn

from helpers.arithmetic import SHARE, needs_bf16, relative_error
from models.build import build_network
from utils.speed.batch_norm import WideBatchNorm2d, is_faster_wide, widen_batch_norms
from utils.speed.folding import fold_batch_norm


def both(channels: int, momentum: float | None = 0.1) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(channels)
    plain = nn.BatchNorm2d(channels, momentum=momentum)
    with torch.no_grad():
        plain.weight.copy_(torch.rand(channels) + 0.5)
        plain.bias.copy_(torch.randn(channels))
    wide = copy.deepcopy(plain)
    wide.__class__ = WideBatchNorm2d
    return plain, wide


def run(norm: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients and statistics after two batches."""
    for values in (x.detach() * 2 + 1, x):
        values = values.detach().requires_grad_()
        norm.zero_grad()
        y = norm(values)
        y.backward(gradient)
    return [y, values.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]


@pytest.mark.parametrize("channels", [1, 3, 8, 18, 20, 23, 36, 270])
@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
def test_everything_is_as_torch_computes_it(channels, momentum):
    x = torch.randn(2, channels, 8, 16).to(memory_format=torch.channels_last) * 3 + 2
    gradient = torch.randn_like(x)
    plain, wide = both(channels, momentum)
    assert is_faster_wide(x) == (channels < 24)
    for want, got in zip(run(plain, x, gradient), run(wide, x, gradient), strict=True):
        torch.testing.assert_close(
            got, want, rtol=1e-4, atol=1e-4 * float(want.detach().abs().max())
        )
    assert plain.num_batches_tracked == wide.num_batches_tracked == 2


@needs_bf16
def test_half_precision_is_as_near_as_torchs_own():
    exact = torch.randn(2, 18, 16, 16).to(memory_format=torch.channels_last) * 3 + 2
    gradient = torch.randn_like(exact)
    plain, wide = both(18)
    want = run(copy.deepcopy(plain), exact.bfloat16().float(), gradient.bfloat16().float())
    theirs = run(plain, exact.bfloat16(), gradient.bfloat16())
    ours = run(wide, exact.bfloat16(), gradient.bfloat16())
    assert is_faster_wide(exact.bfloat16())
    for exactly, torchs, got in zip(want, theirs, ours, strict=True):
        error = float((got.float() - exactly).norm() / exactly.norm())
        assert error <= 2 * float((torchs.float() - exactly).norm() / exactly.norm()) + 1e-6


@pytest.mark.parametrize("shape", [(2, 18, 5, 5), (1, 18, 3, 7), (2, 18, 1, 1)])
def test_pixels_that_fill_no_row_are_left_to_torch(shape):
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    plain, wide = both(18)
    assert not is_faster_wide(x)
    assert torch.equal(plain(x), wide(x))


def test_maps_in_another_order_and_gradients_too():
    x, gradient = torch.randn(2, 18, 8, 8), torch.randn(2, 18, 8, 8)
    plain, wide = both(18)
    for want, got in zip(run(plain, x, gradient), run(wide, x, gradient), strict=True):
        assert relative_error(got, want) < SHARE


def test_prediction_and_checkpoints_know_no_difference():
    x = torch.randn(2, 18, 8, 8)
    plain, wide = both(18)
    assert torch.equal(plain.eval()(x), wide.eval()(x))
    assert list(plain.state_dict()) == list(wide.state_dict())
    network = widen_batch_norms(build_network("fcn", "hrnet_w18_v1", num_classes=6))
    assert any(type(m) is WideBatchNorm2d for m in network.modules())
    folded = fold_batch_norm(network, network.traced)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.backbone.body.modules())


def test_a_relu_in_place_may_follow():
    x = torch.randn(2, 18, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    grads = []
    for norm in both(18):
        y = torch.relu_(norm(x))
        grads.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert relative_error(*grads) < SHARE


def test_second_gradients_are_refused_not_wrong():
    _, wide = both(18)
    x = torch.randn(2, 18, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(wide(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
