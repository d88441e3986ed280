"""Test-time augmentation for as long as a time limit allows."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

from inference.predictor import Predictor
from utils import distributed
from utils.structures import Probs, Sample, label_size

SPARE_S = 20.0  # of a time limit, as published; for small limits a twentieth of it


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


def predict_in_time(
    predictor: Predictor, batches: DataLoader, limit_s: float | None
) -> Iterator[tuple[Sample, Probs]]:
    """Each batch with its probabilities; the predictor's views for as long as time allows.

    Args:
        predictor: with the views to take.
        batches: of this process.
        limit_s: seconds from the start of the process to the very end; None for no limit.
    """
    if limit_s is None:
        yield from ((batch, predictor(batch.images, size=label_size(batch))) for batch in batches)
        return
    spare_s = min(SPARE_S, limit_s / 20)
    budget = TimeBudget(limit_s - spare_s, len(batches), process_start_s())
    augmented = 0
    for k, batch in enumerate(batches):
        plan = budget.begin(k)
        if plan == "both":
            plain_s, _ = _timed(predictor, batch, "none")
            augmented_s, probs = _timed(predictor, batch, predictor.tta)
            budget.compared(plain_s, augmented_s)
        else:
            tta = "none" if plan == "none" else predictor.tta
            probs = predictor(batch.images, tta, label_size(batch))
        augmented += plan != "none"
        yield batch, probs
        budget.end(k)
    if distributed.is_main():
        share = f"{augmented} of {len(batches)} batches with TTA"
        took_s = time.monotonic() - budget.start_s
        over = "; too short even without views" if took_s > limit_s else ""
        tqdm.write(f"--time-limit {limit_s:g} s: {share}, {took_s:.0f} s so far{over}")


def _timed(predictor: Predictor, batch: Sample, tta: str) -> tuple[float, Probs]:
    """Seconds until the probabilities are there, and they."""
    start_s = time.monotonic()
    probs = predictor(batch.images, tta, label_size(batch))
    predictor.wait()
    return time.monotonic() - start_s, probs
