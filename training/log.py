"""The log of a training run, as JSON lines and TensorBoard events."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import atomic_path, make_folder


class RunLog:
    """Writes `log.jsonl` and TensorBoard events into a run's folder.

    Args:
        folder: the run's folder, created if missing; None (other ranks): every method does nothing.
        last_step: of a resumed run, the step it resumes from; log lines after it are dropped.
    """

    def __init__(self, folder: Path | None, last_step: int | None = None):
        self.folder = folder
        self._events = None
        self._first_step = None if last_step is None else last_step + 1
        if folder is None:
            return
        make_folder(folder)
        self.path = folder / "log.jsonl"
        if last_step is not None and self.path.exists():
            _drop_after(self.path, last_step)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Writes one JSON line, and its numbers (except NaN) as TensorBoard scalars."""
        if self.folder is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for key, value in values.items():
            if isinstance(value, (int, float)) and value == value:
                self.events.add_scalar(f"{kind}/{key}", value, step)

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """Writes one picture, (3, H, W) uint8, to TensorBoard."""
        if self.folder is not None:
            self.events.add_image(name, image, step)

    @property
    def events(self):
        """The TensorBoard writer, created on first use because its import is slow."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            # hides events after `last_step`, as `_drop_after` drops the log lines
            self._events = SummaryWriter(str(self.folder), purge_step=self._first_step)
        return self._events

    def close(self) -> None:
        """Flushes and closes the TensorBoard writer."""
        if self._events is not None:
            self._events.close()


def _drop_after(path: Path, last_step: int) -> None:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            keep = json.loads(line)["step"] <= last_step
        except (json.JSONDecodeError, KeyError):  # cut off by the interruption
            keep = False
        if keep:
            lines.append(line)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
