"""How far training is: the bar on the screen, and the losses in the log."""

from tqdm import tqdm

from training.log import RunLog
from training.steps import Calendar
from utils import distributed
from utils.structures import Scheme


class Progress:
    """Shown and written by the first rank only.

    Args:
        scheme: of the data: a sample is a pair, or a tile.
        log: of the run.
        calendar: of the run.
        step: taken so far.
        batch_size: samples of a step, all ranks together.
    """

    def __init__(self, scheme: Scheme, log: RunLog, calendar: Calendar, step: int, batch_size: int):
        self.log, self.calendar, self.batch_size = log, calendar, batch_size
        self.bar = tqdm(
            total=calendar.total_steps * batch_size,
            initial=step * batch_size,
            unit="pair" if scheme.num_dates == 2 else "tile",
            disable=not distributed.is_main(),
        )

    def advance(self) -> None:
        """One step was taken."""
        self.bar.update(self.batch_size)

    def report(self, step: int, **values: float) -> None:
        """Losses and the learning rate since the last report."""
        self.log.write("train", step, **values)
        self.bar.set_description(f"epoch {-(-step // self.calendar.steps_per_epoch)}")
        self.bar.set_postfix({key: f"{value:.2g}" for key, value in values.items()})

    def close(self) -> None:
        """At the end."""
        self.bar.close()
        self.log.close()
