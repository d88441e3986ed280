"""Data sets by name. To add one: a file with a build and a check function, a line in DATASETS."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import Dataset

from datasets.checks import check_pairs
from datasets.second import build_second
from utils.schemes import SECOND
from utils.structures import Scheme


class DatasetEntry(NamedTuple):
    """What the scripts need to know of a data set."""

    build: Callable[..., Dataset]  # (root, part, **options)
    check: Callable[..., dict[str, int]]  # (root, parts, **options) -> tiles per part
    root: str  # where it is unless --data-root says otherwise
    scheme: Scheme
    about: str  # one line


def _check_second(root: Path | str, parts=None, **options) -> dict[str, int]:
    return check_pairs(root, SECOND.palette, parts, **options)


def _build_demo(root: Path | str, part: str, **options) -> Dataset:
    from datasets.demo import ensure_demo  # itself a script: `python -m datasets.demo`

    ensure_demo(root)
    return build_second(root, part, **options)


def _check_demo(root: Path | str, parts=None, **options) -> dict[str, int]:
    from datasets.demo import ensure_demo

    ensure_demo(root)
    return _check_second(root, parts, **options)


DATASETS = {
    "second": DatasetEntry(
        build_second, _check_second, "data/dataset", SECOND, "SECOND / SenseEarth 2020 layout"
    ),
    "demo": DatasetEntry(
        _build_demo, _check_demo, "data/demo", SECOND, "generated scenes, made on first use"
    ),
}


def get_entry(name: str) -> DatasetEntry:
    """The entry of a data set.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"--dataset={name!r} is not known; choose from {sorted(DATASETS)}")
    return DATASETS[name]


def build_dataset(name: str, part: str, root: Path | str | None = None, **options) -> Dataset:
    """Builds one part of a data set.

    Args:
        name: a key of DATASETS.
        part: train, val or test.
        root: None = the data set's own.
        **options: of its build function, such as split, folders, augment, cache,
            pseudo_label_dir, seed.
    """
    entry = get_entry(name)
    return entry.build(root or entry.root, part, **options)


def check_dataset(
    name: str, parts: list[str] | None = None, root: Path | str | None = None, **options
) -> dict[str, int]:
    """Checks the folders of a data set before they are used; tiles per folder.

    Args:
        name: a key of DATASETS.
        parts: folders to check; None = those of train, val and test that are there.
        root: None = the data set's own.
        **options: folders, seen, threads, progress; see `datasets.checks.check_pairs`.
    """
    entry = get_entry(name)
    return entry.check(root or entry.root, parts, **options)
