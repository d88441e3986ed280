"""Learning-rate schedules, and checks of the optimiser's flags."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# default --momentum of each --optimizer; None: it takes no momentum
MOMENTA = {"adam": None, "sgd": 0.9, "rmsprop": 0.0}

LR_POLICIES = {
    "poly": "falls at every step to --lr-min, to the power of 0.9",
    "linear": "falls every epoch, to lr / (epochs + 1)",
    "step": "times --lr-gamma (0.1) after every third of the epochs",
    "exponential": "times --lr-gamma (0.97) after every epoch",
    "constant": "stays --lr",
}


class Extension(NamedTuple):
    """Steps added to a run (--resume with more --epochs), and their learning rate."""

    start: int  # the first of them
    policy: str | None  # a new schedule over these steps; None: the last rate before them
    lr: float
    gamma: float | None = None
    lr_min: float = 0.0


def check_flags(
    optimizer: str,
    momentum: float | None,
    policy: str,
    lr: float,
    lr_min: float,
    gamma: float | None,
) -> None:
    """Refuses flags without effect; arguments as in `build_optimizer` and `learning_rate`.

    Raises:
        ValueError: a momentum for an optimiser that takes none, `lr_min` above `lr` or for a policy
            other than poly, or `gamma` for a policy other than step and exponential.
    """
    if momentum is not None and MOMENTA[optimizer] is None:
        able = " and ".join(name for name, usual in MOMENTA.items() if usual is not None)
        raise ValueError(
            f"--momentum {momentum} is of --optimizer {able}, got {optimizer}; leave it out"
        )
    if lr_min and (policy != "poly" or lr_min > lr):
        raise ValueError(
            f"--lr-min {lr_min:g} is where --lr-policy poly ends below --lr, got --lr-policy "
            f"{policy} and --lr {lr:g}; lower it, or leave it out"
        )
    if gamma is not None and policy not in ("step", "exponential"):
        raise ValueError(
            f"--lr-gamma {gamma:g} is of --lr-policy step and exponential, got {policy}; leave it "
            "out"
        )


def learning_rate(
    policy: str,
    lr: float,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    gamma: float | None = None,
    lr_min: float = 0.0,
) -> float:
    """The learning rate of the step with 0-based number `step`.

    Args:
        policy: a key of LR_POLICIES.
        lr: the initial rate.
        step: steps taken so far, from 0.
        total_steps: of the whole run.
        steps_per_epoch: the policies linear, step and exponential change once an epoch.
        gamma: factor of step and exponential; None: 0.1 and 0.97.
        lr_min: final rate of poly.
    """
    if policy == "poly":
        return (lr - lr_min) * (1 - step / total_steps) ** 0.9 + lr_min
    if policy == "constant":
        return lr
    epoch, epochs = step // steps_per_epoch, -(-total_steps // steps_per_epoch)
    if policy == "linear":
        return lr * (1 - epoch / (epochs + 1))
    if policy == "step":
        return lr * (0.1 if gamma is None else gamma) ** (epoch // max(epochs // 3, 1))
    return lr * (0.97 if gamma is None else gamma) ** epoch


def lengthened(
    rate: Callable[..., float],
    first: Mapping[str, Any],
    extensions: Sequence[Extension],
    total_steps: int,
) -> Callable[[int], float]:
    """The learning rate by step of a run that was lengthened.

    Args:
        rate: `learning_rate` with its `steps_per_epoch`.
        first: policy, lr, gamma and lr_min of the first steps.
        extensions: in order; empty if the run was not lengthened.
        total_steps: of the whole run.
    """
    ends = [*(extension.start for extension in extensions), total_steps]

    def rate_of(step: int) -> float:
        number = sum(extension.start <= step for extension in extensions)
        if number == 0:
            return rate(**first, step=step, total_steps=ends[0])
        start, policy, lr, gamma, lr_min = extensions[number - 1]
        if policy is None:
            return rate_of(start - 1)
        steps = {"step": step - start, "total_steps": ends[number] - start}
        return rate(policy, lr, gamma=gamma, lr_min=lr_min, **steps)

    return rate_of
