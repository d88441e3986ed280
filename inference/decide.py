"""Masks of classes and change, from probabilities and from the targets of a batch."""

import torch
from torch import Tensor

from utils.structures import IGNORE_INDEX, Probs, Sample


def most_probable(scores: Tensor, dim: int) -> Tensor:
    """Index of the largest of `scores` along `dim`, the first one if several are equal.

    Same as `argmax`, but six times as fast on a CPU.
    """
    return scores.max(dim).indices


def other_classes(semantic: Tensor, changed: Tensor) -> Tensor:
    """The most probable classes of two dates that differ where the land changed.

    Args:
        semantic: (B, 2, K, H, W) probabilities, K > 1.
        changed: (B, H, W) bool.

    Returns:
        (B, 2, H, W) int64 in 0..K-1: the pair of different classes with the largest product of
        probabilities where `changed`, elsewhere the most probable class of each date.
    """
    (first, first_next), (second, second_next) = (
        date.unbind(1) for date in semantic.topk(2, dim=2).indices.unbind(1)
    )
    values = semantic.topk(2, dim=2).values
    keeps_first = values[:, 0, 0] * values[:, 1, 1] >= values[:, 0, 1] * values[:, 1, 0]
    clash = changed & (first == second)
    before = torch.where(clash & ~keeps_first, first_next, first)
    after = torch.where(clash & keeps_first, second_next, second)
    return torch.stack([before, after], dim=1)


def to_masks(
    probs: Probs,
    threshold: float = 0.5,
    same_class_change: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    """Probabilities -> (B, T, H, W) uint8 masks.

    0 = unchanged and 1..K = class. Without a semantic head: (B, 1, H, W), 1 = changed. Without a
    change head, every pixel has a class 1..K. `same_class_change`: what changed may keep its class.
    `valid`: (B, H, W) bool; elsewhere there are no data, and the mask is 0. None: everywhere.
    """
    changed = None if probs.change is None else probs.change > threshold
    if changed is not None and valid is not None:
        changed &= valid.to(changed.device)
    if probs.semantic is None:
        return changed.to(torch.uint8)[:, None]
    if changed is None or same_class_change:
        classes = most_probable(probs.semantic, dim=2)
    else:
        classes = other_classes(probs.semantic, changed)
    masks = (classes + 1).to(torch.uint8)
    shown = changed if changed is not None or valid is None else valid.to(masks.device)
    return masks if shown is None else masks * shown[:, None]


def true_masks(batch: Sample) -> Tensor:
    """The targets of a batch, int64 or uint8, as (B, T, H, W) uint8 masks coded as in `to_masks`.

    0 = unchanged, 1..K = class, IGNORE_INDEX = unknown. Without classes: (B, 1, H, W), 1 = changed.
    """
    if batch.semantic.shape[1] == 0:
        return batch.change[:, None].to(torch.uint8)
    known = batch.semantic != IGNORE_INDEX
    masks = torch.where(known, batch.semantic + 1, IGNORE_INDEX)
    change = batch.change[:, None]
    masks = torch.where(change == 0, 0, masks)
    return torch.where(change == IGNORE_INDEX, IGNORE_INDEX, masks).to(torch.uint8)
