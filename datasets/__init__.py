"""Data sets by name. To add one: a file that ends in its DatasetFunctions, a line here.

The command line reads the table before torch is imported: a data set's file is imported when it is
used.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.structures import Scheme

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from datasets.land_cover import Patch


class LabelFiles(NamedTuple):
    """How predictions are written where the usual palette PNGs are not what is asked for."""

    name: "Callable[[Patch], str]"  # of the file, relative to the folder of the masks
    write: Callable[..., None]  # (path, mask (H, W) of 1..K, scheme, patch)


class DatasetFunctions(NamedTuple):
    """What can be done with a data set."""

    build: "Callable[..., Dataset]"  # (root, part, *, scheme, split, folders, **options)
    check: Callable[..., dict[str, int]]  # (root, parts, *, scheme, ...) -> tiles per part
    scheme: Callable[..., Scheme]  # (root, *, folders, bands)
    labels: LabelFiles | None = None  # of predictions; None: palette PNGs
    zip: Callable[..., int] | None = None  # (path, folder, names) -> files; None: as they are


class DatasetEntry(NamedTuple):
    """What the scripts need to know of a data set."""

    place: str  # module:name of its DatasetFunctions
    root: str  # where it is unless --data-root says otherwise
    task: str  # one of utils.structures.TASKS
    about: str  # one line
    split: str = "every10th"  # unless --split says otherwise
    orient: str = "six"  # unless --orient says otherwise
    scenes: bool = False  # images of any size, predicted in windows
    chooses_bands: bool = False  # --bands picks some of its images'
    indexed: bool = False  # so many files that `build` takes index_dir, where their names are kept
    absent_is_zero: bool = False  # a class that never occurs counts as IoU 0 in its published mIoU
    scheme_options: tuple[str, ...] = ()  # more that `scheme` takes, by name of the flag
    # more that `build` takes for training, likewise, with its usual value
    training_options: Mapping[str, Any] = MappingProxyType({})

    def load(self) -> DatasetFunctions:
        """Its functions."""
        return resolve_name(self.place)


def _sentinel_entry(place: str, root: str, about: str, split: str) -> DatasetEntry:
    return DatasetEntry(
        place,
        root,
        "land_cover",
        about,
        split=split,
        orient="none",
        indexed=True,
        absent_is_zero=True,
        scheme_options=("use_s1", "use_s2hr", "use_s2mr", "use_s2lr", "no_savanna"),
    )


DATASETS = {
    "second": DatasetEntry(
        "datasets.second:SECOND_FUNCTIONS",
        "data/dataset",
        "semantic_change",
        "SECOND / SenseEarth 2020 layout",
    ),
    "demo": DatasetEntry(
        "datasets.demo.tiles:DEMO_FUNCTIONS",
        "data/demo",
        "semantic_change",
        "generated scenes, made on first use",
    ),
    "binary": DatasetEntry(
        "datasets.binary:BINARY_FUNCTIONS",
        "data/dataset",
        "binary_change",
        "folders A B label, images of any size and bands",
        scenes=True,
        chooses_bands=True,
        training_options={"positive_crops": 0.0, "samples_per_image": 1},
    ),
    "rucode": DatasetEntry(
        "datasets.rucode:RUCODE_FUNCTIONS",
        "data",
        "binary_change",
        "8-band composites of two dates, masks",
        split="area",
        orient="turn_flip",
        scenes=True,
        chooses_bands=True,
        training_options={"positive_crops": 0.7, "samples_per_image": 100},
    ),
    "folder": DatasetEntry(
        "datasets.folder:FOLDER_FUNCTIONS",
        "data/dataset",
        "land_cover",
        "folders images labels of one date, classes.yaml",
        chooses_bands=True,
        training_options={"samples_per_image": 1},
    ),
    "naic2020": DatasetEntry(
        "datasets.naic2020:NAIC2020_FUNCTIONS",
        "data",
        "land_cover",
        "annotation lists of NAIC 2020",
        split="official",
        orient="none",
    ),
    "sen12ms": _sentinel_entry(
        "datasets.dfc2020:SEN12MS_FUNCTIONS",
        "data/sen12ms",
        "Sentinel patches with coarse labels",
        "official",
    ),
    "dfc2020": _sentinel_entry(
        "datasets.dfc2020:DFC2020_FUNCTIONS",
        "data/dfc2020",
        "Sentinel patches of the contest DFC2020",
        "every10th",
    ),
    "tiff_dir": _sentinel_entry(
        "datasets.dfc2020:TIFF_DIR_FUNCTIONS",
        "data/tiff_dir",
        "Sentinel patches without labels",
        "every10th",
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


def find_scheme(
    name: str,
    root: Path | str | None = None,
    *,
    folders: Mapping[str, str] | None = None,
    bands: Sequence[str] | None = None,
    flags: Mapping[str, Any] = MappingProxyType({}),
) -> Scheme:
    """What the values of a data set mean; some look at their images for it.

    Args:
        name: a key of DATASETS.
        root: None = the data set's own.
        folders: names in place of the usual ones.
        bands: to read, where that can be chosen.
        flags: of the command line by name; those of `scheme_options` choose bands and classes.

    Raises:
        FileNotFoundError, ValueError: no images, or such bands cannot be had.
    """
    entry = get_entry(name)
    chosen = _scheme_flags(flags)
    _refuse_flags(name, chosen - set(entry.scheme_options))
    chosen = {key: key in chosen for key in entry.scheme_options}
    return entry.load().scheme(root or entry.root, folders=folders, bands=bands, **chosen)


def reads_as_trained(name: str, flags: Mapping[str, Any]) -> bool:
    """Whether a trained network says how images are to be read, not the command line.

    So it is where bands can be chosen and no flag does.

    Args:
        name: a key of DATASETS.
        flags: of the command line by name.
    """
    entry = get_entry(name)
    return bool(
        (entry.chooses_bands and flags.get("bands") is None)
        or (entry.scheme_options and not _scheme_flags(flags))
    )


def _scheme_flags(flags: Mapping[str, Any]) -> set[str]:
    """Those flags that are set and that some data set has for its scheme."""
    known = {key for entry in DATASETS.values() for key in entry.scheme_options}
    return {key for key in known if flags.get(key)}


def _refuse_flags(name: str, flags: Collection[str]) -> None:
    for flag in sorted(flags):
        raise ValueError(f"--dataset {name} has no --{flag.replace('_', '-')}; leave it out")


def build_dataset(
    name: str,
    part: str,
    root: Path | str | None = None,
    *,
    scheme: Scheme | None = None,
    **options,
) -> "Dataset":
    """Builds one part of a data set.

    Args:
        name: a key of DATASETS.
        part: train, val or test.
        root: None = the data set's own.
        scheme: how its images are to be read; None = `find_scheme`'s.
        **options: of its build function, such as split, folders, augment, cache,
            pseudo_label_dir, seed; index_dir matters only where the entry is `indexed`.
    """
    entry = get_entry(name)
    if not entry.indexed:
        options.pop("index_dir", None)
    if entry.task != "semantic_change" and options.pop("pseudo_label_dir", None) is not None:
        raise ValueError(f"--use-pseudo-label is for changed classes, not --dataset {name}")
    if scheme is None:
        scheme = find_scheme(name, root, folders=options.get("folders"))
    return entry.load().build(root or entry.root, part, scheme=scheme, **options)


def check_dataset(
    name: str,
    parts: list[str] | None = None,
    root: Path | str | None = None,
    *,
    scheme: Scheme | None = None,
    **options,
) -> dict[str, int]:
    """Checks the folders of a data set before they are used; tiles per folder.

    Args:
        name: a key of DATASETS.
        parts: folders to check; None = those of train, val and test that are there.
        root: None = the data set's own.
        scheme: how its images are to be read; None = `find_scheme`'s.
        **options: folders, seen, threads, progress; see `datasets.checks.check_pairs`.
    """
    entry = get_entry(name)
    if scheme is None:
        scheme = find_scheme(name, root, folders=options.get("folders"))
    return entry.load().check(root or entry.root, parts, scheme=scheme, **options)


def training_options(name: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """What only some data sets take for training: as the flags say, or its usual values.

    Args:
        name: a key of DATASETS.
        flags: of the command line by name; None = not given.

    Raises:
        ValueError: a flag is given that this data set does not take.
    """
    usual = get_entry(name).training_options
    known = {key for entry in DATASETS.values() for key in entry.training_options}
    given = {key: flags[key] for key in known if flags.get(key) is not None}
    _refuse_flags(name, given.keys() - usual.keys())
    return {**usual, **given}
