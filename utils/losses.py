"""Losses over a batch, divided by what the whole batch, over ranks and parts, adds up to."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import distributed
from utils.schemes import SECOND
from utils.structures import IGNORE_INDEX, Logits, Sample, Scheme

# water, ground, low vegetation, tree, building, sports field
SENSEEARTH_CLASS_WEIGHTS = (2.0, 1.0, 2.0, 2.0, 1.0, 1.0)


AUX_WEIGHTS = {"gate": 2.0, "aux_semantic": 0.4}  # as published, where a network has such a head


class Objective(NamedTuple):
    """What is minimised."""

    class_weights: Tensor | None = None  # (K,), unitless; None means all 1
    change_loss: str = "bce"  # or "dice_bce"
    changed_weight: float = 2.0  # factor on changed pixels in the cross-entropy, unitless
    aux_weight: float | None = None  # of the auxiliary term; None: AUX_WEIGHTS
    mean_over: str = "labelled"  # or "all": the pixels that the semantic losses divide by


class LossTerms(NamedTuple):
    """What one step minimises (`total`) and its parts, scalars; None for what is not there."""

    total: Tensor
    semantic: Tensor | None = None  # nats
    change: Tensor | None = None  # nats; with dice_bce plus 1 - Dice
    gate: Tensor | None = None  # nats
    aux_semantic: Tensor | None = None  # nats


def class_weights(
    given: Sequence[float] | None, scheme: Scheme, pseudo_labels: bool = False
) -> Tensor | None:
    """(K,) weights: the given ones, or the published ones where they apply; None means all 1.

    Args:
        given: --class-weights.
        scheme: of the data set; the published weights are for SECOND's classes, at two dates.
        pseudo_labels: trains on them; the published weights are for true labels only.

    Raises:
        ValueError: not one weight a class.
    """
    if given is None:
        theirs = (scheme.task, scheme.classes) == (SECOND.task, SECOND.classes)
        return torch.tensor(SENSEEARTH_CLASS_WEIGHTS) if theirs and not pseudo_labels else None
    if len(given) != scheme.num_classes:
        raise ValueError(
            f"--class-weights has {len(given)} numbers, the data set {scheme.num_classes} classes: "
            f"{', '.join(scheme.classes) or 'none'}. Give one a class."
        )
    return torch.tensor(given)


class Denominators(NamedTuple):
    """What the losses are divided by; summed over ranks and parts, they make one big batch."""

    semantic: Tensor  # (T,) of each date: weight of the labelled pixels, or number of all pixels
    change: Tensor  # () number of known pixels


def loss_denominators(
    batch: Sample, class_weights: Tensor | None = None, mean_over: str = "labelled"
) -> Denominators:
    """The denominators of a batch, float32 on its device.

    Args:
        batch: semantic (B, T, H, W), change (B, H, W).
        class_weights: (K,), unitless; None means all 1.
        mean_over: "labelled" or "all"; "all" counts every pixel once, padding and ignored ones too.
    """
    if mean_over == "all":
        weights = torch.ones_like(batch.semantic, dtype=torch.float32)
    elif class_weights is None:
        weights = (batch.semantic != IGNORE_INDEX).float()
    else:  # index K stands for ignored pixels
        table = F.pad(class_weights, (0, 1))
        weights = table[batch.semantic.clamp(max=len(class_weights))]
    known = (batch.change != IGNORE_INDEX).float()
    return Denominators(weights.sum(dim=(0, 2, 3)), known.sum())


def semantic_loss(
    logits: Tensor, target: Tensor, denominator: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of labelled pixels, averaged per date, summed over dates.

    Args:
        logits: (B, T, K, H, W) raw scores.
        target: (B, T, H, W) int64 in 0..K-1, or IGNORE_INDEX.
        denominator: (T,) from `loss_denominators`.
        weight: (K,) class weights, unitless; None means all 1.

    Returns:
        Scalar in nats: the sum over dates of the weighted mean over that date's labelled pixels,
        or over all its pixels, the others counting 0; a date without any labelled pixel adds 0
        (with a gradient).
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


def dice_loss(probs: Tensor, target: Tensor) -> Tensor:
    """1 - the soft Dice coefficient of the changed pixels, over the whole batch of all ranks.

    Args:
        probs: (B, H, W) in 0..1 = P(changed).
        target: (B, H, W) int64: 1 = changed, 0 = unchanged, or IGNORE_INDEX.

    Returns:
        Scalar in 0..1. Over several ranks its values add up to the loss, and so do its gradients.
    """
    probs = probs * (target != IGNORE_INDEX)
    changed = (target == 1).to(probs.dtype)
    sums = torch.stack([(probs * changed).sum(), probs.sum(), changed.sum()])
    others = distributed.sum_over_ranks(sums.detach()) - sums.detach()
    hits, predicted, true = sums + others
    loss = 1 - (2 * hits + 1) / (predicted + true + 1)
    return loss - loss.detach() * (1 - 1 / distributed.world())


def training_loss(
    logits: Logits,
    batch: Sample,
    objective: Objective = Objective(),  # noqa: B008 - immutable
    denominators: Denominators | None = None,
    share: float = 1.0,
) -> LossTerms:
    """Twice the change loss plus the semantic loss plus the auxiliary one, whichever there are.

    With `dice_bce` the change loss is Dice plus unweighted cross-entropy, and counts once.

    Args:
        logits: of the network.
        batch: the targets, on the same device.
        objective: weights and kinds.
        denominators: of the whole batch if `batch` is a part of one; None: those of `batch`.
        share: of the whole batch that `batch` is; Dice, which knows no denominator, counts so much.

    Reference: SenseEarth 2020 contest, 1st place report; the gate: TFINet.
    """
    if denominators is None:
        denominators = loss_denominators(batch, objective.class_weights, objective.mean_over)
    dice = objective.change_loss == "dice_bce"
    semantic = change = gate = aux_semantic = None
    target = (batch.semantic, denominators.semantic, objective.class_weights)
    if logits.semantic is not None:
        semantic = semantic_loss(logits.semantic, *target)
    if logits.aux_semantic is not None:
        aux_semantic = semantic_loss(logits.aux_semantic, *target)
    if logits.change is not None:
        weight = 1.0 if dice else objective.changed_weight
        change = change_loss(logits.change, batch.change, denominators.change, weight)
        if dice:
            change = change + share * dice_loss(logits.change.float().sigmoid(), batch.change)
    if logits.aux_change is not None:
        gate = change_loss(logits.aux_change, batch.change, denominators.change, 1.0)
    weights = AUX_WEIGHTS
    if objective.aux_weight is not None:
        weights = dict.fromkeys(AUX_WEIGHTS, objective.aux_weight)
    weighted = (
        (1.0, semantic),
        (1.0 if dice else 2.0, change),
        (weights["gate"], gate),
        (weights["aux_semantic"], aux_semantic),
    )
    total = sum(weight * term for weight, term in weighted if term is not None)
    return LossTerms(total, semantic, change, gate, aux_semantic)
