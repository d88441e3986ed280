"""Named tuples exchanged between data sets, networks and scripts.

Polarity: change = 1 means changed. Class indices are 0..K-1, "unchanged" excluded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

IGNORE_INDEX = 255  # no loss, no metric

TASKS = ("semantic_change", "binary_change", "land_cover")


class Scheme(NamedTuple):
    """The meaning of a data set's values: task, classes, bands and their scaling."""

    task: str  # one of TASKS
    classes: tuple[str, ...]  # K land-cover names; empty for binary_change
    palette: tuple[tuple[int, int, int], ...]  # K + 1 RGB colours in 0..255; [0] is "unchanged"
    bands: tuple[str, ...] = ("red", "green", "blue")
    scale: float = 255.0  # the stored value that corresponds to 1.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # per band, after division by scale
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # per band, after division by scale
    # applied before, by statistics of each whole image: "none"; "bands": (band - mean) / std;
    # "joint": the same with one mean and std for all bands
    standardise: str = "none"
    same_class_change: bool = True  # two dates: what changed may keep its class

    @property
    def num_classes(self) -> int:
        """K, "unchanged" excluded."""
        return len(self.classes)

    @property
    def num_dates(self) -> int:
        """T: 1 for land cover of one date, otherwise 2."""
        return 1 if self.task == "land_cover" else 2


class ImageFile(NamedTuple):
    """An image file and the bands to read of it."""

    path: Path
    bands: tuple[int, ...]  # indices from 0
    # of the bands, where the file may say which are which; see datasets.bands.bands_in_file
    names: tuple[str, ...] = ()


class Scene(NamedTuple):
    """The files of one place: images of T dates, labels, and the rows in use."""

    name: str  # id
    dates: tuple[tuple[ImageFile, ...], ...]  # of each date one or more files, their bands joined
    labels: tuple[Path, ...] = ()  # as the data set's Labels read them; empty = not labelled
    rows: tuple[int, int] | None = None  # rows in use (start, stop); None = all

    @property
    def images(self) -> tuple[Path, ...]:
        """The first file of each date."""
        return tuple(files[0].path for files in self.dates)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, each once."""
        images = (file.path for files in self.dates for file in files)
        return tuple(dict.fromkeys((*images, *self.labels)))


class Sample(NamedTuple):
    """One tile, or after collation one batch (a leading B; `name` becomes a list).

    Until `utils.structures.to_device`, labels are uint8 (same values) to save memory.
    """

    name: str  # tile id
    images: Tensor  # (T, C, H, W) uint8 or float as read; normalised on the device
    semantic: Tensor  # (T, H, W) int64 in 0..K-1, IGNORE_INDEX where unlabelled; K = 0: (0, H, W)
    change: Tensor  # (H, W) int64: 1 = changed, 0 = unchanged, IGNORE_INDEX where unknown
    valid: Tensor | None = None  # (H, W) bool: all dates have data; None: everywhere; not augmented


def items(batch: Sample, some: slice) -> Sample:
    """Some items of a batch."""
    return Sample(*(None if field is None else field[some] for field in batch))


def label_size(batch: Sample) -> tuple[int, int]:
    """(height, width) of the labels and predictions; images may have another size."""
    return tuple(batch.change.shape[-2:])


class Logits(NamedTuple):
    """The output of every network, in train and eval mode; None: the network has no such head."""

    semantic: Tensor | None = None  # (B, T, K, H, W)
    change: Tensor | None = None  # (B, H, W), > 0 means changed
    aux_semantic: Tensor | None = None  # (B, T, K, H, W), deep supervision; in training only
    aux_change: Tensor | None = None  # (B, H, W) of a supervised gate, > 0 means changed


class Probs(NamedTuple):
    """Probabilities, after softmax or sigmoid."""

    semantic: Tensor | None = None  # (B, T, K, H, W) in 0..1, sums to 1 over K
    change: Tensor | None = None  # (B, H, W) in 0..1 = P(changed)
    gate: Tensor | None = None  # (B, H, W) in 0..1 = P(changed) predicted by a supervised gate


def to_device(batch: Sample, device: torch.device) -> Sample:
    """Moves a batch to the device and converts its labels to int64, as losses require.

    Every batch of a loader must pass through this function before its labels are used.
    """
    return batch._replace(
        images=batch.images.to(device, non_blocking=True),
        semantic=batch.semantic.to(device, non_blocking=True).long(),
        change=batch.change.to(device, non_blocking=True).long(),
    )
