"""Base class of all data sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.cache import Cache
from utils.structures import Sample

Key = int | tuple[int, int]  # index, or (epoch, index)


class SampleDataset(Dataset):
    """Samples by index, or by (epoch, index). Subclasses implement `read`.

    Attributes:
        path: folder or file of the data.
        cache: cache of decoded files; None = files are read every time. With a cache, `read` must
            be thread-safe.
        epoch: epoch used for plain indices.
    """

    path: Path
    cache: Cache | None = None
    epoch = 0

    def read(self, epoch: int, index: int) -> Sample:
        """Reads item `index` of an epoch, augmented: numpy arrays, possibly views; labels uint8."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of plain indices; samplers of `datasets.loader` pass (epoch, index)."""
        self.epoch = epoch

    def __getitem__(self, key: Key) -> Sample:
        """Item `index`, or (epoch, index) with that epoch's augmentation; tensors, labels int64."""
        (sample,) = self.__getitems__([key])
        return Sample(
            name=sample.name,
            images=torch.from_numpy(np.require(sample.images, requirements=["C", "W"])),
            semantic=torch.from_numpy(sample.semantic.astype(np.int64, order="C")),
            change=torch.from_numpy(sample.change.astype(np.int64, order="C")),
        )

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Items as returned by `read`; `datasets.loader.collate` copies them once."""
        return [self._read(*(key if isinstance(key, tuple) else (self.epoch, key))) for key in keys]

    def _read(self, epoch: int, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)} in {self.path}")
        return self.read(epoch, index)
