"""Fuses convolution, addition and ReLU into one pass over memory, for prediction only.

PyTorch runs the three one after the other, but oneDNN and cuDNN have fused versions. With large
maps and few channels, a network is limited by memory bandwidth. Results are the same.
"""

import operator
from collections.abc import Callable, Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from utils.speed.channel_padding import PaddedConv2d, channels_after, pad_channels, padded_weights

IDENTITY_IN_EVAL = (nn.Identity, nn.Dropout, nn.Dropout2d)  # identity in eval mode


class FusedConv(nn.Module):
    """A convolution, optionally plus a second map, optionally followed by a ReLU. No gradient.

    Args:
        conv: its weights are shared.
        relu: apply a ReLU at the end.

    Attributes:
        overwrites: the result may overwrite the second map, which is not read later.
        pads: on CUDA, maps may have additional zero channels (`utils.speed.channel_padding`).
    """

    def __init__(self, conv: nn.Conv2d, relu: bool):
        super().__init__()
        self.weight, self.bias, self.relu, self.overwrites = conv.weight, conv.bias, relu, False
        self.pads = type(conv) is PaddedConv2d
        self.padding, self.stride = list(conv.padding), list(conv.stride)
        self.dilation, self.groups = list(conv.dilation), conv.groups
        self._prepared: dict[tuple, tuple[Tensor, Tensor | None]] = {}

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in, h, w), and the map to add, (N, out, h', w') -> (N, out, h', w').

        Under autocast, computes in its type, as convolutions do. Operations run one after the other
        if the library has no fused version (unsupported type, or an addition that broadcasts).
        """
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, other = x.to(dtype), None if other is None else other.to(dtype)
        fits = other is None or other.shape == self._shape_after(x)
        if kind == "cpu" and fits and _known_to_onednn(dtype):
            return self._by_onednn(x, other)
        weight, bias = self._once(self._cast, x)
        window = (self.stride, self.padding, self.dilation, self.groups)
        # cuDNN's fused version always ends with a ReLU, and is slow for grouped convolutions
        if kind == "cuda" and fits and self.relu and self.groups == 1:
            if other is None:
                return torch.cudnn_convolution_relu(x, weight, bias, *window)
            return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *window)
        y = F.conv2d(x, weight, bias, *window)
        y = y if other is None else y + other
        return y.relu_() if self.relu else y

    def _by_onednn(self, x: Tensor, other: Tensor | None) -> Tensor:
        weight, bias = self._once(self._packed, x)
        window = (self.padding, self.stride, self.dilation, self.groups)
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *window, "relu" if self.relu else "none", [], ""
            )
        other = other if self.overwrites else other.clone(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            other, x, weight, bias, *window, "add", 1.0, "relu" if self.relu else None, [], ""
        )

    def _once(self, prepare: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias converted by `prepare`, cached per device and type."""
        key = (prepare.__name__, x.device, x.dtype)
        if key not in self._prepared:
            self._prepared[key] = prepare(x)
        return self._prepared[key]

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias in the type of the input."""
        weight, bias = self.weight.detach().to(x.dtype), self.bias.detach().to(x.dtype)
        return padded_weights(weight, bias, x) if self.pads else (weight, bias)

    def _packed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias in the type of the input, weight in oneDNN's layout for its shape."""
        weight, bias = self._cast(x)
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
        )
        return weight, bias

    def _shape_after(self, x: Tensor) -> tuple[int, ...]:
        sides = zip(
            x.shape[2:],
            self.weight.shape[2:],
            self.padding,
            self.stride,
            self.dilation,
            strict=True,
        )
        return (
            len(x),
            channels_after(self.weight, x) if self.pads else len(self.weight),
            *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in sides),
        )


def _known_to_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this type on this processor."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


ALLOCATING = (FusedConv, nn.Conv2d, nn.Upsample, nn.MaxPool2d)  # layers that allocate their result


def fuse(network: nn.Module, traced: Sequence[str] = (), padded: Sequence[str] = ()) -> nn.Module:
    """Fuses layers of a network returned by `fold_batch_norm`, in place; returns the network.

    In a Sequential, a convolution and the ReLU right after it are fused; in traced submodules also
    the additions of skip connections.

    Args:
        network: from `utils.speed.folding.fold_batch_norm`.
        traced: as in `fold_batch_norm`; submodules that could not be traced are skipped.
        padded: see `utils.speed.channel_padding.pad_channels`; on CUDA only.
    """
    if not _is_supported(next(network.parameters()).device):
        return network
    for name in traced:
        body = network.get_submodule(name)
        if isinstance(body, torch.fx.GraphModule):
            if next(body.parameters()).is_cuda:
                pad_channels(network, [name] if name in padded else [])
            _fuse_graph(body)
    for module in network.modules():
        if type(module) is nn.Sequential:
            _fuse_sequential(module)
    return network


def _is_supported(device: torch.device) -> bool:
    """Whether this PyTorch has the fused operations of the device's library."""
    if device.type == "cuda":
        return torch.version.hip is None
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    names += ("_is_mkldnn_bf16_supported",)
    there = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and there


def _is_plain(module: nn.Module | None) -> bool:
    """Whether a module is a convolution with zero padding and a bias, as the libraries need."""
    known = type(module) in (nn.Conv2d, PaddedConv2d)
    return known and module.padding_mode == "zeros" and module.bias is not None


def _fuse_sequential(sequential: nn.Sequential) -> None:
    last = None  # where the convolution lies whose output comes next
    for i, module in enumerate(sequential):
        inner = getattr(module, "conv", None)  # of a separable convolution
        if type(module) is nn.Conv2d:
            last = (sequential, i)
        elif type(inner) is nn.Sequential:
            last = (inner, len(inner) - 1)
        elif type(module) is nn.ReLU and last is not None and _is_plain(last[0][last[1]]):
            last[0][last[1]] = FusedConv(last[0][last[1]], relu=True)
            sequential[i], last = nn.Identity(), None
        elif not isinstance(module, IDENTITY_IN_EVAL):
            last = None


def _fuse_graph(body: torch.fx.GraphModule) -> None:
    modules = dict(body.named_modules())
    for module in modules.values():
        if getattr(module, "inplace", False):
            module.inplace = False  # fusion changes the order of reads, so maps must not change
    for node in list(body.graph.nodes):
        if isinstance(_module_of(node, modules), IDENTITY_IN_EVAL):
            node.replace_all_uses_with(node.args[0])
            body.graph.erase_node(node)
    for node in list(body.graph.nodes):
        if _is_plain(_module_of(node, modules)):
            _fuse_followers(body, node, modules)
    _find_overwritable(body.graph, modules)
    body.delete_all_unused_submodules()
    body.graph.lint()
    body.recompile()


def _fuse_followers(
    body: torch.fx.GraphModule, conv: torch.fx.Node, modules: dict[str, nn.Module]
) -> None:
    """Fuses a convolution with the addition and/or ReLU that is the only user of its output."""
    chain, other = [conv], _added(conv)
    if other is not None:
        chain.append(*conv.users)
    follower = _only(chain[-1].users)
    relu = follower is not None and type(_module_of(follower, modules)) is nn.ReLU
    if relu:
        chain.append(follower)
    if len(chain) == 1:
        return
    name = f"fused{len(modules)}"
    modules[name] = FusedConv(_module_of(conv, modules), relu)
    body.add_module(name, modules[name])
    with body.graph.inserting_before(chain[-1]):
        inputs = (conv.args[0],) if other is None else (conv.args[0], other)
        chain[-1].replace_all_uses_with(body.graph.call_module(name, inputs))
    for done in reversed(chain):
        body.graph.erase_node(done)


def _find_overwritable(graph: torch.fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Sets `overwrites` of fused convolutions whose second map is not read later."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        fused = _module_of(node, modules)
        if isinstance(fused, FusedConv) and len(node.args) == 2:
            x, other = node.args
            last = max(other.users, key=order.get) is node and x is not other
            fused.overwrites = last and isinstance(_module_of(other, modules), ALLOCATING)


def _module_of(node: torch.fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[node.target] if node.op == "call_module" else None


def _only(users: Sequence[torch.fx.Node]) -> torch.fx.Node | None:
    return next(iter(users)) if len(users) == 1 else None


def _added(conv: torch.fx.Node) -> torch.fx.Node | None:
    """The node added to the output of a convolution, if the addition is its only user."""
    addition = _only(conv.users)
    if addition is None or addition.target is not operator.add:
        return None
    other = addition.args[1] if addition.args[0] is conv else addition.args[0]
    return other if isinstance(other, torch.fx.Node) and other is not conv else None
