"""DatasetEntry: the functions and defaults of a data set that the scripts use."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from datasets.land_cover import Patch
from utils.structures import Scheme


class LabelFiles(NamedTuple):
    """How predictions are written, for data sets that do not use palette PNGs."""

    name: Callable[[Patch], str]  # file name, relative to the folder of the masks
    write: Callable[..., None]  # (path, mask (H, W) of 1..K, scheme, patch)


class DatasetEntry(NamedTuple):
    """One line of DATASETS."""

    root: str  # default of --data-root
    task: str  # one of utils.structures.TASKS
    about: str  # one-line description
    build: Callable[..., Dataset]  # (root, part, *, scheme, split, folders, **options)
    check: Callable[..., dict[str, int]]  # (root, parts, *, scheme, ...) -> tiles per part
    scheme: Callable[..., Scheme]  # (root, *, folders, bands)
    labels: LabelFiles | None = None  # format of predictions; None: palette PNGs
    zip: Callable[..., int] | None = None  # (path, folder, names) -> file count; None: plain zip
    split: str = "every10th"  # default of --split
    orient: str = "six"  # default of --orient
    scenes: bool = False  # images of any size, predicted in windows
    chooses_bands: bool = False  # --bands is supported
    indexed: bool = False  # `build` takes index_dir, a folder that stores the file names
    absent_is_zero: bool = False  # published mIoU: a class that never occurs has IoU 0
    scheme_options: tuple[str, ...] = ()  # further arguments of `scheme`, named like their flags
    # further training arguments of `build`, named like their flags, with default values
    training_options: Mapping[str, Any] = MappingProxyType({})
