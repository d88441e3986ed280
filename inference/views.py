"""The views of test-time augmentation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """One of the eight symmetries of the square: left-right mirror, then quarter turns."""

    mirrored: bool
    quarter_turns: int  # counter-clockwise

    def apply(self, x: Tensor) -> Tensor:
        """Transforms x, (..., H, W)."""
        x = x.flip(-1) if self.mirrored else x
        return x.rot90(self.quarter_turns, (-2, -1)) if self.quarter_turns else x

    def size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """The transformed (height, width); None stays None."""
        return size[::-1] if size and self.quarter_turns % 2 else size

    def undo(self, x: Tensor) -> Tensor:
        """The inverse of `apply`."""
        x = x.rot90(-self.quarter_turns, (-2, -1)) if self.quarter_turns else x
        return x.flip(-1) if self.mirrored else x


TTA_VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(False, 0),),
    # identity, half turn, both mirrors, both quarter turns: the six published views
    "flip_rot": (
        View(False, 0),
        View(True, 2),
        View(True, 0),
        View(False, 3),
        View(False, 1),
        View(False, 2),
    ),
    "d4": tuple(View(mirrored, turns) for mirrored in (False, True) for turns in range(4)),
    "flip_lr": (View(False, 0), View(True, 0)),  # as published for NAIC 2020
    "flips": (View(False, 0), View(True, 2), View(True, 0), View(False, 2)),  # also up-down
}
