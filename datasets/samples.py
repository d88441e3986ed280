"""What every data set here is: a list of items that are read, changed at random, made Samples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.cache import Cache
from utils.structures import Sample

Key = int | tuple[int, int]  # index, or (epoch, index)


class SampleDataset(Dataset):
    """Samples by index, or by (epoch, index); who inherits says how one is read.

    Attributes:
        path: where it lies.
        cache: keeps what is decoded; None = files are read anew. With one, several threads may
            read at a time.
        epoch: of plain indices.
    """

    path: Path
    cache: Cache | None = None
    epoch = 0

    def read(self, epoch: int, index: int) -> Sample:
        """Item `index` as in that epoch: numpy arrays, views where they can be; labels uint8."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Epoch of plain indices; the samplers of `datasets.loader` name theirs with each index."""
        self.epoch = epoch

    def __getitem__(self, key: Key) -> Sample:
        """Item `index`, or (epoch, index) to change it as in that epoch; tensors, labels int64."""
        (sample,) = self.__getitems__([key])
        return Sample(
            name=sample.name,
            images=torch.from_numpy(np.require(sample.images, requirements=["C", "W"])),
            semantic=torch.from_numpy(sample.semantic.astype(np.int64, order="C")),
            change=torch.from_numpy(sample.change.astype(np.int64, order="C")),
        )

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Items as they are read, for `datasets.loader.collate`, which copies them once."""
        return [self._read(*(key if isinstance(key, tuple) else (self.epoch, key))) for key in keys]

    def _read(self, epoch: int, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)} in {self.path}")
        return self.read(epoch, index)
