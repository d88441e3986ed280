"""Pads the channels of an HRNet's feature maps to multiples of eight, on CUDA.

cuDNN computes half precision in groups of eight channels. With 18 or 36 channels, as in hrnet_w18,
each convolution first copies its input to a padded map. Here the maps stay padded instead. The
additional channels are always zero, so weights, statistics and checkpoints do not change.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MULTIPLE = 8


class PaddedConv2d(nn.Conv2d):
    """nn.Conv2d for padded maps; a module is converted by setting its `__class__`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in or more, h, w) -> (N, out, h', w'); in half precision, out is padded."""
        return self._conv_forward(x, *padded_weights(self.weight, self.bias, x))


class PaddedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that keeps additional channels zero; converted like `PaddedConv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C or more, h, w) -> the same shape."""
        more = x.shape[1] - self.num_features
        if not more:
            return super().forward(x)
        weight, bias, mean, var = (
            F.pad(values, (0, more))
            for values in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        y = F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)
        if self.training:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.copy_(mean[: self.num_features])
                self.running_var.copy_(var[: self.num_features])
        return y


def pad_channels(network: nn.Module, padded: Sequence[str]) -> nn.Module:
    """Converts layers of submodules whose channels are not all multiples of eight, in place.

    Args:
        network: changed and returned.
        padded: names of the submodules in which all maps may be padded.
    """
    for name in padded:
        modules = list(network.get_submodule(name).modules())
        convolutions = [m for m in modules if type(m) is nn.Conv2d and m.groups == 1]
        if all(conv.out_channels % MULTIPLE == 0 for conv in convolutions):
            continue
        for conv in convolutions:
            conv.__class__ = PaddedConv2d
        for module in modules:
            if type(module) is nn.BatchNorm2d:
                module.__class__ = PaddedBatchNorm2d
    return network


def padded_weights(weight: Tensor, bias: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in, a, b) and bias (out,), zero-padded for the channels of x and the output."""
    more_in, more_out = x.shape[1] - weight.shape[1], channels_after(weight, x) - len(weight)
    if more_in or more_out:
        weight = F.pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
        weight = weight.contiguous(memory_format=torch.channels_last)
        bias = None if bias is None else F.pad(bias, (0, more_out))
    return weight, bias


def channels_after(weight: Tensor, x: Tensor) -> int:
    """Number of output channels of a convolution of x; in half precision a multiple of eight."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return -(-len(weight) // MULTIPLE) * MULTIPLE if dtype.itemsize == 2 else len(weight)
