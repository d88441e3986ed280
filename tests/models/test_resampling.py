"""Maps brought to another size as products with matrices, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.arithmetic import needs_bf16
from models.resampling import (
    Upsample,
    region_means,
    region_means_by_products,
    resize,
    resize_by_products,
)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(16, 24), (7, 5), (8, 30), (1, 1)])
def test_products_resize_as_torch_does(align_corners, size):
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    want = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    got = resize_by_products(x.float(), size, align_corners)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert torch.equal(
        resize(x, size, align_corners), want
    )  # on a CPU torch's own, which is quick there


@pytest.mark.parametrize("sides", [(12, 18), (13, 7), (6, 6), (5, 9)])
def test_products_average_regions_as_torch_does(sides):
    x = torch.randn(2, 3, *sides)
    assert torch.equal(region_means(x, (3,))[0], F.adaptive_avg_pool2d(x, 3))  # float32: torch's
    for grid, got in zip((1, 2, 3, 6), region_means_by_products(x, (1, 2, 3, 6)), strict=True):
        torch.testing.assert_close(got, F.adaptive_avg_pool2d(x, grid), rtol=1e-5, atol=1e-6)


def test_regions_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])[None, None]
    (four,) = region_means_by_products(x, (2,))  # of 2 x 2 pixels each, which share the middle ones
    assert four[0, 0].tolist() == [[3.0, 4.0], [6.0, 7.0]]


def test_products_give_the_gradients_of_torch():
    x, gradient = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 8, 12)
    grads = []
    for function in (F.interpolate, None):
        y = x.clone().requires_grad_()
        if function is None:
            out = resize_by_products(y, (8, 12), True)
        else:
            out = function(y, size=(8, 12), mode="bilinear", align_corners=True)
        out.backward(gradient)
        grads.append(y.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_the_layer_is_torchs_own_on_a_cpu():
    layer = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True)
    x = torch.randn(1, 2, 3, 5)
    want = layer(x)
    layer.__class__ = Upsample
    assert torch.equal(layer(x), want)


@needs_bf16
@pytest.mark.parametrize("size", [(6, 6), (1, 1), (30, 40)])
def test_half_precision_is_resized_alike_on_either_way(size):
    x = torch.randn(2, 3, *size).bfloat16()
    want = F.interpolate(x.float(), size=(48, 40), mode="bilinear", align_corners=False)
    got = resize(x, (48, 40))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=2e-2)
    means = torch.cat([m.flatten(2) for m in region_means(x, (1, 2))], dim=2)
    expected = [F.adaptive_avg_pool2d(x.float(), grid).flatten(2) for grid in (1, 2)]
    torch.testing.assert_close(means.float(), torch.cat(expected, dim=2), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_joined_maps_get_the_gradients_of_torch(order):
    maps = [torch.randn(2, 3, 9, 9), torch.randn(2, 5, 10, 10)]
    gradient = torch.randn(2, 8, 18, 20).contiguous(memory_format=order)
    grads = []
    for function in (resize, lambda x, size: F.interpolate(x, size=size, mode="bilinear")):
        inputs = [x.contiguous(memory_format=order).requires_grad_() for x in maps]
        joined = torch.cat([function(x, (18, 20)) for x in inputs], dim=1)
        grads.append(torch.autograd.grad(joined, inputs, gradient))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_sums_of_many_pixels_do_not_overflow_in_float16():
    means = region_means(torch.full((1, 2, 128, 128), 5.0).half(), (1, 2, 3, 6))
    assert all((mean == 5).all() for mean in means)
