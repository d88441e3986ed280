"""What scripts need to know of a data set, and what can be done with it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from datasets.land_cover import Patch
from utils.structures import Scheme


class LabelFiles(NamedTuple):
    """How predictions are written where the usual palette PNGs are not what is asked for."""

    name: Callable[[Patch], str]  # of the file, relative to the folder of the masks
    write: Callable[..., None]  # (path, mask (H, W) of 1..K, scheme, patch)


class DatasetEntry(NamedTuple):
    """One line of DATASETS."""

    root: str  # where it is unless --data-root says otherwise
    task: str  # one of utils.structures.TASKS
    about: str  # one line
    build: Callable[..., Dataset]  # (root, part, *, scheme, split, folders, **options)
    check: Callable[..., dict[str, int]]  # (root, parts, *, scheme, ...) -> tiles per part
    scheme: Callable[..., Scheme]  # (root, *, folders, bands)
    labels: LabelFiles | None = None  # of predictions; None: palette PNGs
    zip: Callable[..., int] | None = None  # (path, folder, names) -> files; None: as they are
    split: str = "every10th"  # unless --split says otherwise
    orient: str = "six"  # unless --orient says otherwise
    scenes: bool = False  # images of any size, predicted in windows
    chooses_bands: bool = False  # --bands picks some of its images'
    indexed: bool = False  # so many files that `build` takes index_dir, where their names are kept
    absent_is_zero: bool = False  # a class that never occurs counts as IoU 0 in its published mIoU
    scheme_options: tuple[str, ...] = ()  # more that `scheme` takes, by name of the flag
    # more that `build` takes for training, likewise, with its usual value
    training_options: Mapping[str, Any] = MappingProxyType({})
