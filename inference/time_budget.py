"""Test-time augmentation within a time limit (--time-limit)."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

from inference.prediction import predict_batches
from inference.predictor import Predictor
from utils import distributed
from utils.structures import Probs, Sample, label_size

SPARE_S = 20.0  # safety margin, as published; at most a twentieth of the limit


def process_start_s() -> float:
    """Start time of this process (before its imports) on `time.monotonic`'s clock; else now."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        age_s -= int(fields[19]) / os.sysconf("SC_CLK_TCK")  # ticks from boot to start
    except (OSError, AttributeError):  # not Linux
        age_s = 0.0
    return time.monotonic() - age_s


class TimeBudget:
    """Decides batch by batch whether to augment, by the contest winner's rule.

    The first fifth of the batches is augmented, and the last of these is timed. The next batch
    runs with and without augmentation. The two costs per batch give the number of batches that
    can still be augmented within the limit. A batch that begins after the limit is not augmented.

    Args:
        limit_s: seconds from `start_s` to the end of the last batch.
        num_batches: N, of this process.
        start_s: start of the time limit, in seconds of `clock`.
        clock: returns monotonic seconds.

    Reference: SenseEarth 2020 contest, 1st place; edge cases are corrected: fewer than five
    batches, equal costs, and the batch predicted twice counts once.
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
        """The plan for batch k (0-based): "tta", "none", or "both" (then call `compared`)."""
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
        """Records the network's seconds for the "both" batch, without and with augmentation."""
        self._difference_s = augmented_s - plain_s

    def end(self, k: int) -> None:
        """To be called after batch k has been predicted and written."""
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
    """Yields each batch with its probabilities, augmented while the time limit allows.

    Args:
        predictor: its `tta` is used for the augmented batches.
        batches: of this process.
        limit_s: seconds from the start of the process to its end; None for no limit.
    """
    if limit_s is None:
        yield from predict_batches(predictor, batches)
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
    """Seconds until the device has computed the probabilities, and the probabilities."""
    start_s = time.monotonic()
    probs = predictor(batch.images, tta, label_size(batch))
    predictor.wait()
    return time.monotonic() - start_s, probs
