"""Optimiser, learning-rate schedule and the moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

LR_POLICIES = {
    "poly": "falls at every step to 0, to the power of 0.9",
    "linear": "falls every epoch, to lr / (epochs + 1)",
    "step": "times --lr-gamma (0.1) after every third of the epochs",
    "exponential": "times --lr-gamma (0.97) after every epoch",
}


def build_adam(
    network: nn.Module, lr: float, weight_decay: float, head_lr_factor: float = 10.0
) -> torch.optim.Adam:
    """Adam with two groups: the backbone at `lr`, everything else at `head_lr_factor` times that.

    Each group keeps its factor in `lr_factor`, which `set_lr` reads.
    """
    backbone = [p for name, p in network.named_parameters() if "backbone" in name]
    heads = [p for name, p in network.named_parameters() if "backbone" not in name]
    groups = [
        {"params": backbone, "lr": lr, "lr_factor": 1.0},
        {"params": heads, "lr": lr * head_lr_factor, "lr_factor": head_lr_factor},
    ]
    return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay, fused=True)


def learning_rate(
    policy: str,
    lr: float,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    gamma: float | None = None,
) -> float:
    """The rate for the step after `step` steps.

    Args:
        policy: a key of LR_POLICIES.
        lr: the first rate.
        step: taken so far, from 0.
        total_steps: of the whole run.
        steps_per_epoch: all policies but poly change once an epoch.
        gamma: of step and exponential; None for their own.
    """
    if policy == "poly":
        return lr * (1 - step / total_steps) ** 0.9
    epoch, epochs = step // steps_per_epoch, -(-total_steps // steps_per_epoch)
    if policy == "linear":
        return lr * (1 - epoch / (epochs + 1))
    if policy == "step":
        return lr * (0.1 if gamma is None else gamma) ** (epoch // max(epochs // 3, 1))
    return lr * (0.97 if gamma is None else gamma) ** epoch


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets every group's rate to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class WeightAverage:
    """Exponential moving average of a network's weights; batch-norm statistics are copied.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that the random start
    is soon forgotten.
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
        """Moves the average towards the network's present weights, all tensors at once."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        now = network.state_dict()
        torch._foreach_lerp_(
            [self.state[k] for k in self._averaged], [now[k] for k in self._averaged], 1 - decay
        )
        torch._foreach_copy_([self.state[k] for k in self._copied], [now[k] for k in self._copied])

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Within, the network has the averaged weights; afterwards its own again."""
        own = {k: v.detach().clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.state)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def state_dict(self) -> dict:
        """The average and its age, for a checkpoint."""
        return {"updates": self.updates, "weights": self.state}

    def load_state_dict(self, state: dict) -> None:
        """Continues from `state_dict`'s value."""
        self.updates = state["updates"]
        for k, v in state["weights"].items():
            self.state[k].copy_(v)
