"""Watching the losses of a training loop without making it wait for the device at every step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from utils.losses import LossTerms


class _Step(NamedTuple):
    step: int
    tiles: Sequence[str]
    names: Sequence[str]  # of the terms
    terms: torch.Tensor  # (terms,) on the device


class LossMonitor:
    """Keeps the losses of the last steps on the device; reads them all at once."""

    def __init__(self):
        self._steps: list[_Step] = []

    def add(self, step: int, tiles: Sequence[str], terms: LossTerms) -> None:
        """Remembers one step. Does not wait for the device."""
        there = {name: t.detach() for name, t in terms._asdict().items() if t is not None}
        self._steps.append(_Step(step, tiles, list(there), torch.stack(list(there.values()))))

    def __len__(self) -> int:
        return len(self._steps)

    def read(self) -> dict[str, float]:
        """Means since the last reading, by the names of LossTerms.

        Raises:
            FloatingPointError: a loss was not finite; names the first such step and its tiles.
        """
        names = self._steps[0].names
        values = torch.stack([s.terms for s in self._steps]).cpu()  # (steps, terms)
        finite = values.isfinite().all(dim=1)
        if not finite.all():
            bad = self._steps[int((~finite).nonzero()[0])]
            losses = dict(zip(names, values[~finite][0].tolist(), strict=True))
            raise FloatingPointError(
                f"the loss is not finite at step {bad.step}: {losses}; "
                f"tiles {', '.join(bad.tiles)}. Look at these tiles, or start a new run with a "
                "lower --lr or --amp fp32; --pretrain-from RUN/last.pth gives it the last good "
                "weights."
            )
        self._steps.clear()
        return dict(zip(names, values.mean(dim=0).tolist(), strict=True))
