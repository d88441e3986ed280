"""Convolution, addition and ReLU in one pass over memory: the same numbers, in prediction only.

torch runs the three one after the other, though the libraries under it (oneDNN, cuDNN) do them as
one. Between wide maps and few channels it is memory that limits a network.
"""

import operator
from collections.abc import Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

PASS_ON = (nn.Identity, nn.Dropout, nn.Dropout2d)  # what gives its input back, in eval mode


class FusedConv(nn.Module):
    """A convolution, plus a second map or not, then a ReLU or not. Has no gradient.

    Args:
        conv: whose weights it shares.
        relu: whether there is a ReLU at the end.

    Attributes:
        overwrites: the result may take the place of the second map, which nothing reads later.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool):
        super().__init__()
        self.weight, self.bias, self.relu, self.overwrites = conv.weight, conv.bias, relu, False
        self.padding, self.stride = list(conv.padding), list(conv.stride)
        self.dilation, self.groups = list(conv.dilation), conv.groups
        self._prepared: dict[tuple, tuple[Tensor, Tensor | None]] = {}

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, in, h, w), and what is added, (N, out, h', w') -> (N, out, h', w').

        Under autocast in its type, as convolutions are.
        """
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x = x.to(dtype)
        key = (x.device, dtype)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(x)
        weight, bias = self._prepared[key]
        if other is not None:
            other = other.to(dtype)
        return (self._by_cudnn if kind == "cuda" else self._by_onednn)(x, weight, bias, other)

    def _prepare(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the type of the input; on a CPU in the layout that oneDNN wants."""
        weight = self.weight.detach().to(x.dtype)
        if x.device.type == "cpu":
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
        return weight, None if self.bias is None else self.bias.detach().to(x.dtype)

    def _by_onednn(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None
    ) -> Tensor:
        window = (self.padding, self.stride, self.dilation, self.groups)
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *window, "relu" if self.relu else "none", [], ""
            )
        other = other if self.overwrites else other.clone(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            other, x, weight, bias, *window, "add", 1.0, "relu" if self.relu else None, [], ""
        )

    def _by_cudnn(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None
    ) -> Tensor:
        window = (self.stride, self.padding, self.dilation, self.groups)
        if not self.relu or self.groups > 1:  # cuDNN's ends with one, and is slow in groups
            y = F.conv2d(x, weight, bias, *window)
            y = y if other is None else y.add_(other)
            return y.relu_() if self.relu else y
        if other is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *window)
        return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *window)


FRESH = (FusedConv, nn.Conv2d, nn.Upsample, nn.MaxPool2d)  # whose result is memory of its own


def fuse(network: nn.Module) -> nn.Module:
    """Fuses what `utils.folding.fold_batch_norm` left, in place, and returns the network.

    A convolution and the ReLU right after it in a Sequential; and in a backbone that torch.fx could
    trace also the additions of its skip connections. Elsewhere the network stays as it is.
    """
    device = next(network.parameters()).device.type
    if device != "cuda" and not (device == "cpu" and torch.backends.mkldnn.is_available()):
        return network
    body = getattr(getattr(network, "backbone", None), "body", None)
    if isinstance(body, torch.fx.GraphModule):
        _fuse_graph(body)
    for module in network.modules():
        if type(module) is nn.Sequential:
            _fuse_sequential(module)
    return network


def _is_plain(module: nn.Module | None) -> bool:
    """Whether it is a convolution as the libraries know it."""
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and module.bias is not None


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
