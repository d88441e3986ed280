"""Logits -> Probs, and sums and means of Probs. Only probabilities are averaged, never logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.structures import Logits, Probs


def to_probs(logits: Logits, size: tuple[int, int] | None = None) -> Probs:
    """Softmax over classes and sigmoid of the change logits, in float32.

    `size`: (height, width) to which logits are first resized (bilinear); None = not resized.
    """
    semantic, change, _, gate = (None if x is None else _resized(x.float(), size) for x in logits)
    return Probs(
        None if semantic is None else semantic.softmax(dim=2),
        None if change is None else change.sigmoid(),
        None if gate is None else gate.sigmoid(),
    )


def _resized(scores: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(B, ..., h, w) -> (B, ..., H, W), bilinear."""
    if size is None or scores.shape[-2:] == tuple(size):
        return scores
    maps = scores.flatten(1, -3) if scores.ndim > 3 else scores[:, None]
    maps = F.interpolate(maps, size, mode="bilinear")
    return maps.reshape(*scores.shape[:-2], *size)


def mean_probs(each: Sequence[Probs]) -> Probs:
    """The mean of several networks' probabilities; `gate` only if all networks have one."""
    if any(probs.gate is None for probs in each):
        each = [probs._replace(gate=None) for probs in each]
    sums = Probs()
    for probs in each:
        sums = add_probs(sums, probs)
    if len(each) == 1:
        return sums
    return Probs(*(None if p is None else p / len(each) for p in sums))


def add_probs(sums: Probs, probs: Probs) -> Probs:
    """`sums` plus `probs`, added in place; a field that is None counts as 0."""
    return Probs(*(p if s is None else s.add_(p) for s, p in zip(sums, probs, strict=True)))


def stack_probs(probs: Probs) -> Tensor:
    """Probabilities as one (B, C, H, W): T x K channels of the classes, then P(changed)."""
    parts = [] if probs.semantic is None else [probs.semantic.flatten(1, 2)]
    if probs.change is not None:
        parts.append(probs.change[:, None])
    return torch.cat(parts, dim=1)
