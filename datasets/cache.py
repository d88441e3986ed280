"""Decoded tiles in memory shared by all workers of a process."""

import mmap
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np

GIB = 2**30


class RamCache:
    """Arrays per tile, read on first use by whichever worker comes first.

    The memory is an anonymous shared map, so forked workers write into the same pages and no shared
    memory file system limits it. A tile is marked as read after it is whole; two workers that
    read the same tile at once write the same bytes.

    Args:
        shapes: for every tile the shapes of its arrays.
        dtypes: for every tile the types of its arrays; None = all uint8.

    Raises:
        MemoryError: it would not fit into the memory that is free now.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[tuple[int, ...]]],
        dtypes: Sequence[Sequence[np.dtype]] | None = None,
    ):
        self._shapes = shapes
        self._dtypes = dtypes or [[np.dtype(np.uint8)] * len(tile) for tile in shapes]
        sizes = [
            sum(prod(shape) * dtype.itemsize for shape, dtype in zip(*tile, strict=True))
            for tile in zip(shapes, self._dtypes, strict=True)
        ]
        self._starts = np.cumsum([len(shapes), *sizes]).tolist()  # the marks come first
        _require_memory(self.nbytes)
        self._bytes = np.frombuffer(mmap.mmap(-1, max(1, self.nbytes)), np.uint8)

    @property
    def nbytes(self) -> int:
        """Memory in bytes once every tile has been read."""
        return self._starts[-1]

    @property
    def num_filled(self) -> int:
        """Tiles read so far, by all workers."""
        return int(self._bytes[: len(self._shapes)].sum())

    def fetch(self, index: int, read: Callable[[], Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
        """Read-only arrays of a tile, from `read()` the first time and from memory after that.

        Raises:
            ValueError: `read` gives other shapes than announced.
        """
        views = self._views(index)
        if not self._bytes[index]:
            arrays = read()
            if [array.shape for array in arrays] != [view.shape for view in views]:
                raise ValueError(
                    f"tile {index} has arrays of {[array.shape for array in arrays]}, announced "
                    f"were {[view.shape for view in views]}; its files disagree or were replaced "
                    "during the run. Start again, or leave out --cache ram."
                )
            for view, array in zip(views, arrays, strict=True):
                view[...] = array
            self._bytes[index] = 1
        for view in views:
            view.flags.writeable = False
        return views

    def _views(self, index: int) -> tuple[np.ndarray, ...]:
        start, views = self._starts[index], []
        for shape, dtype in zip(self._shapes[index], self._dtypes[index], strict=True):
            nbytes = prod(shape) * dtype.itemsize
            views.append(self._bytes[start : start + nbytes].view(dtype).reshape(shape))
            start += nbytes
        return tuple(views)

    def __reduce__(self):
        raise RuntimeError(
            "--cache ram is shared with forked workers only, and this platform starts them "
            "another way; pass --num-workers 0, or leave out --cache ram"
        )


def _require_memory(needed: int) -> None:
    free = available_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"--cache ram needs {needed / GIB:.2f} GiB, and {free / GIB:.2f} GiB are free; "
            "leave it out, or use fewer tiles"
        )


def available_memory() -> int | None:
    """Bytes that can be had without swapping, a container's limit included; None if not told."""
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if not meminfo.is_file():
        return None
    lines = (line.split() for line in meminfo.read_text().splitlines())
    free = next((int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"), None)
    most = limit.read_text().strip() if limit.is_file() else "max"
    return min(free, int(most)) if free is not None and most.isdigit() else free
