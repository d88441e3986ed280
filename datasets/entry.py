"""DatasetEntry: what a data set declares about itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from datasets.scene import Layout
from utils.structures import Scene, Scheme


class LabelFiles(NamedTuple):
    """How predictions are written, for data sets that do not use palette PNGs."""

    name: Callable[[Scene], str]  # file name, relative to the folder of the masks
    write: Callable[..., None]  # (path, mask (H, W) of 1..K, scheme, scene)


class DatasetEntry(NamedTuple):
    """One line of DATASETS."""

    root: str  # default of --data-root
    task: str  # one of utils.structures.TASKS
    about: str  # one-line description
    layout: Callable[..., Layout]  # (root, scheme, Where) -> its files and labels
    scheme: Callable[..., Scheme]  # (root, where, bands)
    folder_keys: tuple[str, ...]  # keys of --folders
    suffix_keys: tuple[str, ...] = ()  # keys of --suffixes
    make: Callable[[Path | str], None] | None = None  # makes the files on first use
    labels: LabelFiles | None = None  # format of predictions; None: palette PNGs
    zip: Callable[..., int] | None = None  # (path, folder, names) -> file count; None: plain zip
    split_rule: str = "every10th"  # default of --split
    orient: str = "six"  # default of --orient
    whole_px: int | None = None  # default of --whole-px; None: that of SceneSamples
    chooses_bands: bool = False  # --bands is supported
    absent_is_zero: bool = False  # published mIoU: a class that never occurs has IoU 0
    scheme_options: tuple[str, ...] = ()  # further arguments of `scheme`, named like their flags
    # training options of SceneSamples, named like their flags, with default values
    training_options: Mapping[str, Any] = MappingProxyType({"samples_per_image": 1})


class Where(NamedTuple):
    """Names of folders and files of a data set, and codings that the user chose."""

    folders: Mapping[str, str] = MappingProxyType({})  # replaces default names
    suffixes: Mapping[str, str] = MappingProxyType({})  # key -> end of the stems in that folder
    label_coding: str = "auto"  # of change masks, one of datasets.codecs.CODINGS
    index_dir: Path | str | None = None  # folder that stores file names of large data sets

    def class_file(self, root: Path | str) -> Path:
        """The class file of a data set; it need not exist."""
        return Path(root) / self.folders.get("classes", "classes.yaml")


def refuse_bands(bands: object) -> None:
    """Raises ValueError if --bands is given to a data set that does not support it."""
    if bands is not None:
        raise ValueError("--bands: this data set always has red, green and blue; leave it out")
