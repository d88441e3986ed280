"""Writes files in background threads, while the device continues to predict."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path


class BackgroundWriter:
    """Threads that write files while the caller continues.

    The queue is bounded: if the disk is slower than the caller, `submit` waits, so that memory does
    not fill up. The first failure is raised by the next `submit`, or at the end of the `with`
    block; the error names the file.
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
            self._finish()  # write what was submitted; the caller's error is raised

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
                raise error  # the message is already complete
            cause = error.__cause__ or error  # rasterio puts the reason into the cause
            raise OSError(
                f"could not write {path}: {cause}. Is the disk full or read-only? Make room, or "
                "choose another output folder."
            ) from error
