"""Steps of the training loop: endless batches, micro-batches, and when to log, validate, save."""

from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import DataLoader

from utils.structures import Sample, items


def endless(batches: DataLoader, start_step: int) -> Iterator[Sample]:
    """Batches of epoch after epoch, from `start_step` on; the order does not depend on it."""
    steps_per_epoch = len(batches)
    epoch, skip = divmod(start_step, steps_per_epoch)
    while True:
        batches.batch_sampler.set_epoch(epoch, skip)
        yield from batches
        epoch, skip = epoch + 1, 0


def micro_batches(batch: Sample, count: int) -> Iterator[tuple[Sample, bool]]:
    """A batch split into `count` micro-batches (--accumulate), each with whether it is the last.

    Each holds consecutive tiles, so that the i-th micro-batches of all ranks together are the i-th
    micro-batch of a run with one process.
    """
    tiles = len(batch.images)
    for i in range(count):
        rows = slice(i * tiles // count, (i + 1) * tiles // count)
        yield items(batch, rows), i == count - 1


class Due(NamedTuple):
    """The actions due after a step."""

    done: bool  # the step was the last
    logs: bool
    validates: bool
    saves: bool
    keeps: bool


class Calendar(NamedTuple):
    """Intervals, in steps, of logging, validating and saving; None: never, unless noted."""

    total_steps: int
    steps_per_epoch: int
    log_every: int
    val_every: int | None = None  # None: once an epoch
    save_every: int | None = None  # in addition to once an epoch
    keep_every: int | None = None

    def due(self, step: int) -> Due:
        """The actions due after `step` steps."""
        done = step == self.total_steps
        ends_epoch = step % self.steps_per_epoch == 0 or done
        saves = ends_epoch or _is_due(step, self.save_every)
        validates = ends_epoch if self.val_every is None else done or _is_due(step, self.val_every)
        logs = saves or validates or _is_due(step, self.log_every)
        return Due(done, logs, validates, saves, _is_due(step, self.keep_every))


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
