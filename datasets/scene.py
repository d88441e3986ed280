"""Finds the scenes of a data set, and divides them into parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from datasets.layout import DataError, Problem
from datasets.reader import Reading
from datasets.splits import area_rows, area_share, split_names
from utils.rasters.reading import open_raster
from utils.structures import Scene


class Found(NamedTuple):
    """The scenes of one part, found without opening a file."""

    path: Path  # folder or list of the part
    scenes: Sequence[Scene]
    problems: Sequence[Problem] = ()

    def complete(self) -> "Found":
        """Itself.

        Raises:
            DataError: there are problems.
        """
        if self.problems:
            raise DataError(self.path, self.problems)
        return self


class Layout(Protocol):
    """Which files make the scenes of a data set, and what their labels mean.

    Attributes:
        divided: part that --split divides into training and validation.
        unlabelled: remedy if the labels that training needs are missing.
        num_bands: exact number of bands of every image; None = at least those that are read.
    """

    divided: str
    unlabelled: str
    num_bands: int | None

    def parts(self) -> list[str]:
        """Parts that have images, "train" if there are no parts.

        Raises:
            FileNotFoundError: no images.
        """

    def find(self, part: str) -> Found:
        """The scenes of a part. "test" falls back to other parts.

        Raises:
            FileNotFoundError: no images, or no such part.
            ValueError: a bad list.
        """

    def reading(self, part: str, source: str) -> Reading:
        """How the files of a part are read; its scenes are all or some of those of `source`."""

    def to_open(self, scenes: Sequence[Scene]) -> Sequence[Scene]:
        """The scenes whose files are decoded by a check: usually all."""


def source_part(layout: Layout, part: str, split_rule: str | None) -> str:
    """The part of a data set that has the scenes of train or val; see `find_part`."""
    return part if split_rule in (None, "official") else layout.divided


def find_part(layout: Layout, part: str, split_rule: str | None) -> Found:
    """The scenes of a part.

    Args:
        layout: of the data set.
        part: with `split_rule`, train or val; otherwise any part.
        split_rule: None: the part as it is; "official": the same, but it must be there; others: see
            `split_scenes`.

    Raises:
        DataError, FileNotFoundError, ValueError: incomplete scenes, no such part, no labels, or a
            bad rule.
    """
    if split_rule == "official":
        try:
            found = layout.find(part).complete()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--split official: {error}") from error
    else:
        found = layout.find(source_part(layout, part, split_rule)).complete()
    if split_rule is not None and not found.scenes[0].labels:
        raise ValueError(f"{found.path} has no labels; training needs {layout.unlabelled}")
    if split_rule in (None, "official"):
        return found
    return found._replace(scenes=split_scenes(found.scenes, split_rule, part))


def split_scenes(scenes: Sequence[Scene], rule: str, part: str) -> Sequence[Scene]:
    """The training or validation subset of labelled scenes.

    Args:
        scenes: scenes with labels.
        rule: "area" or "area:SHARE": the bottom share of the rows of every scene is for validation,
            the rest for training. Others split by id, see `datasets.splits.split_names`.
        part: train or val.

    Raises:
        ValueError, FileNotFoundError: an unknown rule or part, or a rule that leaves a part empty.
    """
    if part not in ("train", "val"):
        raise ValueError(f"--split {rule} makes train and val, not {part!r}; leave it out")
    share = area_share(rule)
    if share is None:
        names = getattr(scenes, "names", None) or [scene.name for scene in scenes]
        index = {name: i for i, name in enumerate(names)}
        train, val = split_names(list(names), rule)
        chosen = [index[name] for name in (train if part == "train" else val)]
        select = getattr(scenes, "select", lambda indices: [scenes[i] for i in indices])
        return select(chosen)
    found = []
    for scene in scenes:
        rows = area_rows(open_raster(scene.images[0]).height, share)
        found.append(scene._replace(rows=rows[part == "val"]))
    return found
