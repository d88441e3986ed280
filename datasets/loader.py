"""Data loaders: composition of global batches, and the share of every rank.

Data sets are indexed with (epoch, index) pairs, so that persistent workers know the epoch for the
augmentation.

Labels of a batch stay uint8, an eighth of the bytes of int64. `utils.structures.to_device` converts
them to int64.
"""

import itertools
import multiprocessing
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.samples import SceneSamples
from datasets.transforms import copy_view
from utils.structures import Sample

PREFETCH = 2  # batches that each worker prefetches
USUAL_PX = 512  # tile side that the evaluation batch size refers to


class EpochBatches(Sampler):
    """Shuffled batches of one rank; global batches do not depend on the number of ranks.

    The order of an epoch depends on (seed, epoch) only. Global batch i is the i-th slice of it;
    rank r takes the tiles [r::world] of it. An incomplete last batch is dropped.

    Args:
        num_tiles: tiles of the data set.
        batch_size: tiles of a global batch, all ranks together.
        seed: at least 0.
        rank: rank of this process, 0..world-1.
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
        """Sets the epoch of the next iteration, and its first batch `start_step` (0-based)."""
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        """Batches of a whole epoch, independent of `start_step`."""
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
        seed: seed of the order.
        rank: rank of this process, 0..world-1.
        world: number of processes.
        num_workers: persistent worker processes, or threads if the data set has a cache; 0 reads
            in the calling process.
        pin_memory: use page-locked memory; None = if there is a CUDA device.

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
    threads: bool = False,
) -> DataLoader:
    """Batches of every tile once, in order; rank r reads the tiles [r::world], without padding.

    If the data set has `tile_sizes`, all tiles of a batch have the same size, and a batch holds
    fewer tiles larger than USUAL_PX, to limit its memory.

    Args:
        dataset: indexed with (epoch, index).
        batch_size: tiles of USUAL_PX per batch, all ranks together; each rank reads its share, at
            least 1.
        indices: indices to read, in order; None reads all.
        rank: rank of this process, 0..world-1.
        world: number of processes; ranks may get different numbers of batches, or none.
        num_workers: worker processes or threads, see `train_loader`; at most one per batch. With 0
            workers or a single batch, the calling process reads.
        pin_memory: use page-locked memory; None = if there is a CUDA device.
        threads: workers are threads.

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
    batches = [list(batch) for size, run in runs for batch in _batched(run, _largest(share, size))]
    # with a single batch, nothing can be read in parallel
    processes = min(num_workers, len(batches)) if len(batches) > 1 else 0
    return _loader(dataset, batches, processes, pin_memory, threads)


class ThreadedLoader(DataLoader):
    """A DataLoader with threads as workers, for cached tiles that only need to be copied.

    Worker processes would copy each batch to newly allocated shared memory. Clearing those pages
    takes the kernel several times as long as the copy.

    Args:
        dataset: must be thread-safe.
        batches: lists of keys of the data set.
        num_threads: at least 1.
        pin_memory: allocate batches in page-locked memory.
    """

    def __init__(self, dataset: Dataset, batches: Sampler, num_threads: int, pin_memory: bool):
        join = partial(collate, pin_memory=pin_memory)
        super().__init__(dataset, batch_sampler=batches, collate_fn=join)
        self.num_threads = num_threads

    def __iter__(self) -> Iterator[Sample]:
        keys = iter(self.batch_sampler)
        with ThreadPoolExecutor(self.num_threads) as pool:
            ahead = deque()
            try:
                for count in itertools.chain([self.num_threads * PREFETCH], itertools.repeat(1)):
                    ahead.extend(pool.submit(self._make, k) for k in itertools.islice(keys, count))
                    if not ahead:
                        return
                    yield ahead.popleft().result()
            finally:
                for batch in ahead:
                    batch.cancel()

    def _make(self, keys: list) -> Sample:
        return self.collate_fn(self.dataset.__getitems__(keys))


def collate(samples: Sequence[Sample], pin_memory: bool = False) -> Sample:
    """Stacks Samples to one Sample with a leading axis B.

    Args:
        samples: Samples of numpy arrays, which may be views, or of tensors.
        pin_memory: allocate the batch in page-locked memory.

    Returns:
        A Sample whose `name` is a list and whose other fields are tensors; dtypes are kept.

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
    names, *fields, valid = zip(*samples, strict=True)
    arrays = [_stack(each, pin_memory) for each in fields]
    if all(one is None for one in valid):
        return Sample(list(names), *arrays)
    everywhere = np.ones(arrays[0].shape[-2:], bool)
    valid = [everywhere if one is None else one for one in valid]
    return Sample(list(names), *arrays, _stack(valid, pin_memory))


def _stack(arrays: Sequence[np.ndarray | torch.Tensor], pin_memory: bool) -> torch.Tensor:
    """Stacks arrays of equal shape; copies each once."""
    arrays = [np.asarray(array) for array in arrays]
    shape = len(arrays), *arrays[0].shape
    out = torch.from_numpy(np.empty(shape, np.result_type(*arrays)))
    if pin_memory:
        out = torch.empty_like(out, pin_memory=True)
    for row, array in zip(out.numpy(), arrays, strict=True):
        copy_view(row, array)
    return out


def example_images(batches: DataLoader, batch_size: int) -> torch.Tensor:
    """Images with the shape and dtype of a batch (B, T, C, H, W): the first sample, repeated."""
    images = batches.dataset[0].images
    return images.expand(batch_size, *images.shape)


def refuse_other_sizes(tiles: SceneSamples) -> None:
    """Raises ValueError if there are several image sizes and no crop size."""
    sizes = set() if tiles.crop_size is not None else set(tiles.tile_sizes or ())
    if len(sizes) > 1:
        listed = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:4])
        raise ValueError(
            f"{tiles.path} has images of {len(sizes)} sizes ({listed} ...), which make no batch; "
            "pass --crop-size"
        )


def _largest(share: int, size: tuple | None) -> int:
    """Tiles per batch for a tile size: (height, width), or a pair (image size, label size)."""
    if size is None:
        return share
    height, width = size[0] if isinstance(size[0], tuple) else size
    return max(1, min(share, share * USUAL_PX**2 // (height * width)))


def _batched(items: Iterable, size: int) -> Iterator[tuple]:
    """itertools.batched, which needs Python 3.12."""
    items = iter(items)
    while batch := tuple(itertools.islice(items, size)):
        yield batch


def _loader(
    dataset: Dataset,
    batches: Iterable,
    num_workers: int,
    pin_memory: bool | None,
    threads: bool = False,
) -> DataLoader:
    pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
    if num_workers and (threads or getattr(dataset, "cache", None) is not None):
        return ThreadedLoader(dataset, batches, num_workers, pin_memory)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context=_start_method() if num_workers else None,
        worker_init_fn=_one_thread,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # otherwise each epoch advances the global RNG of torch
    )


def _start_method() -> str | None:
    """Start method of workers: fork (fastest), except on macOS, whose system libraries break."""
    can_fork = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    return "fork" if can_fork else None


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
