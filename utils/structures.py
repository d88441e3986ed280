"""The named types that travel between datasets, networks and scripts.

Polarity everywhere: change = 1 means changed. Class indices run over 0..K-1, "unchanged" excluded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

IGNORE_INDEX = 255  # no loss, no metric

TASKS = ("semantic_change", "binary_change", "land_cover")


class Scheme(NamedTuple):
    """What the values of a data set mean."""

    task: str  # one of TASKS
    classes: tuple[str, ...]  # K land-cover names; empty for binary_change
    palette: tuple[tuple[int, int, int], ...]  # K + 1 RGB colours in 0..255; [0] is "unchanged"
    bands: tuple[str, ...] = ("red", "green", "blue")
    scale: float = 255.0  # the stored value that stands for 1.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # per band, after division by scale
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # per band, after division by scale
    # before that, per image and date, by the whole image: "none"; "bands": each band minus its
    # mean, over its standard deviation; "joint": the same with one mean for all bands
    standardise: str = "none"

    @property
    def num_classes(self) -> int:
        """K, "unchanged" excluded."""
        return len(self.classes)

    @property
    def num_dates(self) -> int:
        """T: 1 for land cover of one date, otherwise 2."""
        return 1 if self.task == "land_cover" else 2


class Sample(NamedTuple):
    """One tile, and after collation one batch (a leading B; `name` becomes a list).

    On their way from the files to the device, labels are uint8 (same values) to save bytes, see
    `utils.structures.to_device`.
    """

    name: str  # tile id
    images: Tensor  # (T, C, H, W) uint8 or float as read; normalised on the device
    semantic: Tensor  # (T, H, W) int64 in 0..K-1, IGNORE_INDEX where unlabelled; K = 0: (0, H, W)
    change: Tensor  # (H, W) int64: 1 = changed, 0 = unchanged, IGNORE_INDEX where unknown


def label_size(batch: Sample) -> tuple[int, int]:
    """(height, width) of the labels, and of predictions; images may come in another size."""
    return tuple(batch.change.shape[-2:])


class Logits(NamedTuple):
    """What every network returns, in train and in eval; None for a head it does not have."""

    semantic: Tensor | None = None  # (B, T, K, H, W)
    change: Tensor | None = None  # (B, H, W), > 0 means changed
    aux_semantic: Tensor | None = None  # (B, T, K, H, W), deep supervision; in training only
    aux_change: Tensor | None = None


class Probs(NamedTuple):
    """After softmax / sigmoid. Only these are ever averaged."""

    semantic: Tensor | None = None  # (B, T, K, H, W) in 0..1, sums to 1 over K
    change: Tensor | None = None  # (B, H, W) in 0..1 = P(changed)
    gate: Tensor | None = None  # (B, H, W) in 0..1 = P(changed) as a supervised gate sees it


def to_device(batch: Sample, device: torch.device) -> Sample:
    """The batch's tensors on the device; there its labels become int64, which is what losses take.

    Every batch of a loader goes through here before its labels are used.
    """
    return batch._replace(
        images=batch.images.to(device, non_blocking=True),
        semantic=batch.semantic.to(device, non_blocking=True).long(),
        change=batch.change.to(device, non_blocking=True).long(),
    )
