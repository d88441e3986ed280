"""Batches: which tiles make up a global batch, and which of them a rank reads.

A data set here is indexed with (epoch, index) pairs, so that workers which outlive an epoch know
which epoch they augment for.
"""

import itertools
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.structures import Sample

USUAL_PX = 512  # side of the tiles that batch sizes are thought for


class EpochBatches(Sampler):
    """Shuffled batches of one rank; the whole of them is the same for any number of ranks.

    The order of an epoch depends on (seed, epoch) only. Global batch i is cut out of it, and rank r
    takes every `world`-th tile of that from the r-th. Tiles left over at the end are dropped.

    Args:
        num_tiles: tiles of the data set.
        batch_size: tiles of a global batch, all ranks together.
        seed: at least 0.
        rank: this process, 0..world-1.
        world: number of processes.

    Raises:
        ValueError: batch_size is below world, or larger than the data set.
    """

    def __init__(self, num_tiles: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if batch_size < world:
            raise ValueError(
                f"--batch-size {batch_size} counts all {world} process(es) together and must give "
                f"each at least one tile; pass at least {world}"
            )
        if batch_size > num_tiles:
            raise ValueError(
                f"--batch-size {batch_size} is more than the {num_tiles} training tile(s); "
                f"pass at most {num_tiles}"
            )
        self.num_tiles, self.batch_size, self.seed = num_tiles, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch, self.start_step = 0, 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Chooses the next epoch to run through, from batch `start_step` on (0-based)."""
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it starts."""
        return self.num_tiles // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_tiles)
        batches = order[: len(self) * self.batch_size].reshape(-1, self.batch_size)
        for batch in batches[self.start_step :, self.rank :: self.world].tolist():
            yield [(self.epoch, index) for index in batch]


def train_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
    pin_memory: bool | None = None,
) -> DataLoader:
    """Shuffled batches of Samples. Before each epoch: `loader.batch_sampler.set_epoch(epoch)`.

    Args:
        dataset: indexed with (epoch, index).
        batch_size: tiles of a global batch, all ranks together.
        seed: of the order.
        rank: this process, 0..world-1.
        world: number of processes.
        num_workers: processes that decode, kept from epoch to epoch; 0 decodes here.
        pin_memory: None = if there is a CUDA device.

    Raises:
        ValueError: see EpochBatches.
    """
    batches = EpochBatches(len(dataset), batch_size, seed, rank, world)
    return _loader(dataset, batches, num_workers, pin_memory)


def eval_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    indices: Sequence[int] | None = None,
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
    pin_memory: bool | None = None,
) -> DataLoader:
    """Every tile once, in order: rank r reads the tiles [r::world]; none is counted twice.

    Where the data set knows the sizes of its tiles (`tile_sizes`), a batch holds one size only, and
    fewer tiles of more than USUAL_PX, so that it needs no more memory than of that size.

    Args:
        dataset: indexed with (epoch, index).
        batch_size: tiles of USUAL_PX at a time, all ranks together (each takes its share, at
            least 1).
        indices: the tiles to read, in order; None reads all.
        rank: this process, 0..world-1.
        world: number of processes; ranks may get different numbers of batches, or none.
        num_workers: processes that decode, at most one a batch; 0, or a single batch, decodes here.
        pin_memory: None = if there is a CUDA device.

    Raises:
        ValueError: batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"the evaluation batch size {batch_size} must be at least 1")
    share = -(-batch_size // world)
    indices = range(len(dataset)) if indices is None else indices
    keys = [(0, index) for index in indices[rank::world]]
    sizes = getattr(dataset, "tile_sizes", None)
    runs = itertools.groupby(keys, key=lambda key: sizes[key[1]] if sizes else None)
    batches = [list(batch) for size, run in runs for batch in _batched(run, _fewer(share, size))]
    # a single batch has no other beside which it could be read
    processes = min(num_workers, len(batches)) if len(batches) > 1 else 0
    return _loader(dataset, batches, processes, pin_memory)


def collate(samples: Sequence[Sample]) -> Sample:
    """Samples -> one Sample with a leading B; `name` becomes a list.

    Raises:
        ValueError: the tiles differ in size.
    """
    sizes = {sample.name: "x".join(map(str, sample.images.shape[1:])) for sample in samples}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"tiles of different sizes in one batch: {listed} (bands x height x width; a quarter "
            "turn exchanges the sides of an oblong tile). Pass --crop-size to train on equal "
            "squares, or a batch size of 1."
        )
    names, *tensors = zip(*samples, strict=True)
    return Sample(list(names), *(torch.stack(values) for values in tensors))


def _fewer(share: int, size: tuple | None) -> int:
    """Tiles of a size at a time; `size` is (height, width), or a pair of those, image's first."""
    if size is None:
        return share
    height, width = size[0] if isinstance(size[0], tuple) else size
    return max(1, min(share, share * USUAL_PX**2 // (height * width)))


def _batched(items: Iterable, size: int) -> Iterator[tuple]:
    """itertools.batched, which Python has from 3.12 on."""
    items = iter(items)
    while batch := tuple(itertools.islice(items, size)):
        yield batch


def _loader(dataset, batches, num_workers: int, pin_memory: bool | None) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context=_start_method() if num_workers else None,
        worker_init_fn=_one_thread,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        generator=torch.Generator(),  # else each epoch draws from the global state of torch
    )


def _start_method() -> str | None:
    """Fork shares the RAM cache; macOS has it but its system libraries do not bear it."""
    can_fork = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    return "fork" if can_fork else None


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
