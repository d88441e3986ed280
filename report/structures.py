"""The data structures of a report: sections with amounts and pictures, and training runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.structures import Scheme


class Amounts(NamedTuple):
    """Areas by from-to transition, or by class for land cover."""

    transitions: np.ndarray | None  # (K, K) from, to; (1, 1) without classes; None: land cover
    classes: np.ndarray | None  # (K,) for land cover
    total: float  # the valid area, changed and unchanged
    unit: str  # "px" or "ha"
    no_data: float = 0.0  # area without data, not in `total`

    @property
    def changed(self) -> float:
        """The changed area; 0 for land cover."""
        return 0.0 if self.transitions is None else float(self.transitions.sum())


class Section(NamedTuple):
    """A section of the page: the tiles of one part, or one map."""

    name: str
    title: str
    count: int  # number of tiles
    pictures: list[dict[str, Any]]  # of the tiles shown, see pictures.picture_data
    figures: list[Path]  # figures of test.py, shown if the images are missing
    amounts: Amounts | None
    metrics: dict[str, Any] | None
    ranked_by: str = ""
    note: str = ""
    pseudo: bool = False  # labels for training, not predictions
    brief: bool = False  # no charts (used for one of many maps)


class TrainingRun(NamedTuple):
    """One training run."""

    name: str
    log: list[dict[str, Any]]  # lines of log.jsonl
    record: dict[str, Any]  # args.json


class Report(NamedTuple):
    """Everything a page shows."""

    folder: Path
    scheme: Scheme
    sections: list[Section]
    runs: list[TrainingRun]
    pseudo: dict[str, Any] | None  # metrics/pseudo_labels.json
    teachers: list[str]
    checkpoints: list[str]
    records: dict[str, dict[str, Any]]  # heading -> options, versions and so on
    threshold: dict[str, Any] | None  # metrics/threshold.json
    maps: bool = False  # the sections are maps of predict.py
    total: Amounts | None = None  # sum over all maps, if there are several


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
