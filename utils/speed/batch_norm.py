"""Fast batch norm for training on a CPU, for any number of channels.

Torch's kernel is vectorised over channels and processes the remainder one number at a time; with
HRNet's 18 or 36 channels, the remainder dominates. Here several neighbouring pixels of a
channels-last map are viewed as one pixel with more channels, which fill whole registers.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

REGISTER_BYTES = 64  # of AVX512; a multiple of the widths of other registers
NARROW_BYTES = 96  # per pixel; only maps below are faster


class WideBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with this method; a module is converted by setting its `__class__`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape and type."""
        if not (self.training and self.track_running_stats and is_faster_wide(x)):
            return super().forward(x)
        pixels = x.numel() // x.shape[1]
        y, mean, var = _WideBatchNorm.apply(x, self.weight, self.bias, self.eps, row_pixels(x))
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = self.momentum
            if momentum is None:
                momentum = 1 / int(self.num_batches_tracked)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * (pixels / (pixels - 1)), momentum)
        return y


def widen_batch_norms(network: nn.Module) -> nn.Module:
    """Converts all nn.BatchNorm2d of a network to WideBatchNorm2d, in place; returns it."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d and module.affine:
            module.__class__ = WideBatchNorm2d
    return network


def is_faster_wide(x: Tensor) -> bool:
    """Whether a map (N, C, h, w) is faster: on a CPU, few channels, a multiple of `row_pixels`."""
    if x.device.type != "cpu" or x.ndim != 4 or x.shape[1] * x.element_size() >= NARROW_BYTES:
        return False
    return row_pixels(x) > 1 and x.numel() // x.shape[1] % row_pixels(x) == 0


def row_pixels(x: Tensor) -> int:
    """The fewest pixels of (N, C, h, w) that fill whole registers."""
    nbytes = x.shape[1] * x.element_size()
    return math.lcm(nbytes, REGISTER_BYTES) // nbytes


class _WideBatchNorm(torch.autograd.Function):
    """Returns the normalised map, and the batch's mean and biased variance (no gradient)."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, repeats: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        wide = _wide(x, repeats)
        kept = weight.new_zeros(2, wide.shape[1])  # float32, so that the statistics are float32
        means, variances = torch.batch_norm_update_stats(wide, *kept, 0.0)
        means, variances = means.view(repeats, -1), variances.view(repeats, -1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        invstd = (var + eps).rsqrt()
        scale = weight * invstd
        y = torch.empty_like(x)
        _affine(wide, scale, bias - mean * scale, repeats, out=_wide(y, repeats))
        ctx.save_for_backward(x, weight, mean, invstd)
        ctx.eps, ctx.repeats = eps, repeats
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        repeats = ctx.repeats
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        wide, wide_gradient = _wide(x, repeats), _wide(gradient, repeats)
        statistics = (mean.repeat(repeats), invstd.repeat(repeats))
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            wide_gradient,
            wide,
            weight.repeat(repeats),
            *(None, None),
            *statistics,
            True,
            ctx.eps,
            [False, True, True],
        )
        of_weight = of_weight.view(repeats, -1).sum(0)
        of_bias = of_bias.view(repeats, -1).sum(0)
        # scale * (gradient - mean of it - normalised x * mean of gradient * normalised x)
        pixels, scale = x.numel() // x.shape[1], weight * invstd
        slope = -scale * invstd * of_weight / pixels
        offset = -scale * of_bias / pixels - slope * mean
        result, other = torch.empty_like(x), torch.empty_like(wide)
        _affine(wide_gradient, scale, torch.zeros_like(scale), repeats, _wide(result, repeats))
        result += _narrow(_affine(wide, slope, offset, repeats, other), x)
        return result, of_weight, of_bias, None, None


def _wide(x: Tensor, repeats: int) -> Tensor:
    """(N, C, h, w) channels last -> a view (1, repeats * C, pixels / repeats, 1)."""
    rows = x.permute(0, 2, 3, 1).reshape(1, -1, 1, repeats * x.shape[1])
    return rows.permute(0, 3, 1, 2)


def _narrow(wide: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_wide`."""
    size, channels, *sides = like.shape
    return wide.permute(0, 2, 3, 1).reshape(size, *sides, channels).permute(0, 3, 1, 2)


def _affine(wide: Tensor, scale: Tensor, offset: Tensor, repeats: int, out: Tensor) -> Tensor:
    """Each channel times its scale plus its offset, in one pass."""
    zeros, ones = scale.new_zeros(wide.shape[1]), scale.new_ones(wide.shape[1])
    factors = (scale.repeat(repeats), offset.repeat(repeats))
    outs = (out, scale.new_empty(0), scale.new_empty(0))  # the statistics stay empty
    torch.native_batch_norm(wide, *factors, zeros, ones, False, 0.0, 0.0, out=outs)
    return out
