"""Training progress: the progress bar, and the losses in the log."""

from tqdm import tqdm

from training.log import RunLog
from training.steps import Calendar
from utils import distributed
from utils.structures import Scheme


class Progress:
    """Progress bar and loss log; only the first rank shows and writes them.

    Args:
        scheme: of the data set; its number of dates gives the unit of the bar (pair or tile).
        log: of the run.
        calendar: of the run.
        step: steps taken so far.
        batch_size: samples per step, over all ranks.
    """

    def __init__(self, scheme: Scheme, log: RunLog, calendar: Calendar, step: int, batch_size: int):
        self.log, self.calendar, self.batch_size = log, calendar, batch_size
        self.bar = tqdm(
            total=calendar.total_steps * batch_size,
            initial=step * batch_size,
            unit="pair" if scheme.num_dates == 2 else "tile",
            disable=not distributed.is_main(),
        )

    def advance(self, step: int) -> int:
        """Advances the bar by one step; returns the number of steps so far."""
        self.bar.update(self.batch_size)
        return step + 1

    def report(self, step: int, **values: float) -> None:
        """Logs and shows the losses since the last report, and the learning rate."""
        self.log.write("train", step, **values)
        self.bar.set_description(f"epoch {-(-step // self.calendar.steps_per_epoch)}")
        self.bar.set_postfix({key: f"{value:.2g}" for key, value in values.items()})

    def close(self) -> None:
        """Closes the bar and the log."""
        self.bar.close()
        self.log.close()
