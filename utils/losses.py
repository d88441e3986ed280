"""Losses over a batch, divided by what the whole batch, over ranks and parts, adds up to."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.structures import IGNORE_INDEX, Logits, Sample

# water, ground, low vegetation, tree, building, sports field
SENSEEARTH_CLASS_WEIGHTS = (2.0, 1.0, 2.0, 2.0, 1.0, 1.0)


class LossTerms(NamedTuple):
    """What one step minimises (`total`) and its parts, scalars in nats."""

    total: Tensor
    semantic: Tensor
    change: Tensor


class Denominators(NamedTuple):
    """What the losses are divided by; summed over ranks and parts, they make one big batch."""

    semantic: Tensor  # (T,) weight of the labelled pixels of each date
    change: Tensor  # () number of known pixels


def loss_denominators(batch: Sample, class_weights: Tensor | None = None) -> Denominators:
    """The denominators of a batch, float32 on its device.

    Args:
        batch: semantic (B, T, H, W), change (B, H, W).
        class_weights: (K,), unitless; None means all 1.
    """
    labelled = batch.semantic != IGNORE_INDEX
    if class_weights is None:
        weights = labelled.float()
    else:  # index K stands for ignored pixels
        table = F.pad(class_weights, (0, 1))
        weights = table[batch.semantic.clamp(max=len(class_weights))]
    known = (batch.change != IGNORE_INDEX).float()
    return Denominators(weights.sum(dim=(0, 2, 3)), known.sum())


def semantic_loss(
    logits: Tensor, target: Tensor, denominator: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy over labelled pixels, averaged per date, summed over dates.

    Args:
        logits: (B, T, K, H, W) raw scores.
        target: (B, T, H, W) int64 in 0..K-1, or IGNORE_INDEX.
        denominator: (T,) from `loss_denominators`.
        weight: (K,) class weights, unitless; None means all 1.

    Returns:
        Scalar in nats: the sum over dates of the weighted mean over that date's labelled pixels;
        a date without any adds 0 (with a gradient).
    """
    per_pixel = F.cross_entropy(
        logits.float().flatten(0, 1),
        target.flatten(0, 1),
        weight,
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )  # (B * T, H, W), 0 where ignored
    sums = per_pixel.view_as(target).sum(dim=(0, 2, 3))  # (T,)
    return (sums / denominator.clamp(min=torch.finfo(denominator.dtype).tiny)).sum()


def change_loss(
    logits: Tensor, target: Tensor, denominator: Tensor, changed_weight: float = 2.0
) -> Tensor:
    """Binary cross-entropy over known pixels, changed ones weighted.

    Args:
        logits: (B, H, W), > 0 means changed.
        target: (B, H, W) int64: 1 = changed, 0 = unchanged, or IGNORE_INDEX.
        denominator: () from `loss_denominators`: the COUNT of known pixels, not their weights.
        changed_weight: factor on changed pixels, unitless.

    Returns:
        Scalar in nats.
    """
    changed = (target == 1).float()
    pixel_weight = (1 + (changed_weight - 1) * changed) * (target != IGNORE_INDEX)
    per_pixel = F.binary_cross_entropy_with_logits(logits.float(), changed, reduction="none")
    return (per_pixel * pixel_weight).sum() / denominator.clamp(min=1)


def training_loss(
    logits: Logits,
    batch: Sample,
    class_weights: Tensor | None = None,
    denominators: Denominators | None = None,
) -> LossTerms:
    """Twice the change loss plus the semantic loss, whichever heads there are.

    Args:
        logits: of the network.
        batch: the targets, on the same device.
        class_weights: (K,), unitless; None means all 1.
        denominators: of the whole batch if `batch` is a part of one; None: those of `batch`.

    Reference: SenseEarth 2020 contest, 1st place report.
    """
    if denominators is None:
        denominators = loss_denominators(batch, class_weights)
    semantic = change = denominators.change.new_zeros(())
    if logits.semantic is not None:
        semantic = semantic_loss(
            logits.semantic, batch.semantic, denominators.semantic, class_weights
        )
    if logits.change is not None:
        change = change_loss(logits.change, batch.change, denominators.change)
    return LossTerms(2 * change + semantic, semantic, change)
