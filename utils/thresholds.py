"""Metrics at all thresholds of P(changed): counts on the device, and pure functions of them.

Thresholds are 0, 0.001, ..., 1; a pixel is predicted as changed if P(changed) is above it. With
several processes, sum `counts`, then compute metrics. An undefined ratio (0 / 0) is NaN.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

NUM_STEPS = 1000  # between the thresholds 0 and 1
ROUNDING = 1e-4  # averaged probabilities may be outside of 0..1 by this rounding error
# thresholds, in steps, that `result` reports: denser at the ends, where most probabilities lie
REPORTED = (*range(10), *range(10, 990, 10), *range(990, NUM_STEPS + 1))


class ThresholdSweep:
    """Counts pixels by truth and by level, the number of thresholds below P(changed).

    Counting does not synchronise with the device, as in utils.metrics.

    Attributes:
        counts: (2, 1001) int64 on the device. Rows: unchanged, changed. Column k: pixels above
            exactly k thresholds. A view: in-place changes change this object.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        thresholds = torch.arange(NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS
        self._thresholds = thresholds.float().to(device)  # rounded as in `probs > 0.4`
        # after the levels: one bin for pixels without truth, one for impossible probabilities
        self._bins = torch.zeros(2 * (NUM_STEPS + 1) + 2, dtype=torch.int64, device=device)

    @property
    def counts(self) -> Tensor:
        """The counts so far, a view.

        Raises:
            ValueError: a counted probability was NaN or outside 0..1.
        """
        if num_bad := int(self._bins[-1]):
            raise ValueError(
                f"{num_bad} pixels have a P(changed) that is NaN or outside 0..1; these are no "
                "probabilities. Did training diverge? Choose another checkpoint (--checkpoints)."
            )
        return self._bins[:-2].view(2, NUM_STEPS + 1)

    def update(self, probs: Tensor, true: Tensor) -> None:
        """Adds pixels.

        Args:
            probs: (B, H, W) = P(changed), in 0..1 up to rounding errors; compared in float32.
            true: (B, H, W) integers: 1 = changed, 0 = unchanged, other values (IGNORE_INDEX) are
                not counted.
        """
        if probs.shape != true.shape:
            raise ValueError(f"probs {tuple(probs.shape)} and true {tuple(true.shape)} must match")
        probs, true = probs.to(self._bins.device).float(), true.to(self._bins.device).long()
        levels = torch.bucketize(probs.clamp(0, 1), self._thresholds)  # how many lie below
        possible = (probs > -ROUNDING) & (probs < 1 + ROUNDING)
        cells = torch.where(possible, true * (NUM_STEPS + 1) + levels, -1)
        cells = torch.where((true == 0) | (true == 1), cells, -2) % len(self._bins)
        cells = cells.flatten()
        self._bins.scatter_add_(0, cells, self._bins.new_ones(1).expand_as(cells))


class Curve(NamedTuple):
    """Metrics of the class "changed" at every threshold, each (1001,) float64 on the CPU."""

    threshold: Tensor
    precision: Tensor
    recall: Tensor
    f1: Tensor
    iou: Tensor


def curve(counts: Tensor) -> Curve:
    """Metrics at the thresholds 0, 0.001, ..., 1, from the counts of a ThresholdSweep."""
    false_alarms, hits = counts.cpu().sum(1, keepdim=True) - counts.cpu().cumsum(1)  # above each
    true, predicted = counts[1].sum().cpu(), hits + false_alarms
    return Curve(
        torch.arange(NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS,
        precision=hits.double() / predicted,
        recall=hits.double() / true,
        f1=2 * hits.double() / (true + predicted),
        iou=hits.double() / (true + false_alarms),
    )


def best_step(counts: Tensor) -> int | None:
    """The threshold with the highest F1, in thousandths; of equal ones, the nearest to 0.5.

    None if no pixel is truly changed, since then no threshold is better than another.
    """
    if not counts[1].any():
        return None
    f1 = curve(counts).f1
    best = torch.nonzero(f1 == f1.max()).flatten()  # not NaN: there are changed pixels
    return int(best[(best - NUM_STEPS // 2).abs().argmin()])


def average_precision(counts: Tensor) -> float:
    """Average precision: precision weighted by the increase of recall, over decreasing levels.

    Pixels of the same level count as equally probable. NaN if no pixel is truly changed.
    """
    unchanged, changed = counts.cpu().flip(1).double()  # most probable first
    hits, predicted = changed.cumsum(0), (changed + unchanged).cumsum(0)
    gained = changed > 0
    precision = hits[gained] / predicted[gained]
    return float((changed[gained] * precision).sum() / changed.sum())


def result(counts: Tensor) -> dict[str, float | list]:
    """The results of a sweep as plain numbers in 0..1; NaN if no pixel is truly changed.

    Args:
        counts: of a ThresholdSweep, summed over processes.

    Returns:
        threshold: the best one (see `best_step`); precision, recall, f1, iou: at this threshold;
        average_precision; curve: a list of dicts with these five keys at each reported threshold
        (ascending, including the best).
    """
    measures, best = curve(counts), best_step(counts)
    at_best = dict.fromkeys(Curve._fields, math.nan) if best is None else _at(measures, best)
    reported = {*REPORTED} if best is None else {*REPORTED, best}
    return {
        **at_best,
        "average_precision": average_precision(counts),
        "curve": [_at(measures, step) for step in sorted(reported)],
    }


def _at(measures: Curve, step: int) -> dict[str, float]:
    return {name: float(values[step]) for name, values in measures._asdict().items()}
