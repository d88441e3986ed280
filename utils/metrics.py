"""Confusion matrices on the device, and metrics as pure functions of them.

Counting does not synchronise with the device: ignored pixels go to an extra bin. With several
processes, sum `counts`, then compute the metrics once; ratios are never averaged.

An undefined ratio (0 / 0) is NaN; `to_json` turns it into None.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MOST_PAIRS = 1024  # up to this number of class pairs, pairs are counted before mapping to states


class ConfusionMatrix:
    """Counts (truth, prediction) pairs of n states: n classes, or 2 for unchanged / changed.

    Attributes:
        num_states: n.
        counts: (n, n) int64 on the device, rows = truth. A view: in-place changes change this
            object.
    """

    def __init__(self, num_states: int, device: torch.device | str = "cpu"):
        self.num_states = num_states
        # after the n * n cells: one bin for pixels without truth, one for impossible predictions
        self._bins = torch.zeros(num_states**2 + 2, dtype=torch.int64, device=device)

    @property
    def counts(self) -> Tensor:
        """The counts so far, a view.

        Raises:
            ValueError: a counted prediction was outside 0..n-1.
        """
        n = self.num_states
        if num_bad := int(self._bins[-1]):
            raise ValueError(
                f"{num_bad} predicted pixels lie outside the {n} states of this data set; the "
                "network and the data set must have the same classes: choose another checkpoint "
                "(--checkpoints) or --dataset."
            )
        return self._bins[: n * n].view(n, n)

    def update(self, pred: Tensor, true: Tensor) -> None:
        """Adds pixels.

        Args:
            pred: any shape, integers in 0..n-1.
            true: the same shape, integers; values outside 0..n-1 (IGNORE_INDEX) are not counted.
        """
        if pred.shape != true.shape:
            raise ValueError(f"pred {tuple(pred.shape)} and true {tuple(true.shape)} must be alike")
        n, device = self.num_states, self._bins.device
        pred, true = (_limited(values.to(device), n) for values in (pred, true))
        self._add(_count_pairs(true, pred, n + 1))

    def _add(self, cells: Tensor) -> None:
        """Adds counts (n + 1, n + 1); the last row and column are values outside 0..n-1."""
        n = self.num_states
        self._bins[: n * n] += cells[:n, :n].flatten()
        self._bins[-2] += cells[n].sum()
        self._bins[-1] += cells[:n, n].sum()


class LandCoverConfusion(ConfusionMatrix):
    """Counts the K classes of one date, from masks with values 1..K."""

    def update(self, pred: Tensor, true: Tensor) -> None:
        """Adds masks of any shape, 1..K; true pixels with other values are not counted."""
        super().update(pred - 1, true - 1)  # uint8: 0 becomes 255


class ChangeConfusion(ConfusionMatrix):
    """Counts from-to transitions: state 0 is unchanged, then the K x K (date 1, date 2) pairs.

    All published metrics of semantic change (both dates stacked, or from-to) follow from this
    matrix. With K = 0 (binary change) there are 2 states and the masks are change masks.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        super().__init__(num_classes**2 + 1 if num_classes else 2, device)
        self.num_classes = num_classes
        self._states = _state_of_pair(num_classes).to(device)

    def update(self, pred: Tensor, true: Tensor) -> None:
        """Adds masks.

        Args:
            pred: (B, 2, H, W) integers, 0 = unchanged at both dates, 1..K = class. With K = 0
                (B, H, W) of 0 and 1 = changed.
            true: as `pred`; a pixel is not counted if a date is outside 0..K, or if only one of
                the two is 0. With K = 0, only 0 and 1 are counted.
        """
        if not self.num_classes:
            super().update(pred, true)
            return
        if pred.shape != true.shape:
            raise ValueError(f"pred {tuple(pred.shape)} and true {tuple(true.shape)} must be alike")
        states = self._states
        pred, true = (_pairs(masks.to(states.device), self.num_classes) for masks in (pred, true))
        if len(states) > MOST_PAIRS:
            super().update(states[pred.long()], states[true.long()])
            return
        # count pairs of classes, then map each pair to its state
        cells, n = _count_pairs(true, pred, len(states)), self.num_states
        rows = cells.new_zeros(n + 1, len(states)).index_add_(0, states, cells)
        self._add(cells.new_zeros(n + 1, n + 1).index_add_(1, states, rows))


def transition_states(masks: Tensor, num_classes: int) -> Tensor:
    """Two-date masks as one state per pixel: 0, or 1 + (from - 1) * K + (to - 1).

    Args:
        masks: (B, 2, H, W) integers, 0 = unchanged, 1..K = class.
        num_classes: K.

    Returns:
        (B, H, W) int64 in 0..K*K; -1 where a date is outside 0..K or only one of the two is 0.
    """
    states = _state_of_pair(num_classes)
    states[states == num_classes**2 + 1] = -1
    return states.to(masks.device)[_pairs(masks, num_classes).long()]


def _state_of_pair(num_classes: int) -> Tensor:
    """((K + 2)^2,) int64: the state of each value of `_pairs`; K * K + 1 for impossible pairs."""
    k = num_classes
    date1, date2 = torch.cartesian_prod(torch.arange(k + 2), torch.arange(k + 2)).unbind(1)
    possible = (date1 <= k) & (date2 <= k) & ((date1 > 0) == (date2 > 0))
    states = torch.where(date1 > 0, (date1 - 1) * k + date2, 0)
    return torch.where(possible, states, k * k + 1)


def _pairs(masks: Tensor, num_classes: int) -> Tensor:
    """(B, 2, H, W) -> (B, H, W): date 1 * (K + 2) + date 2, in the smallest integer type.

    Values outside 0..K count as K + 1.
    """
    base = num_classes + 2
    date1, date2 = _smallest(_limited(masks, base - 1), base**2).unbind(1)
    return date1 * base + date2


def _limited(values: Tensor, n: int) -> Tensor:
    """Integers with all values outside 0..n-1 replaced by n, in the smallest type."""
    if values.dtype != torch.uint8:
        values = torch.where((values >= 0) & (values < n), values, n)
    elif n > 255:  # uint8 values are always below n
        return values.short()
    return _smallest(values.clamp(max=n), n)


def _smallest(values: Tensor, largest: int) -> Tensor:
    """Converts to the smallest integer type that holds `largest`, to save memory bandwidth."""
    types = (torch.uint8, torch.int16, torch.int32, torch.int64)
    return values.to(next(dtype for dtype in types if largest <= torch.iinfo(dtype).max))


def _count_pairs(rows: Tensor, columns: Tensor, n: int) -> Tensor:
    """(n, n) int64: how often each pair of 0..n-1 occurs."""
    cells = (_smallest(rows, n * n) * n + columns).flatten()
    if cells.device.type == "cpu":
        return torch.bincount(cells, minlength=n * n).view(n, n)
    # on CUDA, bincount synchronises to find the largest value
    counts = torch.zeros(n * n, dtype=torch.int64, device=cells.device)
    counts.scatter_add_(0, cells.long(), counts.new_ones(1).expand_as(cells))
    return counts.view(n, n)


def stack_dates(counts: Tensor, num_classes: int) -> Tensor:
    """The contest's confusion matrix from transition counts: both dates stacked.

    Args:
        counts: (K*K+1, K*K+1), rows = truth.
        num_classes: K.

    Returns:
        (K+1, K+1) int64 on the CPU, rows = truth, 0 = unchanged, 1..K; every pixel counts once per
        date.
    """
    k = num_classes
    pairs = torch.arange(k * k)
    stacked = torch.zeros(k + 1, k + 1, dtype=torch.int64)
    for class_of_pair in (pairs // k + 1, pairs % k + 1):  # date 1, date 2
        class_of_state = torch.cat([torch.zeros(1, dtype=torch.int64), class_of_pair])
        member = torch.nn.functional.one_hot(class_of_state, k + 1)  # (K*K+1, K+1)
        stacked += member.T @ counts.cpu() @ member
    return stacked


class Sek(NamedTuple):
    """The contest's metrics, each in 0..1 (kappa and sek may be negative)."""

    score: float  # 0.3 miou + 0.7 sek
    miou: float  # mean of the IoU of unchanged and of changed
    sek: float  # kappa * exp(iou_change - 1)
    kappa: float  # Cohen's kappa without pixels correctly predicted as unchanged
    iou_change: float


def sek_from_confusion(confusion: Tensor) -> Sek:
    """Separated kappa and Score of a matrix whose state 0 is "unchanged".

    Args:
        confusion: (n, n) counts, rows = truth.

    Reference:
        Yang et al., Asymmetric Siamese Networks for Semantic Change Detection in Aerial Images,
        TGRS 2021: the metrics of SECOND.
    """
    binary = collapse_to_change(confusion)
    iou_unchanged, iou_change = iou(binary).tolist()
    separated = confusion.cpu().double().clone()
    separated[0, 0] = 0
    kappa = cohen_kappa(separated)
    miou = (iou_unchanged + iou_change) / 2
    sek = kappa * math.exp(iou_change - 1)
    return Sek(0.3 * miou + 0.7 * sek, miou, sek, kappa, iou_change)


def collapse_to_change(confusion: Tensor) -> Tensor:
    """(n, n) counts, state 0 = unchanged -> (2, 2) float64: unchanged, changed."""
    confusion = confusion.cpu().double()
    return torch.stack(
        [
            torch.stack([confusion[0, 0], confusion[0, 1:].sum()]),
            torch.stack([confusion[1:, 0].sum(), confusion[1:, 1:].sum()]),
        ]
    )


def cohen_kappa(confusion: Tensor) -> float:
    """Cohen's kappa; 0 without pixels or if the expected agreement is 1, as published."""
    confusion = confusion.cpu().double()
    total = confusion.sum()
    if total == 0:
        return 0.0
    observed = confusion.trace() / total
    expected = confusion.sum(1) @ confusion.sum(0) / total**2
    return 0.0 if expected == 1 else float((observed - expected) / (1 - expected))


def iou(confusion: Tensor) -> Tensor:
    """(n, n) counts -> (n,) float64 intersection over union; NaN for a state that never occurs."""
    confusion = confusion.cpu().double()
    hits = confusion.diagonal()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def semantic_change_metrics(counts: Tensor, num_classes: int) -> dict[str, float | list]:
    """Every metric of semantic change, ratios in 0..1.

    Args:
        counts: (K*K+1, K*K+1) of a ChangeConfusion.
        num_classes: K.

    Returns:
        score, miou, sek, kappa: the contest's, on the (K+1)-state matrix of both dates stacked.
        sek_transition: the same formula over from-to states, about a point lower.
        fscd: F1 of changed pixels with the right class, over both dates. oa: overall accuracy.
        iou_change, f1_change, precision_change, recall_change: changed against unchanged.
        iou_per_class: K values; "unchanged" is one more class in the confusion matrix.
        confusion: (K+1) rows of counts, rows = truth.
    """
    confusion = stack_dates(counts, num_classes)
    sek = sek_from_confusion(confusion)
    hits = confusion.diagonal()[1:].sum()
    return {
        "score": sek.score,
        "miou": sek.miou,
        "sek": sek.sek,
        "sek_transition": sek_from_confusion(counts).sek,
        "kappa": sek.kappa,
        "fscd": ratio(2 * hits, confusion[:, 1:].sum() + confusion[1:].sum()),
        "oa": ratio(confusion.trace(), confusion.sum()),
        **_change_metrics(collapse_to_change(confusion)),
        "iou_per_class": iou(confusion)[1:].tolist(),
        "confusion": confusion.tolist(),
    }


def binary_change_metrics(counts: Tensor) -> dict[str, float | list]:
    """Metrics of changed against unchanged, ratios in 0..1.

    Args:
        counts: (2, 2) of a ChangeConfusion without classes; rows = truth, unchanged first.
    """
    change = _change_metrics(collapse_to_change(counts))
    iou_unchanged, iou_change = iou(counts).tolist()
    return {
        "miou": (iou_unchanged + iou_change) / 2,
        "kappa": cohen_kappa(counts),
        "oa": ratio(counts.trace(), counts.sum()),
        **change,
        "dice": change["f1_change"],  # the same by another name
        "iou_unchanged": iou_unchanged,
        "confusion": counts.tolist(),
    }


def land_cover_metrics(counts: Tensor, absent_is_zero: bool = False) -> dict[str, float | list]:
    """Metrics of one-date land cover, ratios in 0..1.

    Args:
        counts: (K, K) of a ConfusionMatrix, rows = truth.
        absent_is_zero: classes that occur neither in truth nor in prediction have IoU 0, as in
            DFC2020; otherwise NaN, left out of `miou`.

    Returns:
        aa: mean recall of the classes that occur in the truth. miou: mean of iou_per_class.
        miou_present: mean IoU of the classes that occur in truth or prediction. fwiou: IoU
        weighted by the class's share in the truth. oa: overall accuracy. iou_per_class: K values.
        confusion: K rows of counts, rows = truth.
    """
    counts = counts.cpu()
    occurrences = counts.sum(1).double()
    present = iou(counts)
    iou_per_class = present.nan_to_num(0.0) if absent_is_zero else present
    return {
        "aa": float((counts.diagonal() / occurrences).nanmean()),
        "miou": float(iou_per_class.nanmean()),
        "miou_present": float(present.nanmean()),
        "fwiou": ratio((occurrences * iou_per_class).nansum(), occurrences.sum()),
        "oa": ratio(counts.trace(), counts.sum()),
        "iou_per_class": iou_per_class.tolist(),
        "confusion": counts.tolist(),
    }


def confusion_for(
    task: str, num_classes: int, device: torch.device | str = "cpu"
) -> ConfusionMatrix:
    """An empty matrix for the task: ChangeConfusion(K or 0), or LandCoverConfusion."""
    if task == "land_cover":
        return LandCoverConfusion(num_classes, device)
    return ChangeConfusion(num_classes if task == "semantic_change" else 0, device)


def metrics_for(
    task: str, counts: Tensor, num_classes: int, absent_is_zero: bool = False
) -> dict[str, float | list]:
    """The metrics of the task from the counts of `confusion_for(task, num_classes)`.

    `absent_is_zero`: see `land_cover_metrics`.
    """
    if task == "semantic_change":
        return semantic_change_metrics(counts, num_classes)
    if task == "land_cover":
        return land_cover_metrics(counts, absent_is_zero)
    return binary_change_metrics(counts)


def to_json(value: object) -> object:
    """The same value with NaN replaced by None, at any depth: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def in_per_cent(metrics: dict[str, float]) -> str:
    """Metrics in 0..1 as one line in per cent."""
    return "[%] " + "  ".join(f"{key} {100 * value:.2f}" for key, value in metrics.items())


def _change_metrics(binary: Tensor) -> dict[str, float]:
    """(2, 2) counts, rows = truth, unchanged first -> metrics of the class "changed"."""
    (_, false_alarms), (missed, hits) = binary.tolist()
    return {
        "iou_change": ratio(hits, hits + false_alarms + missed),
        "f1_change": ratio(2 * hits, 2 * hits + false_alarms + missed),
        "precision_change": ratio(hits, hits + false_alarms),
        "recall_change": ratio(hits, hits + missed),
    }


def ratio(part: Tensor | float, whole: Tensor | float) -> float:
    """`part` / `whole`; NaN if `whole` is 0."""
    return float(part) / float(whole) if whole else math.nan
