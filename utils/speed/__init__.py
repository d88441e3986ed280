"""Acceleration of networks. Public API: `for_training` and `for_prediction`.

Nothing in this package changes results beyond rounding errors, so a reader may skip it.
docs/performance.md gives the speed-up of each file and how it was measured.
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
    """An nn.Module that declares which of its submodules can be accelerated.

    Attributes:
        traced: names of the submodules that torch.fx may trace, such as "backbone.body".
        padded: those of them in which every feature map may have additional zero channels.
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
    """An accelerated module for the training loop; it shares the weights of `network`.

    Args:
        network: on its device, channels last; changed in place, and set to training mode.
        example: returns normalised images with the shape of a batch (B, T, C, H, W). It is called
            only if a CUDA graph is recorded.
        amp: autocast type of the training, None for float32.
        compiled: torch.compile the residual blocks, or the whole network if it has none.
        recomputed: gradient checkpointing of the residual blocks; not with `compiled`.
        replayed: record a CUDA graph. Ignored on a CPU, with several processes and with
            `recomputed`. Not for accumulated gradients.
        sync_bn: batch norms will be synchronised over processes (`distributed.wrap`).

    Raises:
        ValueError: `recomputed` without residual blocks, or the network cannot be recorded.
    """
    device = device_of(network.train())
    _prepare(device)
    alone, on_cuda = distributed.world() == 1, device.type == "cuda"
    replayed = replayed and on_cuda and alone and not recomputed
    if recomputed:
        recompute_blocks(network)
    if on_cuda and (replayed or compiled) and (alone or not sync_bn):
        pad_channels(network, network.padded)  # without a graph, padding weights costs too much
    if not compiled:
        widen_batch_norms(network)
    elif not compile_blocks(network):
        return torch.compile(network)
    return Graphed(network, example(), amp) if replayed else network


def for_prediction(
    network: Accelerable, *, compiled: bool = False, fused: bool = True
) -> nn.Module:
    """A copy for prediction only: batch norms folded, channels last, layers fused.

    Unchanged parameters share memory with the network.

    Args:
        network: on its device.
        compiled: use torch.compile (which fuses layers itself); the first prediction is slow.
        fused: use fused layers of oneDNN and cuDNN; False keeps PyTorch's layers, for export.
    """
    _prepare(device_of(network))
    copied = fold_batch_norm(network, network.traced).to(memory_format=torch.channels_last)
    if compiled:
        return torch.compile(copied)
    return fuse(copied, network.traced, network.padded) if fused else copied


def device_of(network: nn.Module) -> torch.device:
    """The device of a network."""
    return next(network.parameters()).device


def _prepare(device: torch.device) -> None:
    if device.type == "cpu":
        keep_freed_memory()
