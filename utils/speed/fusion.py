"""Convolution, addition and ReLU in one pass over memory: the same numbers, in prediction only.

torch runs the three one after the other, though the libraries under it (oneDNN, cuDNN) do them as
one. Between wide maps and few channels it is memory that limits a network.
"""

import operator
from collections.abc import Callable, Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from utils.speed.channel_padding import PaddedConv2d, channels_after, pad_channels, padded_weights

PASS_ON = (nn.Identity, nn.Dropout, nn.Dropout2d)  # what gives its input back, in eval mode


class FusedConv(nn.Module):
    """A convolution, plus a second map or not, then a ReLU or not. Has no gradient.

    Args:
        conv: whose weights it shares.
        relu: whether there is a ReLU at the end.

    Attributes:
        overwrites: the result may take the place of the second map, which nothing reads later.
        pads: on CUDA maps may have further channels of zeros (`utils.speed.channel_padding`).
    """

    def __init__(self, conv: nn.Conv2d, relu: bool):
        super().__init__()
        self.weight, self.bias, self.relu, self.overwrites = conv.weight, conv.bias, relu, False
        self.pads = type(conv) is PaddedConv2d
        self.padding, self.stride = list(conv.padding), list(conv.stride)
        self.dilation, self.groups = list(conv.dilation), conv.groups
        self._prepared: dict[tuple, tuple[Tensor, Tensor | None]] = {}

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in, h, w), and what is added, (N, out, h', w') -> (N, out, h', w').

        Under autocast in its type, as convolutions are. What the libraries cannot do as one, types
        that the processor lacks or an addition that broadcasts, runs one after the other.
        """
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, other = x.to(dtype), None if other is None else other.to(dtype)
        fits = other is None or other.shape == self._shape_after(x)
        if kind == "cpu" and fits and _known_to_onednn(dtype):
            return self._by_onednn(x, other)
        weight, bias = self._once(self._cast, x)
        window = (self.stride, self.padding, self.dilation, self.groups)
        # cuDNN's ends with a ReLU, and is slow in groups
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
        """What `prepare` makes of weight and bias, made once for each device and type."""
        key = (prepare.__name__, x.device, x.dtype)
        if key not in self._prepared:
            self._prepared[key] = prepare(x)
        return self._prepared[key]

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias in the type of the input."""
        weight, bias = self.weight.detach().to(x.dtype), self.bias.detach().to(x.dtype)
        return padded_weights(weight, bias, x) if self.pads else (weight, bias)

    def _packed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same in the layout that oneDNN wants for such an input."""
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
    """Whether it computes in this type on this processor."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


FRESH = (FusedConv, nn.Conv2d, nn.Upsample, nn.MaxPool2d)  # whose result is memory of its own


def fuse(network: nn.Module, traced: Sequence[str] = (), padded: Sequence[str] = ()) -> nn.Module:
    """Fuses what `utils.speed.folding.fold_batch_norm` left, in place, and returns the network.

    A convolution and the ReLU right after it in a Sequential; in traced submodules also the
    additions of their skip connections. All else stays as it is.

    Args:
        network: of `fold_batch_norm`.
        traced: as given there; those that could not be traced are skipped.
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
    """Whether this PyTorch gives access to what a device's library can do."""
    if device.type == "cuda":
        return torch.version.hip is None
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    names += ("_is_mkldnn_bf16_supported",)
    there = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and there


def _is_plain(module: nn.Module | None) -> bool:
    """Whether it is a convolution as the libraries know it."""
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
        elif not isinstance(module, PASS_ON):
            last = None


def _fuse_graph(body: torch.fx.GraphModule) -> None:
    modules = dict(body.named_modules())
    for module in modules.values():
        if getattr(module, "inplace", False):
            module.inplace = False  # a map must stay what it is where its readers move
    for node in list(body.graph.nodes):
        if isinstance(_module_of(node, modules), PASS_ON):
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
    """Replaces a convolution and what alone reads it, an addition or a ReLU or both."""
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
    """Lets a convolution take the place of the map it is added to, where that is not read later."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        fused = _module_of(node, modules)
        if isinstance(fused, FusedConv) and len(node.args) == 2:
            x, other = node.args
            last = max(other.users, key=order.get) is node and x is not other
            fused.overwrites = last and isinstance(_module_of(other, modules), FRESH)


def _module_of(node: torch.fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[node.target] if node.op == "call_module" else None


def _only(users: Sequence[torch.fx.Node]) -> torch.fx.Node | None:
    return next(iter(users)) if len(users) == 1 else None


def _added(conv: torch.fx.Node) -> torch.fx.Node | None:
    """What is added to the output of a convolution, if that is all that becomes of it."""
    addition = _only(conv.users)
    if addition is None or addition.target is not operator.add:
        return None
    other = addition.args[1] if addition.args[0] is conv else addition.args[0]
    return other if isinstance(other, torch.fx.Node) and other is not conv else None
