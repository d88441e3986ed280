"""Test-time augmentation for as long as a time limit allows."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def process_start_s() -> float:
    """When this process began, its imports included, on `time.monotonic`'s clock; else now."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        age_s -= int(fields[19]) / os.sysconf("SC_CLK_TCK")  # ticks from boot to start
    except (OSError, AttributeError):  # not Linux
        age_s = 0.0
    return time.monotonic() - age_s


class TimeBudget:
    """Decides batch by batch whether to augment, by the contest winner's rule.

    The first fifth of the batches is augmented; the last of these is timed whole. The next batch
    runs both ways. From the two costs per batch follows how many batches may still be augmented
    for all to end in time. A batch that begins after the limit is never augmented.

    Args:
        limit_s: seconds from `start_s` to the end of the last batch.
        num_batches: N, of this process.
        start_s: when the clock began, in `clock`'s seconds.
        clock: seconds, monotonic.

    Reference: SenseEarth 2020 contest, 1st place; with its edge cases mended: fewer than five
    batches, equal costs, and the doubly predicted batch counted once.
    """

    def __init__(
        self,
        limit_s: float,
        num_batches: int,
        start_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limit_s, self.num_batches, self.start_s, self.clock = (
            limit_s,
            num_batches,
            start_s,
            clock,
        )
        self.calibration = max(num_batches // 5, 1)  # C
        self.augmented_until = None  # n*: batch k is augmented if k < n*
        self._began_s = self._augmented_s = 0.0
        self._difference_s = 0.0

    def begin(self, k: int) -> str:
        """Before batch k (0-based): "tta", "none", or "both" (time them, see `compared`)."""
        self._began_s = self.clock()
        late = self._began_s - self.start_s >= self.limit_s
        if late:
            return "none"
        if k < self.calibration:
            return "tta"
        if k == self.calibration:
            return "both"
        if self.augmented_until is None:
            self._decide()
        return "tta" if k < self.augmented_until else "none"

    def compared(self, plain_s: float, augmented_s: float) -> None:
        """Tells what the network took for the "both" batch, without and with augmentation."""
        self._difference_s = augmented_s - plain_s

    def end(self, k: int) -> None:
        """After batch k, its writing included."""
        if k == self.calibration - 1:
            self._augmented_s = self.clock() - self._began_s

    def _decide(self) -> None:
        per_tta, per_plain = self._augmented_s, self._augmented_s - self._difference_s
        if self._difference_s <= 0:  # augmentation costs nothing measurable
            self.augmented_until = float("inf")
            return
        past_s = self.clock() - self.start_s
        left_s = self.limit_s - past_s - per_plain * self.num_batches
        self.augmented_until = (left_s + (self.calibration + 1) * per_tta) / self._difference_s
