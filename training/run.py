"""The files of a training run: log, checkpoints and options."""

import itertools
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from training.log import RunLog
from training.optim import WeightAverage
from training.run_folders import write_options
from utils import distributed
from utils.state_files import load_strictly, read_file, save_checkpoint


class Run:
    """The files of a run: its folder, log, `last.pth`, and the best checkpoint so far.

    Args:
        outdir: the run's folder is `runs/<name>` in it, best checkpoints are in `models`.
        name: of the folder; None: made of the network's name and the time.
        recipe: of the network; its model and backbone name the best checkpoints.
        options: every resolved option, plain values, saved in the folder.
        resume: the `last.pth` of an interrupted run to continue, in that run's folder.
    """

    def __init__(
        self,
        outdir: Path | str,
        name: str | None,
        *,
        recipe: dict[str, Any],
        options: dict[str, Any],
        resume: Path | str | None = None,
    ):
        self.models, self.resume = Path(outdir, "models"), resume
        self.stem = "_".join(filter(None, (recipe["model"], recipe["backbone"])))
        self.recipe, self.options = recipe, options
        self.best_score, self.best_path = -math.inf, None
        self.stale = 0  # validations in a row without a better score, the same on all ranks
        self._superseded: list[str | None] = []  # former best checkpoints, to be deleted
        self.name = name or f"{self.stem}_{time.strftime('%Y%m%d-%H%M%S')}"
        self.folder = Path(resume).parent if resume else Path(outdir, "runs", self.name)
        self.log = RunLog(None)

    def restore(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        ema: WeightAverage | None,
    ) -> int:
        """With `resume`, restores the state of the interrupted run. Writes nothing.

        Returns:
            The number of steps taken so far.

        Raises:
            ValueError: the folder belongs to another run; or last.pth does not fit the options.
        """
        step = None
        if self.resume:
            last = read_file(self.resume)
            load_strictly(network, last["model"], self.resume)
            optimizer.load_state_dict(last["optimizer"])
            scaler.load_state_dict(last["scaler"])
            if ema is not None:
                ema.load_state_dict(last["ema"])
            step, self.name = last["step"], last["run"]
            self.best_score = last["best_score"]
            if last["best_path"] is not None:  # its folder differs if the run was moved
                self.best_path = str(self.models / Path(last["best_path"]).name)
            self.stale = last.get("stale", 0)
        elif (self.folder / "last.pth").exists():
            raise ValueError(
                f"--name {self.name}: {self.folder} holds a run already; choose another name, or "
                "go on with it by --resume"
            )
        return step or 0

    def open(self, step: int) -> None:
        """Creates the folder and the log; a resumed log loses its lines after `step`."""
        if distributed.is_main():
            self.log = RunLog(self.folder, step)
            if not self.resume or self.options["extensions"]:
                write_options(self.folder, self.options)
            print(f"run folder {self.folder}" + (f", from step {step}" if step else ""))
            for start, policy, lr, *_ in self.options["extensions"][-1:]:
                rate = f"{policy} from {lr:g}" if policy else "what it was before"
                unit = "step" if self.options["max_steps"] else "epoch"
                print(f"lengthened: after {unit} {start} the learning rate is {rate}")

    def refuse_complete(self, step: int, total_steps: int, patience: int | None) -> None:
        """Raises ValueError if a resumed run has nothing left to do."""
        if step >= total_steps or self.is_stale(patience):
            raise ValueError(
                f"--resume: {self.folder} is complete after {step} steps; to train on, lengthen it "
                "(--epochs or --max-steps, more than before; not after --early-stop), or start a "
                f"new run with --pretrain-from {self.folder / 'last.pth'}"
            )

    def keep_best(self, network: nn.Module, score: float) -> None:
        """Saves the weights if no earlier score is higher; marks the previous best for deletion."""
        first, better = self.best_score == -math.inf, score > self.best_score
        self.stale = 0 if better else self.stale + 1
        if first or score >= self.best_score:
            self.best_score = -math.inf if math.isnan(score) else score
            if distributed.is_main():
                self._save_best(network, score)

    def is_stale(self, patience: int | None) -> bool:
        """Whether the last `patience` validations brought no better score (None: never)."""
        return patience is not None and self.stale >= patience

    def _save_best(self, network: nn.Module, score: float) -> None:
        self._superseded.append(self.best_path)
        self.best_path = str(self._free_path(score))
        save_checkpoint(
            self.best_path, network.state_dict(), self.recipe, run=self.name, score=score
        )
        tqdm.write(f"best so far, saved as {self.best_path}")

    def save_last(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        ema: WeightAverage | None,
        step: int,
    ) -> None:
        """Writes `last.pth`, which `restore` reads, and deletes superseded best checkpoints."""
        if distributed.is_main():
            save_checkpoint(
                self.folder / "last.pth",
                network.state_dict(),
                self.recipe,
                run=self.name,
                step=step,
                seed=self.options["seed"],
                optimizer=optimizer.state_dict(),
                scaler=scaler.state_dict(),
                ema=None if ema is None else ema.state_dict(),
                best_score=self.best_score,
                stale=self.stale,
                best_path=self.best_path,
            )
            # only now: a run resumed from the previous last.pth would have needed them
            for path in self._superseded:
                if path not in (None, self.best_path):
                    Path(path).unlink(missing_ok=True)
            self._superseded.clear()

    def keep_step(self, network: nn.Module, ema: WeightAverage | None, step: int) -> None:
        """Writes the weights used for validation to `step_<n>.pth`, which is never deleted."""
        if distributed.is_main():
            weights = network.state_dict() if ema is None else ema.state
            path = self.folder / f"step_{step}.pth"
            save_checkpoint(path, weights, self.recipe, run=self.name, step=step)

    def _free_path(self, score: float) -> Path:
        """models/<model>_<backbone>_<score>.pth, numbered if another run uses that name."""
        stem = f"{self.stem}_{100 * score:.2f}"
        for number in itertools.count(1):
            path = self.models / (f"{stem}.pth" if number == 1 else f"{stem}-{number}.pth")
            if not path.exists() or self._is_mine(path):
                return path
        raise AssertionError("count() does not end")

    def _is_mine(self, path: Path) -> bool:
        try:
            return read_file(path).get("run") == self.name
        except ValueError:  # unreadable, so not written by this run
            return False
