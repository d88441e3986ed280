"""Caches of decoded tiles, in shared memory of a machine or in one file.

Both store the arrays of all tiles one after another in one block of bytes. Workers and ranks read
from it without a copy of their own.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from utils import distributed
from utils.files import atomic_path

GIB = 2**30
KINDS = ("ram", "disk")
VERSION = 2  # of the file offsets and of the decoding; increasing it invalidates old files
Arrays = Sequence[np.ndarray]


class Cache(Protocol):
    """Arrays of tiles by index."""

    def fetch(self, index: int, read: Callable[[], Arrays]) -> tuple[np.ndarray, ...]:
        """Read-only arrays of a tile; calls `read` if they are not cached yet."""


class BlockOffsets:
    """Offsets of the arrays of every tile in a block of bytes.

    Args:
        shapes: shapes of the arrays of every tile.
        dtypes: dtypes of the arrays of every tile; None = all uint8.

    Attributes:
        nbytes: size of all tiles in bytes.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[tuple[int, ...]]],
        dtypes: Sequence[Sequence[np.dtype]] | None = None,
    ):
        self.shapes = shapes
        self.dtypes = dtypes or [[np.dtype(np.uint8)] * len(tile) for tile in shapes]
        sizes = [
            sum(prod(shape) * dtype.itemsize for shape, dtype in zip(*tile, strict=True))
            for tile in zip(shapes, self.dtypes, strict=True)
        ]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self.nbytes = self._starts[-1]

    def __len__(self) -> int:
        return len(self.shapes)

    def views(self, block: np.ndarray, index: int) -> tuple[np.ndarray, ...]:
        """Views of the arrays of a tile in a block (nbytes,) uint8."""
        start, views = self._starts[index], []
        for shape, dtype in zip(self.shapes[index], self.dtypes[index], strict=True):
            nbytes = prod(shape) * dtype.itemsize
            views.append(block[start : start + nbytes].view(dtype).reshape(shape))
            start += nbytes
        return tuple(views)

    def write(self, block: np.ndarray, index: int, arrays: Arrays) -> None:
        """Copies the arrays of a tile into a block.

        Raises:
            ValueError: shapes differ from `shapes`.
        """
        views = self.views(block, index)
        if [array.shape for array in arrays] != [view.shape for view in views]:
            raise ValueError(
                f"tile {index} has arrays of {[array.shape for array in arrays]}, announced "
                f"were {[view.shape for view in views]}; its files disagree or were replaced "
                "during the run. Start again, or leave out --cache."
            )
        for view, array in zip(views, arrays, strict=True):
            view[...] = array


class RamCache:
    """Tiles in shared memory, each decoded on first use.

    All workers and ranks of a machine share one copy; /dev/shm does not limit its size. A tile is
    marked as filled after all its bytes are written. If two workers decode the same tile at once,
    both write the same bytes.

    Args:
        offsets: offsets of the tiles.

    Raises:
        MemoryError: not enough free memory.
    """

    def __init__(self, offsets: BlockOffsets):
        self.offsets = offsets
        self.nbytes = len(offsets) + offsets.nbytes  # one mark per tile comes first
        _require_memory(self.nbytes)
        block = np.frombuffer(distributed.shared_memory(max(1, self.nbytes)), np.uint8)
        self._marks, self._block = block[: len(offsets)], block[len(offsets) :]

    @property
    def num_filled(self) -> int:
        """Number of tiles decoded so far by all workers and ranks."""
        return int(self._marks.sum())

    def fetch(self, index: int, read: Callable[[], Arrays]) -> tuple[np.ndarray, ...]:
        """See Cache.

        Raises:
            ValueError: `read` returns shapes other than those of the offsets.
        """
        if not self._marks[index]:
            self.offsets.write(self._block, index, read())
            self._marks[index] = 1
        return _read_only(self.offsets.views(self._block, index))

    def __reduce__(self):
        raise RuntimeError(
            "--cache ram cannot be sent to another process; read it in threads, as "
            "datasets.loader does, or take --cache disk"
        )


class DiskCache:
    """Tiles in one memory-mapped file, shared by all ranks and by later runs.

    The file name is a hash of everything that the contents depend on, so another data set or
    changed files get another file. It is built under a temporary name and renamed when complete;
    an interrupted build is started again.

    Args:
        path: path of the file, see `disk_path`.
        offsets: offsets of the tiles.
        read: decodes a tile by its index; must be thread-safe if `threads` is not 1.
        threads: number of decoding threads; None = one per core.

    Raises:
        OSError: the disk is full or not writable.
    """

    def __init__(
        self,
        path: Path,
        offsets: BlockOffsets,
        read: Callable[[int], Arrays],
        threads: int | None = None,
    ):
        self.path, self.offsets = path, offsets
        if distributed.is_first_of_machine() and not _is_whole(path, offsets.nbytes):
            _build(path, offsets, read, threads)
        distributed.barrier()
        self._block = _mapped(path, offsets.nbytes)

    def fetch(self, index: int, read: Callable[[], Arrays]) -> tuple[np.ndarray, ...]:
        """See Cache; `read` is never called."""
        return _read_only(self.offsets.views(self._block, index))

    def __reduce__(self):
        return _reopen, (self.path, self.offsets)


def make_cache(
    kind: str | None,
    offsets: Callable[[], BlockOffsets],
    read: Callable[[int], Arrays],
    files: Callable[[], Iterable[Path]],
    *,
    settings: object,
    folder: Path | str | None = None,
    threads: int | None = None,
) -> Cache | None:
    """Makes the cache of --cache; returns None if `kind` is None.

    Args:
        kind: one of KINDS, or None.
        offsets: returns the offsets of the tiles (opens every file).
        read: decodes a tile by its index.
        files: returns all files that the tiles are decoded from.
        settings: what the arrays depend on besides the files; compared by repr.
        folder: folder of a disk cache (--cache-dir).
        threads: number of decoding threads of a disk cache; None = one per core.

    Raises:
        ValueError: an unknown kind.
        MemoryError, OSError: see RamCache, DiskCache.
    """
    if kind is None:
        return None
    if kind not in KINDS:
        raise ValueError(f"--cache {kind!r} is not known; choose {' or '.join(KINDS)}")
    if kind == "ram":
        return RamCache(offsets())
    planned = offsets()
    path = disk_path(folder or "data/cache", planned, files(), settings)
    return DiskCache(path, planned, read, threads)


def disk_path(
    folder: Path | str, offsets: BlockOffsets, files: Iterable[Path], settings: object = None
) -> Path:
    """Path of a disk cache: a hash of offsets, settings, and the name, size and time of all files.

    Raises:
        OSError: a file does not exist.
    """
    digest = hashlib.sha256(f"{VERSION} {offsets.shapes} {offsets.dtypes} {settings!r}".encode())
    for path in files:
        stat = path.stat()
        digest.update(json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns]).encode())
    return Path(folder) / f"{digest.hexdigest()[:24]}.tiles"


def _build(
    path: Path, offsets: BlockOffsets, read: Callable[[int], Arrays], threads: int | None
) -> None:
    """Decodes all tiles into the file."""
    try:
        with atomic_path(path) as temporary:
            memory = _reserved(temporary, offsets.nbytes)
            block = np.frombuffer(memory, np.uint8)

            def fill(index: int) -> None:
                offsets.write(block, index, read(index))

            with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
                filled = pool.map(fill, range(len(offsets)))
                for _ in tqdm(filled, total=len(offsets), unit="tile", desc=f"caching in {path}"):
                    pass
            memory.flush()
    except OSError as error:
        raise OSError(
            f"could not write {path} ({error.strerror or error}): --cache disk needs "
            f"{offsets.nbytes / GIB:.2f} GiB there. Make room, name another folder with "
            "--cache-dir, or leave it out."
        ) from error


def _reserved(path: Path, nbytes: int) -> mmap.mmap:
    """Sets the size of a file to `nbytes` and maps it for writing.

    Reserves the disk space first: writing to a mapped file on a full disk kills the process.
    """
    with path.open("r+b") as file:
        file.truncate(nbytes)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
        return mmap.mmap(file.fileno(), nbytes)


def _mapped(path: Path, nbytes: int) -> np.ndarray:
    """Contents of a file, (nbytes,) uint8, mapped read-only."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ), np.uint8)


def _is_whole(path: Path, nbytes: int) -> bool:
    return path.is_file() and path.stat().st_size == nbytes


def _reopen(path: Path, offsets: BlockOffsets) -> DiskCache:
    """Unpickles a DiskCache, for worker processes that are not forked."""
    cache = object.__new__(DiskCache)
    cache.path, cache.offsets = path, offsets
    cache._block = _mapped(path, offsets.nbytes)
    return cache


def _read_only(views: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    for view in views:
        view.flags.writeable = False
    return views


def _require_memory(needed: int) -> None:
    free = available_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"--cache ram needs {needed / GIB:.2f} GiB, and {free / GIB:.2f} GiB are free; "
            "take --cache disk, leave it out, or use fewer tiles"
        )


def available_memory() -> int | None:
    """Free memory in bytes without swapping, at most a container's limit; None if unknown."""
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if not meminfo.is_file():
        return None
    lines = (line.split() for line in meminfo.read_text().splitlines())
    free = next((int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"), None)
    most = limit.read_text().strip() if limit.is_file() else "max"
    return min(free, int(most)) if free is not None and most.isdigit() else free
