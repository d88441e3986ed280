"""Monitors the training losses without a device or rank synchronisation at every step."""

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
    """Keeps the losses of recent steps on the device and reads them together.

    Each rank keeps its own share. All ranks must call `read` at the same steps.
    """

    def __init__(self):
        self._steps: list[_Step] = []

    def add(self, step: int, tiles: Sequence[str], terms: LossTerms) -> None:
        """Stores the losses of a step or micro-batch, without synchronising device or ranks.

        Args:
            step: number of the step; micro-batches of the same step are summed.
            tiles: names of the tiles.
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
        """Mean losses since the last call, over all ranks; keys are the fields of LossTerms.

        Raises:
            FloatingPointError: a loss of any rank was not finite; raised on every rank. The message
                names the first such step and the tiles of the ranks concerned.
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
