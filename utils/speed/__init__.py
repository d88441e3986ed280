"""Makes networks fast. Two doors, `for_training` and `for_prediction`; all else here is private.

Nothing in this folder changes what is computed beyond rounding, so a reader may skip it.
docs/performance.md names the gain of each file and how it was measured.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from utils import distributed
from utils.speed.allocator import keep_freed_memory
from utils.speed.batch_norm import widen_batch_norms
from utils.speed.channel_padding import pad_channels
from utils.speed.compiling import compile_blocks
from utils.speed.cuda_graphs import Graphed
from utils.speed.folding import fold_batch_norm
from utils.speed.fusion import fuse
from utils.speed.recomputing import recompute_blocks

__all__ = ["Accelerable", "for_prediction", "for_training"]


class Accelerable(Protocol):
    """What a network declares of itself, besides being an nn.Module.

    Attributes:
        traced: names of the submodules whose data flow torch.fx may trace, such as "backbone.body".
        padded: those of them in which every map may have further channels of zeros.
    """

    traced: tuple[str, ...]
    padded: tuple[str, ...]


def for_training(
    network: Accelerable,
    example: Callable[[], Tensor],
    amp: torch.dtype | None,
    *,
    compiled: bool = False,
    recomputed: bool = False,
    replayed: bool = True,
    sync_bn: bool = False,
) -> nn.Module:
    """The network as a training loop should call it; the weights stay those of `network`.

    Args:
        network: on its device, channels last; changed in place.
        example: makes images like those of a batch (B, T, C, H, W), normalised. It is called only
            where kernels are recorded.
        amp: autocast type that it is trained with, None for float32.
        compiled: torch.compile its residual blocks, or all of it where it has none.
        recomputed: compute maps inside residual blocks again for the gradient; not with `compiled`.
        replayed: record its kernels as a CUDA graph. Ignored on a CPU, with several processes and
            with `recomputed`. Not for accumulated gradients.
        sync_bn: its batch norms will be shared by all processes (`distributed.wrap`).

    Raises:
        ValueError: `recomputed` without residual blocks, or a network that cannot be recorded.
    """
    device = device_of(network)
    _prepare(device)
    alone, on_cuda = distributed.world() == 1, device.type == "cuda"
    replayed = replayed and on_cuda and alone and not recomputed
    if recomputed:
        recompute_blocks(network)
    if on_cuda and (replayed or compiled) and (alone or not sync_bn):
        pad_channels(network, network.padded)  # kernel by kernel, padding weights costs more
    if not compiled:
        widen_batch_norms(network)
    elif not compile_blocks(network):
        return torch.compile(network)
    return Graphed(network.train(), example(), amp) if replayed else network


def for_prediction(
    network: Accelerable, *, compiled: bool = False, fused: bool = True
) -> nn.Module:
    """A copy of the network that only predicts: batch norms folded, channels last, layers fused.

    What is not changed shares its memory with the network.

    Args:
        network: on its device.
        compiled: by torch.compile, which makes the first prediction slow, and fuses by itself.
        fused: use the fused layers of oneDNN and cuDNN; False leaves PyTorch's own, for exporters.
    """
    _prepare(device_of(network))
    copied = fold_batch_norm(network, network.traced).to(memory_format=torch.channels_last)
    if compiled:
        return torch.compile(copied)
    return fuse(copied, network.traced, network.padded) if fused else copied


def device_of(network: nn.Module) -> torch.device:
    """Where a network is."""
    return next(network.parameters()).device


def _prepare(device: torch.device) -> None:
    if device.type == "cpu":
        keep_freed_memory()
