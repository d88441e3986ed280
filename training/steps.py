"""What happens when in a training loop: batches without end, their parts, and what is due."""

from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import DataLoader

from utils.structures import Sample


def endless(batches: DataLoader, start_step: int) -> Iterator[Sample]:
    """Epoch after epoch of batches, from any step on, always in the same order."""
    steps_per_epoch = len(batches)
    epoch, skip = divmod(start_step, steps_per_epoch)
    while True:
        batches.batch_sampler.set_epoch(epoch, skip)
        yield from batches
        epoch, skip = epoch + 1, 0


def micro_batches(batch: Sample, count: int) -> Iterator[tuple[Sample, bool]]:
    """A batch cut into `count` parts (--accumulate), each with whether it is the last.

    In a row, so that the i-th parts of all ranks are together the i-th part of one process.
    """
    tiles = len(batch.images)
    for i in range(count):
        rows = slice(i * tiles // count, (i + 1) * tiles // count)
        part = batch._replace(**{k: getattr(batch, k)[rows] for k in batch._fields})
        yield part, i == count - 1


class Due(NamedTuple):
    """What happens after a step."""

    done: bool  # it was the last
    logs: bool
    validates: bool
    saves: bool
    keeps: bool


class Calendar(NamedTuple):
    """After which steps what happens; None: never, or where so said once an epoch."""

    total_steps: int
    steps_per_epoch: int
    log_every: int
    val_every: int | None = None  # None: once an epoch
    save_every: int | None = None  # besides once an epoch
    keep_every: int | None = None

    def due(self, step: int) -> Due:
        """What happens after `step` steps."""
        done = step == self.total_steps
        ends_epoch = step % self.steps_per_epoch == 0 or done
        saves = ends_epoch or _is_due(step, self.save_every)
        validates = ends_epoch if self.val_every is None else done or _is_due(step, self.val_every)
        logs = saves or validates or _is_due(step, self.log_every)
        return Due(done, logs, validates, saves, _is_due(step, self.keep_every))


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
