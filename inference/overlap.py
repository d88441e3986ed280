"""Letting the host deal with one batch's results while the device computes the next."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Result = TypeVar("Result")


def overlap_transfers(results: Iterator[Result]) -> Iterator[Result]:
    """The same results, each given once the next has been made, that is, asked of the device.

    Where that fails, the one before is given first.
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
    """Results on their way from the device to the host's memory; making one does not wait.

    Args:
        tensors: by name; None stays.
    """

    def __init__(self, **tensors: Tensor | None):
        self._copies = {
            name: None if tensor is None else tensor.to("cpu", non_blocking=True)
            for name, tensor in tensors.items()
        }
        device = next(tensor.device for tensor in tensors.values() if tensor is not None)
        self._arrived = None
        if device.type == "cuda":
            self._arrived = torch.cuda.Event(blocking=True)  # leaves the core to other threads
            self._arrived.record(torch.cuda.current_stream(device))

    def arrays(self) -> dict[str, np.ndarray | None]:
        """Waits for these results, not for what the device was asked to do since."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {name: None if t is None else t.numpy() for name, t in self._copies.items()}
