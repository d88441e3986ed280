"""The training loss: the callable `Loss`, and the loss functions that it combines."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import distributed
from utils.schemes import SECOND
from utils.structures import IGNORE_INDEX, Logits, Sample, Scheme

# water, ground, low vegetation, tree, building, sports field
SENSEEARTH_CLASS_WEIGHTS = (2.0, 1.0, 2.0, 2.0, 1.0, 1.0)


class LossTerms(NamedTuple):
    """The loss of a step (`total`) and its terms, scalars; None: the network has no such head."""

    total: Tensor
    semantic: Tensor | None = None  # nats
    change: Tensor | None = None  # nats; with dice_bce, 1 - Dice is added
    gate: Tensor | None = None  # nats
    aux_semantic: Tensor | None = None  # nats


class Pixels(NamedTuple):
    """Denominators of the losses of one batch, over all ranks and micro-batches."""

    semantic: Tensor  # (T,) per date: summed weight of labelled pixels, or number of all pixels
    change: Tensor  # () number of known pixels
    share: float = 1.0  # 1 / micro-batches; factor on the Dice loss, which has no denominator


class Loss:
    """The weighted sum of a step: 2 change + semantic + auxiliary terms.

    With `dice_bce` the change loss is Dice plus unweighted cross-entropy, with weight 1.

    Args:
        class_weights: (K,), unitless; None means all 1.
        change_loss: "bce" or "dice_bce".
        changed_weight: factor on changed pixels in the cross-entropy of "bce", unitless.
        aux_weight: weight of the auxiliary term; None: GATE or AUX_SEMANTIC.
        mean_over: pixels over which the semantic losses are averaged: "labelled", or "all"
            (including padding and ignored pixels).

    Reference: SenseEarth 2020 contest, 1st place report; the gate: TFINet; the auxiliary semantic
    head: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017.
    """

    CHANGE: ClassVar[dict[str, float]] = {"bce": 2.0, "dice_bce": 1.0}
    SEMANTIC = 1.0
    GATE = 2.0
    AUX_SEMANTIC = 0.4

    def __init__(
        self,
        class_weights: Tensor | None = None,
        change_loss: str = "bce",
        changed_weight: float = 2.0,
        aux_weight: float | None = None,
        mean_over: str = "labelled",
    ):
        self.class_weights, self.mean_over = class_weights, mean_over
        self.dice = change_loss == "dice_bce"
        self.changed_weight = 1.0 if self.dice else changed_weight
        self.weights = {
            "semantic": self.SEMANTIC,
            "change": self.CHANGE[change_loss],
            "gate": self.GATE if aux_weight is None else aux_weight,
            "aux_semantic": self.AUX_SEMANTIC if aux_weight is None else aux_weight,
        }

    def count_pixels(self, batch: Sample, micro_batches: int = 1) -> Pixels:
        """The denominators of a batch's losses, summed over ranks.

        Args:
            batch: this rank's whole batch: semantic (B, T, H, W), change (B, H, W).
            micro_batches: number of them that it is split into.
        """
        if self.mean_over == "all":
            weights = torch.ones_like(batch.semantic, dtype=torch.float32)
        elif self.class_weights is None:
            weights = (batch.semantic != IGNORE_INDEX).float()
        else:  # index K stands for ignored pixels
            table = F.pad(self.class_weights, (0, 1))
            weights = table[batch.semantic.clamp(max=len(self.class_weights))]
        known = (batch.change != IGNORE_INDEX).float()
        counts = torch.cat([weights.sum(dim=(0, 2, 3)), known.sum()[None]])
        counts = distributed.sum_over_ranks(counts)
        return Pixels(counts[:-1], counts[-1], 1 / micro_batches)

    def __call__(self, logits: Logits, batch: Sample, pixels: Pixels | None = None) -> LossTerms:
        """The loss terms of a batch or micro-batch, one for each head of the network.

        Args:
            logits: outputs of the network.
            batch: the targets, on the same device.
            pixels: denominators of the whole batch; None: those of `batch`.

        Returns:
            The share of this micro-batch and rank. Summed over micro-batches and ranks, the shares
            are means over all pixels of the batch.
        """
        pixels = self.count_pixels(batch) if pixels is None else pixels
        labels = (batch.semantic, pixels.semantic, self.class_weights)
        terms: dict[str, Tensor] = {}
        if logits.semantic is not None:
            terms["semantic"] = semantic_loss(logits.semantic, *labels)
        if logits.change is not None:
            changed = (batch.change, pixels.change, self.changed_weight)
            terms["change"] = change_loss(logits.change, *changed)
            if self.dice:
                probs = logits.change.float().sigmoid()
                terms["change"] = terms["change"] + pixels.share * dice_loss(probs, batch.change)
        if logits.aux_change is not None:
            terms["gate"] = change_loss(logits.aux_change, batch.change, pixels.change, 1.0)
        if logits.aux_semantic is not None:
            terms["aux_semantic"] = semantic_loss(logits.aux_semantic, *labels)
        total = sum(self.weights[name] * term for name, term in terms.items())
        return LossTerms(total, **terms)


def class_weights(
    given: Sequence[float] | None, scheme: Scheme, pseudo_labels: bool = False
) -> Tensor | None:
    """(K,) weights: the given ones, or the published ones where they apply; None means all 1.

    Args:
        given: --class-weights.
        scheme: of the data set; the published weights are for SECOND's classes, at two dates.
        pseudo_labels: the targets are pseudo labels; the published weights are for true labels.

    Raises:
        ValueError: the number of weights is not the number of classes.
    """
    if given is None:
        is_second = (scheme.task, scheme.classes) == (SECOND.task, SECOND.classes)
        return torch.tensor(SENSEEARTH_CLASS_WEIGHTS) if is_second and not pseudo_labels else None
    if len(given) != scheme.num_classes:
        raise ValueError(
            f"--class-weights has {len(given)} numbers, the data set {scheme.num_classes} classes: "
            f"{', '.join(scheme.classes) or 'none'}. Give one a class."
        )
    return torch.tensor(given)


def semantic_loss(
    logits: Tensor, target: Tensor, denominator: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy over labelled pixels, averaged per date, summed over dates.

    Args:
        logits: (B, T, K, H, W) raw scores.
        target: (B, T, H, W) int64 in 0..K-1, or IGNORE_INDEX.
        denominator: (T,), `Pixels.semantic`.
        weight: (K,) class weights, unitless; None means all 1.

    Returns:
        Scalar in nats: the sum over dates of the weighted mean over that date's labelled pixels,
        or over all its pixels (unlabelled ones are 0). A date without labelled pixels adds 0
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
        denominator: (), `Pixels.change`: the COUNT of known pixels, not their weights.
        changed_weight: factor on changed pixels, unitless.

    Returns:
        Scalar in nats.
    """
    changed = (target == 1).float()
    pixel_weight = (1 + (changed_weight - 1) * changed) * (target != IGNORE_INDEX)
    per_pixel = F.binary_cross_entropy_with_logits(logits.float(), changed, reduction="none")
    return (per_pixel * pixel_weight).sum() / denominator.clamp(min=1)


def dice_loss(probs: Tensor, target: Tensor) -> Tensor:
    """1 - the soft Dice coefficient of the changed pixels, over the batches of all ranks.

    Args:
        probs: (B, H, W) in 0..1 = P(changed).
        target: (B, H, W) int64: 1 = changed, 0 = unchanged, or IGNORE_INDEX.

    Returns:
        Scalar in 0..1, this rank's share: values and gradients sum over ranks to those of the loss.
    """
    probs = probs * (target != IGNORE_INDEX)
    changed = (target == 1).to(probs.dtype)
    sums = torch.stack([(probs * changed).sum(), probs.sum(), changed.sum()])
    others = distributed.sum_over_ranks(sums.detach()) - sums.detach()
    hits, predicted, true = sums + others
    loss = 1 - (2 * hits + 1) / (predicted + true + 1)
    return loss - loss.detach() * (1 - 1 / distributed.world())
