"""The optimiser, and the moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from training.schedule import MOMENTA

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def build_optimizer(
    network: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    head_lr_factor: float = 10.0,
    momentum: float | None = None,
) -> torch.optim.Optimizer:
    """An optimiser over the groups of `parameter_groups`.

    Args:
        network: already on its device.
        name: a key of OPTIMIZERS.
        lr: initial learning rate of the backbone.
        weight_decay: L2 penalty of every weight, added to the gradient.
        head_lr_factor: learning rate of the heads, as a multiple of `lr`.
        momentum: 0..1; None: the default in MOMENTA.
    """
    groups = parameter_groups(network, lr, head_lr_factor)
    options: dict[str, float | bool] = {"lr": lr, "weight_decay": weight_decay}
    if MOMENTA[name] is not None:
        options["momentum"] = MOMENTA[name] if momentum is None else momentum
    if name != "rmsprop":  # torch has no fused RMSprop
        options["fused"] = True
    optimizer = OPTIMIZERS[name](groups, **options)
    if name == "sgd" and options["momentum"]:
        _zero_momentum(optimizer)
    return optimizer


def parameter_groups(
    network: nn.Module, lr: float, head_lr_factor: float
) -> list[dict[str, object]]:
    """Two groups: the backbone at `lr`, everything else at `head_lr_factor` times that.

    A network without a backbone is one group, at `lr`. Each group keeps its factor in `lr_factor`,
    which `set_lr` reads.
    """
    backbone = [p for name, p in network.named_parameters() if "backbone" in name]
    heads = [p for name, p in network.named_parameters() if "backbone" not in name]
    if not backbone:
        return [{"params": heads, "lr": lr, "lr_factor": 1.0}]
    return [
        {"params": backbone, "lr": lr, "lr_factor": 1.0},
        {"params": heads, "lr": lr * head_lr_factor, "lr_factor": head_lr_factor},
    ]


def _zero_momentum(optimizer: torch.optim.SGD) -> None:
    """Initialises the momentum buffers to 0, which does not change the result of SGD.

    Torch's fused step allocates uninitialised buffers. If fp16 overflows in the first step, it
    skips the update that would fill them, and later steps would use the uninitialised values.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets every group's rate to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class WeightAverage:
    """Exponential moving average of a network's weights; batch-norm statistics are copied.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that the random
    initial weights soon have no influence.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999):
        self.decay = decay
        self.updates = 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}
        names = {name for name, _ in network.named_parameters()}
        self._averaged = [k for k in self.state if k in names]
        self._copied = [k for k in self.state if k not in names]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Moves the average towards the network's current weights, all tensors at once."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        now = network.state_dict()
        torch._foreach_lerp_(
            [self.state[k] for k in self._averaged], [now[k] for k in self._averaged], 1 - decay
        )
        torch._foreach_copy_([self.state[k] for k in self._copied], [now[k] for k in self._copied])

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Context manager: the network has the averaged weights inside, its own ones after it."""
        own = {k: v.detach().clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.state)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def state_dict(self) -> dict:
        """The average and its number of updates, for a checkpoint."""
        return {"updates": self.updates, "weights": self.state}

    def load_state_dict(self, state: dict) -> None:
        """Continues from `state_dict`'s value."""
        self.updates = state["updates"]
        for k, v in state["weights"].items():
            self.state[k].copy_(v)
