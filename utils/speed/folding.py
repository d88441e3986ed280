"""Folds batch norms into convolutions for inference: same results, less memory traffic."""

import copy
from collections import Counter
from collections.abc import Sequence

import torch
import torch.fx
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from utils.distributed import CpuSyncBatchNorm
from utils.speed.batch_norm import WideBatchNorm2d
from utils.speed.channel_padding import PaddedBatchNorm2d, PaddedConv2d

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
SET_BY_TRAINING = {
    CpuSyncBatchNorm: nn.BatchNorm2d,
    WideBatchNorm2d: nn.BatchNorm2d,
    PaddedBatchNorm2d: nn.BatchNorm2d,
    PaddedConv2d: nn.Conv2d,
}  # classes set by for_training or wrap -> the original layer class


def fold_batch_norm(network: nn.Module, traced: Sequence[str] = ()) -> nn.Module:
    """A copy in eval mode with each batch norm folded into the convolution before it.

    A convolution is changed only if its batch norm is the only user of its output. Pairs are found
    in Sequentials, and by tracing. Unchanged parameters share memory with the network.

    Args:
        network: not changed.
        traced: names of the submodules that are traced to find further pairs; a submodule that
            torch.fx cannot trace stays as it is.
    """
    network = _shallow_copy(network).eval()
    for module in network.modules():
        if type(module) in SET_BY_TRAINING and not hasattr(module, "act"):
            module.__class__ = SET_BY_TRAINING[type(module)]  # in eval mode they do the same
    for name in traced:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, _fold_traced(network.get_submodule(name)))
    _fold_sequentials(network)
    return network


def _shallow_copy(network: nn.Module) -> nn.Module:
    """A copy with its own modules and parameters that share the memory of the network's values."""
    memo = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in network.parameters()}
    memo.update((id(buffer), buffer.detach()) for buffer in network.buffers())
    return copy.deepcopy(network, memo)


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Replaces the weight and bias of a convolution by new ones that include the batch norm."""
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)


def _fold_sequentials(network: nn.Module) -> None:
    for module in network.modules():
        if type(module) is not nn.Sequential:
            continue
        for i in range(len(module) - 1):
            holder, index = _last_conv(module, i)
            if holder is not None and type(module[i + 1]) in BATCH_NORMS:
                _fold(holder[index], module[i + 1])
                module[i + 1] = nn.Identity()


def _last_conv(sequential: nn.Sequential, i: int) -> tuple[nn.Sequential | None, int]:
    """Container and index of the convolution at the end of element i (or of its `conv`)."""
    if type(sequential[i]) is nn.Conv2d:
        return sequential, i
    inner = getattr(sequential[i], "conv", None)
    if type(inner) is nn.Sequential and type(inner[-1]) is nn.Conv2d:
        return inner, len(inner) - 1
    return None, 0


class _Tracer(torch.fx.Tracer):
    """Tracer that also treats subclasses of nn.Upsample as leaf modules."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Upsample) or super().is_leaf_module(module, name)


def _fold_traced(body: nn.Module) -> nn.Module:
    """The body as a torch.fx graph with its batch norms folded, or itself if it has none."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in body.modules()):
        return body  # a trace would lose the hooks
    try:
        graph = _Tracer().trace(body)
    except (torch.fx.proxy.TraceError, TypeError, ValueError, AttributeError, RuntimeError):
        return body  # control flow that depends on data, as in transformers
    modules = dict(body.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    folded = False
    for node in list(graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) not in BATCH_NORMS:
            continue
        source = node.args[0]
        if source.op != "call_module" or type(modules[source.target]) is not nn.Conv2d:
            continue
        if len(source.users) > 1 or calls[source.target] > 1:
            continue
        _fold(modules[source.target], modules[node.target])
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        folded = True
    if not folded:
        return body
    graph.lint()
    return torch.fx.GraphModule(body, graph)
