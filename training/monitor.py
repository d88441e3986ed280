"""Watching the losses of a training loop, which waits for no device or rank at every step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from training.losses import LossTerms
from utils import distributed


class _Step(NamedTuple):
    step: int
    tiles: Sequence[str]
    names: Sequence[str]  # of the terms
    terms: torch.Tensor  # (terms,) on the device, this rank's shares


class LossMonitor:
    """Keeps the losses of the last steps on the device; reads them all at once.

    Over several ranks each keeps its own share, and all read at the same steps.
    """

    def __init__(self):
        self._steps: list[_Step] = []

    def add(self, step: int, tiles: Sequence[str], terms: LossTerms) -> None:
        """Remembers one step, or a part of one. Waits neither for the device nor for other ranks.

        Args:
            step: parts of the same step are added up.
            tiles: names.
            terms: this rank's share of the losses.
        """
        there = {name: t.detach() for name, t in terms._asdict().items() if t is not None}
        values = torch.stack(list(there.values()))
        if self._steps and self._steps[-1].step == step:
            before = self._steps.pop()
            tiles, values = [*before.tiles, *tiles], before.terms + values
        self._steps.append(_Step(step, tiles, list(there), values))

    def __len__(self) -> int:
        return len(self._steps)

    def read(self) -> dict[str, float]:
        """Means since the last reading of the losses over all ranks, by the names of LossTerms.

        Raises:
            FloatingPointError: a loss was not finite, on every rank if on one; names the first
                such step and the tiles of the ranks on which it was not.
        """
        names = self._steps[0].names
        shares = torch.stack([s.terms for s in self._steps])  # (steps, terms)
        values = distributed.sum_over_ranks(shares).cpu()
        finite = values.isfinite().all(dim=1)
        if not finite.all():
            first = int((~finite).nonzero()[0])
            self._refuse(self._steps[first], dict(zip(names, values[first].tolist(), strict=True)))
        self._steps.clear()
        return dict(zip(names, values.mean(dim=0).tolist(), strict=True))

    def _refuse(self, bad: _Step, losses: dict[str, float]) -> None:
        own = [] if bad.terms.isfinite().all() else bad.tiles
        everyones = [name for names in distributed.gather(own) for name in names]  # first rank only
        tiles = ", ".join(everyones or own) or "of another process"
        raise FloatingPointError(
            f"the loss is not finite at step {bad.step}: {losses}; tiles {tiles}. Look "
            "at these tiles, or start a new run with a lower --lr or --amp fp32; --pretrain-from "
            "RUN/last.pth gives it the last good weights."
        )
