"""What a report is made of: parts with their amounts and pictures, and trainings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.structures import Scheme


class Amounts(NamedTuple):
    """What changed into what, or how much there is of each class."""

    transitions: np.ndarray | None  # (K, K) from, to; (1, 1) without classes
    classes: np.ndarray | None  # (K,) of a land cover
    total: float  # the valid area, changed and unchanged
    unit: str  # "px" or "ha"
    no_data: float = 0.0  # beside the valid area

    @property
    def changed(self) -> float:
        """The changed area; 0 of a land cover."""
        return 0.0 if self.transitions is None else float(self.transitions.sum())


class Section(NamedTuple):
    """Tiles of one part, or the map of one scene."""

    name: str
    title: str
    count: int  # tiles there are
    pictures: list[dict[str, Any]]  # of those that are shown, see pictures.picture_data
    figures: list[Path]  # pictures drawn before, where the images are gone
    amounts: Amounts | None
    metrics: dict[str, Any] | None
    ranked_by: str = ""
    note: str = ""
    pseudo: bool = False  # labels for training, not predictions
    brief: bool = False  # without charts: one of many maps


class TrainingRun(NamedTuple):
    """One training."""

    name: str
    log: list[dict[str, Any]]  # lines of log.jsonl
    record: dict[str, Any]  # args.json


class Report(NamedTuple):
    """Everything a page shows."""

    folder: Path
    scheme: Scheme
    parts: list[Section]
    runs: list[TrainingRun]
    pseudo: dict[str, Any] | None  # metrics/pseudo_labels.json
    teachers: list[str]
    checkpoints: list[str]
    records: dict[str, dict[str, Any]]  # heading -> options, versions and so on
    threshold: dict[str, Any] | None  # metrics/threshold.json
    maps: bool = False  # the parts are maps of predict.py
    total: Amounts | None = None  # of all maps, where there are several


def add_up(amounts: Sequence[Amounts]) -> Amounts:
    """The sum of several maps with the same classes and unit."""
    land_cover = amounts[0].transitions is None
    sums = sum(one.classes if land_cover else one.transitions for one in amounts)
    return Amounts(
        None if land_cover else sums,
        sums if land_cover else None,
        sum(one.total for one in amounts),
        amounts[0].unit,
        sum(one.no_data for one in amounts),
    )
