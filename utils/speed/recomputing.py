"""Gradient checkpointing of residual blocks: less memory, about one more forward pass.

Feature maps inside a block are not stored, but computed again in the backward pass.

Reference: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from utils.speed.blocks import residual_blocks


def recompute_blocks(network: nn.Module) -> nn.Module:
    """Makes the blocks of a ResNet or HRNet store only their input in training, in place.

    Losses, gradients and statistics do not change. Returns the network.

    Raises:
        ValueError: the network has no residual blocks.
    """
    blocks = residual_blocks(network)
    if not blocks:
        raise ValueError(
            "--grad-checkpointing is for ResNets and HRNets, and this network has none of their "
            "blocks; leave it out, and save memory by --accumulate or a smaller --batch-size"
        )
    for block in blocks:
        block.__class__ = _recomputed(type(block))
    return network


@functools.cache
def _recomputed(block_type: type[nn.Module]) -> type[nn.Module]:
    class Recomputed(block_type):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return super().forward(x)
            return checkpoint(
                super().forward,
                x,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), statistics_kept(self)),
            )

    return Recomputed


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Restores batch-norm statistics at the end of the block, so that no batch counts twice."""
    kept = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm)
        for name, buffer in norm.named_buffers()
    ]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
