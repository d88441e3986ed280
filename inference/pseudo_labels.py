"""Pseudo labels of unchanged pixels, from the predictions of an ensemble of teachers.

Masks are 0 = unlabelled, 1..K = class. Pixels with a true label always keep it. An unchanged pixel
gets the same class at all of its dates. Which pixels changed is taken from the true labels; the
teachers' change predictions are not used.
"""

import torch
from torch import Tensor

from inference.decide import most_probable
from utils.metrics import ratio
from utils.structures import IGNORE_INDEX, Sample


def agreed(pred: Tensor) -> Tensor:
    """(B, T, H, W) classes 0..K-1 -> (B, H, W) int64: class + 1 where all dates agree, else 0."""
    first = pred[:, 0].long()
    return torch.where((pred == pred[:, :1]).all(1), first + 1, 0)


def fill_unchanged(true_masks: Tensor, labels: Tensor) -> Tensor:
    """Fills the unchanged pixels of masks with labels.

    Args:
        true_masks: (B, T, H, W) integers, 0 = unchanged, 1..K = class.
        labels: (B, H, W) integers, 0 = stay unlabelled, 1..K = class.

    Returns:
        (B, T, H, W) uint8 in 0..K: `labels` where `true_masks` is 0 at all dates, else it.
    """
    nowhere = (true_masks == 0).all(1, keepdim=True)  # labelled at neither date
    return torch.where(nowhere, labels.unsqueeze(1), true_masks).to(torch.uint8)


def known_masks(batch: Sample) -> Tensor:
    """(B, T, H, W) uint8 masks of a batch: 1..K = labelled class, 0 = labelled nowhere.

    With classes only where the land changed, 0 is "unchanged".
    """
    known = batch.semantic != IGNORE_INDEX
    return torch.where(known, batch.semantic + 1, 0).to(torch.uint8)


class VoteCounter:
    """Plurality vote over teachers, one teacher in memory at a time.

    Each teacher votes for the class it predicts at all dates of a pixel, or for 0 = unlabelled if
    the dates differ. Ties go to the lowest value, so "unlabelled" wins every tie it takes part in.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.num_teachers = 0
        self._votes: Tensor | None = None  # (B, K+1, H, W) int16

    def add(self, pred: Tensor) -> None:
        """Counts the votes of one teacher.

        Args:
            pred: (B, T, H, W) integers in 0..K-1, the argmax of its probabilities.
        """
        choice = agreed(pred).unsqueeze(1)  # (B, 1, H, W)
        if self._votes is None:
            batch, _, height, width = choice.shape
            shape = (batch, self.num_classes + 1, height, width)
            self._votes = torch.zeros(shape, dtype=torch.int16, device=choice.device)
        self._votes.scatter_add_(1, choice, self._votes.new_ones(1).expand_as(choice))
        self.num_teachers += 1

    @property
    def votes(self) -> Tensor:
        """(B, K+1, H, W) int16: how many teachers chose 0 = unlabelled, 1..K."""
        if self._votes is None:
            raise ValueError("no teacher has voted; give at least one file to --checkpoints.")
        return self._votes

    def winner(self) -> Tensor:
        """(B, H, W) int64 in 0..K: the value with most votes; ties go to the lowest."""
        return most_probable(self.votes, dim=1)

    def unanimous(self) -> Tensor:
        """(B, H, W) bool: all teachers chose the same class 1..K."""
        return (self.votes[:, 1:] == self.num_teachers).any(1)

    def result(self, true_masks: Tensor) -> Tensor:
        """(B, T, H, W) uint8 in 0..K: the winner in unchanged pixels, else `true_masks`."""
        return fill_unchanged(true_masks, self.winner())


def vote(preds: Tensor, true_masks: Tensor) -> Tensor:
    """The published rule: plurality vote of the teachers; ties go to the lowest value.

    Args:
        preds: (M, B, T, H, W) integers in 0..K-1, one slice per teacher.
        true_masks: (B, T, H, W) integers, 0 = unchanged, 1..K = class.

    Returns:
        (B, T, H, W) uint8 in 0..K.
    """
    counter = VoteCounter(int(preds.max()) + 1)
    for pred in preds:
        counter.add(pred)
    return counter.result(true_masks)


def mean_rule(probs: Tensor, true_masks: Tensor, min_confidence: float = 0.0) -> Tensor:
    """Labels by mean probability, where all dates agree and reach `min_confidence`.

    Args:
        probs: (B, T, K, H, W) in 0..1, averaged over teachers and views.
        true_masks: (B, T, H, W) integers, 0 = unchanged, 1..K = class.
        min_confidence: probability in 0..1 that the class must reach at every date.

    Returns:
        (B, T, H, W) uint8 in 0..K.
    """
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"--min-confidence={min_confidence} is no probability; give one in 0..1.")
    confidence, pred = probs.max(2)  # (B, T, H, W)
    sure = confidence.amin(1) >= min_confidence
    return fill_unchanged(true_masks, torch.where(sure, agreed(pred), 0))


def count_tiles(
    masks: Tensor,
    true_masks: Tensor,
    unanimous: Tensor,
    num_classes: int,
    dense: Tensor | None = None,
) -> Tensor:
    """Pixel counts of each tile; a pixel counts once, regardless of the number of dates.

    Args:
        masks: (B, T, H, W) integers in 0..K, a pseudo label where `true_masks` is 0.
        true_masks: (B, T, H, W) integers, 0 = unchanged, 1..K = class.
        unanimous: (B, H, W) bool, see VoteCounter.
        num_classes: K.
        dense: (B, T, H, W) true class 1..K of every pixel, other values = unknown; None if the
            data set has no such labels.

    Returns:
        (B, 4, K+1) int64 pixels on the device of `masks`. Columns: pseudo label, 0 = unlabelled,
        1..K. Rows: unchanged pixels; those where all teachers agree; those with a known true
        class; those where the pseudo label is the true class.
    """
    tiles, states = len(masks), num_classes + 1
    unchanged = (true_masks == 0).all(1)
    rows = [unchanged, unchanged & unanimous]
    if dense is not None:
        known = ((dense >= 1) & (dense <= num_classes)).all(1) & unchanged
        rows += [known, known & (dense == masks).all(1)]
    bins = torch.zeros(tiles * 4 * states + 1, dtype=torch.int64, device=masks.device)
    first_of_tile = torch.arange(tiles, device=masks.device)[:, None, None] * 4 * states
    cells = first_of_tile + masks[:, 0]
    for row, where in enumerate(rows):
        chosen = torch.where(where, cells + row * states, len(bins) - 1).flatten()  # not counted
        bins.scatter_add_(0, chosen, bins.new_ones(1).expand_as(chosen))
    return bins[:-1].view(tiles, 4, states)


def statistics(counts: Tensor) -> dict[str, int | float | list]:
    """Coverage and accuracy of the pseudo labels in the unchanged pixels.

    Args:
        counts: (4, K+1), the sum of `count_tiles` over tiles.

    Returns:
        Plain numbers; shares and accuracies in 0..1, NaN where undefined.
        unchanged_pixels, labelled_pixels; share_labelled: of the unchanged pixels.
        pixels_per_class, share_per_class: K values, shares of the unchanged pixels.
        teacher_agreement: share of unchanged pixels where all teachers predict the same class at
        all dates. accuracy: of the labelled pixels whose true class is known;
        accuracy_per_class: K values, of the pixels with that pseudo label.
    """
    unchanged, unanimous, known, right = counts.tolist()
    total, labelled = sum(unchanged), sum(unchanged[1:])
    return {
        "unchanged_pixels": total,
        "labelled_pixels": labelled,
        "share_labelled": ratio(labelled, total),
        "pixels_per_class": unchanged[1:],
        "share_per_class": [ratio(pixels, total) for pixels in unchanged[1:]],
        "teacher_agreement": ratio(sum(unanimous), total),
        "accuracy": ratio(sum(right[1:]), sum(known[1:])),
        "accuracy_per_class": [ratio(*pair) for pair in zip(right[1:], known[1:], strict=True)],
    }
