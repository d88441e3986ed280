"""Overlaps the host's work on one batch with the device's work on the next."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Result = TypeVar("Result")


def overlap_transfers(results: Iterator[Result]) -> Iterator[Result]:
    """Yields the same results, each one after the next has been queued on the device.

    If the next one fails, the waiting result is yielded before the error is raised.
    """
    waiting = []
    try:
        for result in results:
            waiting.append(result)
            if len(waiting) > 1:
                yield waiting.pop(0)
    except Exception:
        yield from waiting
        raise
    yield from waiting


class HostCopy:
    """Asynchronous copy of tensors from the device to the host; the constructor does not wait.

    Args:
        tensors: by name; None stays None.
    """

    def __init__(self, **tensors: Tensor | None):
        self._copies = {
            name: None if tensor is None else tensor.to("cpu", non_blocking=True)
            for name, tensor in tensors.items()
        }
        device = next(tensor.device for tensor in tensors.values() if tensor is not None)
        self._arrived = None
        if device.type == "cuda":
            self._arrived = torch.cuda.Event(blocking=True)  # sleeps instead of spinning
            self._arrived.record(torch.cuda.current_stream(device))

    def arrays(self) -> dict[str, np.ndarray | None]:
        """The arrays, by name; waits for this copy, not for work queued later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {name: None if t is None else t.numpy() for name, t in self._copies.items()}
