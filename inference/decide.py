"""Probs -> masks of classes and change; the true masks of a batch, to compare them with."""

import torch
from torch import Tensor

from utils.structures import IGNORE_INDEX, Probs, Sample


def most_probable(scores: Tensor, dim: int) -> Tensor:
    """Index of the largest of `scores` along `dim`, the first of equals.

    As argmax, which takes six times as long on a CPU.
    """
    return scores.max(dim).indices


def to_masks(probs: Probs, threshold: float = 0.5) -> Tensor:
    """Probabilities -> (B, T, H, W) uint8 masks.

    0 = unchanged and 1..K = class; without a semantic head (B, 1, H, W) with 1 = changed; without
    a change head every pixel has its class.
    """
    if probs.semantic is None:
        return (probs.change > threshold).to(torch.uint8)[:, None]
    masks = (most_probable(probs.semantic, dim=2) + 1).to(torch.uint8)
    if probs.change is None:
        return masks
    return masks * (probs.change > threshold)[:, None]


def true_masks(batch: Sample) -> Tensor:
    """The targets of a batch, int64 or uint8, as masks (B, T, H, W) uint8, as of `to_masks`.

    0 = unchanged, 1..K = class, IGNORE_INDEX where not known; without classes (B, 1, H, W) with
    1 = changed.
    """
    if batch.semantic.shape[1] == 0:
        return batch.change[:, None].to(torch.uint8)
    known = batch.semantic != IGNORE_INDEX
    masks = torch.where(known, batch.semantic + 1, IGNORE_INDEX)
    change = batch.change[:, None]
    masks = torch.where(change == 0, 0, masks)
    return torch.where(change == IGNORE_INDEX, IGNORE_INDEX, masks).to(torch.uint8)
