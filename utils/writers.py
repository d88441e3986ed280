"""Result files, and threads that write them while the device goes on predicting."""

import queue
import threading
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from utils.files import atomic_path

Palette = Sequence[tuple[int, int, int]]

# Of a 512 px mask: level 1 takes 0.6 to 1.5 ms for 4 to 20 KiB, zlib's usual 6 two to three times
# as long for a fifth less, 9 up to forty times as long.
PNG_COMPRESS_LEVEL = 1


def palette_bytes(palette: Palette) -> bytes:
    """RGB colours in 0..255 as the flat bytes that a PNG palette holds."""
    return bytes(value for colour in palette for value in colour)


def write_mask(path: Path | str, mask: np.ndarray, palette: Palette) -> None:
    """Writes class indices as a palette PNG: any viewer shows colours, any reader gets indices.

    Args:
        path: the file, .png; parent folders are made.
        mask: (H, W) uint8 in 0..len(palette) - 1.
        palette: RGB colours in 0..255; [0] is "unchanged".

    Raises:
        ValueError: the mask is not (H, W) uint8, or holds a value without a colour.
    """
    mask = np.ascontiguousarray(mask)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"{path}: a mask must be (H, W) uint8, not {mask.shape} {mask.dtype}.")
    if mask.size and mask.max() >= len(palette):
        raise ValueError(
            f"{path}: mask value {mask.max()} has no colour in a palette of {len(palette)}; "
            "the scheme of the data set must list every class."
        )
    image = Image.fromarray(mask)
    image.putpalette(palette_bytes(palette))  # makes it mode P
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", compress_level=PNG_COMPRESS_LEVEL)


def write_probs(
    path: Path | str, semantic: np.ndarray | None = None, change: np.ndarray | None = None
) -> None:
    """Writes the probabilities of one tile as .npz; a key is there only if its array is given.

    Uncompressed: probabilities hardly shrink, and zlib would be slower than the network.

    Args:
        path: the file, .npz.
        semantic: (T, K, H, W) in 0..1, stored as float16.
        change: (H, W) in 0..1 = P(changed), stored as float16.
    """
    arrays = {"semantic": semantic, "change": change}
    arrays = {key: np.asarray(a, dtype=np.float16) for key, a in arrays.items() if a is not None}
    if not arrays:
        raise ValueError(f"{path}: neither semantic nor change probabilities were given.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def zip_files(zip_path: Path | str, folder: Path | str, files: Iterable[str]) -> int:
    """Packs masks for submission; the same masks give the same bytes.

    Args:
        zip_path: the archive to write.
        folder: where they are.
        files: relative to it, such as im1/00001.png; called so in the archive.

    Returns:
        The number of files packed.

    Raises:
        FileNotFoundError: a file is not there.
    """
    files = sorted(files)
    with atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in files:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.create_system = 0o644 << 16, 3  # the same on every system
            archive.writestr(entry, Path(folder, name).read_bytes())
    return len(files)


class BackgroundWriter:
    """Threads that write files while the caller goes on.

    The queue is bounded: a caller faster than the disk waits in `submit` instead of filling the
    memory. The first failure is raised by the next `submit`, or at the end of the `with` block,
    and names the file.
    """

    def __init__(self, threads: int = 2, max_waiting: int = 32):
        self._jobs: queue.Queue = queue.Queue(max_waiting)
        self._failure: tuple[object, Exception] | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, write: Callable, path: Path | str, *args: object) -> None:
        """Runs `write(path, *args)` later; the arguments must not be changed after this.

        Raises:
            OSError: an earlier file could not be written.
            RuntimeError: the writer is closed.
        """
        if not self._threads:
            raise RuntimeError(f"{path}: submitted to a closed BackgroundWriter.")
        self._raise_failure()
        self._jobs.put((write, path, args))

    def close(self) -> None:
        """Waits until all is written.

        Raises:
            OSError: a file could not be written.
        """
        self._finish()
        self._raise_failure()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
        else:
            self._finish()  # keep what is done, and let the caller's own error through

    def _finish(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            write, path, args = job
            try:
                if self._failure is None:
                    write(path, *args)
            except Exception as error:
                self._failure = self._failure or (path, error)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            path, error = self._failure
            if isinstance(error, OSError) and str(error).startswith("could not write"):
                raise error  # says it all
            told = error.__cause__ or error  # rasterio's own only points at its cause
            raise OSError(
                f"could not write {path}: {told}. Is the disk full or read-only? Make room, or "
                "choose another output folder."
            ) from error
