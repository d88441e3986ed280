"""Data sets by name. To add one: a file with build, check and scheme functions, a line here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from datasets.binary import binary_scheme, build_binary, check_binary
from datasets.checks import check_pairs
from datasets.dfc2020 import (
    build_dfc2020,
    build_sen12ms,
    build_tiff_dir,
    check_dfc2020,
    check_sen12ms,
    check_tiff_dir,
    dfc_label_name,
    sentinel_scheme,
    write_dfc_label,
)
from datasets.folder import (
    build_folder,
    check_folder,
    folder_mask_name,
    folder_scheme,
    write_folder_mask,
)
from datasets.land_cover import Patch
from datasets.naic2020 import build_naic2020, check_naic2020, naic2020_scheme, zip_naic
from datasets.rucode import build_rucode, check_rucode, rucode_scheme
from datasets.second import build_second
from utils.schemes import SECOND
from utils.structures import Scheme


class LabelFiles(NamedTuple):
    """How predictions are written where the usual palette PNGs are not what is asked for."""

    name: Callable[[Patch], str]  # of the file, relative to the folder of the masks
    write: Callable[..., None]  # (path, mask (H, W) of 1..K, scheme, patch)


class DatasetEntry(NamedTuple):
    """What the scripts need to know of a data set."""

    build: Callable[..., Dataset]  # (root, part, *, scheme, split, folders, **options)
    check: Callable[..., dict[str, int]]  # (root, parts, *, scheme, ...) -> tiles per part
    scheme: Callable[..., Scheme]  # (root, *, folders, bands)
    root: str  # where it is unless --data-root says otherwise
    task: str  # one of utils.structures.TASKS
    about: str  # one line
    split: str = "every10th"  # unless --split says otherwise
    orient: str = "six"  # unless --orient says otherwise
    scenes: bool = False  # images of any size, predicted in windows
    chooses_bands: bool = False  # --bands picks some of its images'
    indexed: bool = False  # so many files that `build` takes index_dir, where their names are kept
    absent_is_zero: bool = False  # a class that never occurs counts as IoU 0 in its published mIoU
    labels: LabelFiles | None = None  # of predictions; None: palette PNGs
    zip: Callable[..., int] | None = None  # (path, folder, names) -> files; None: as they are
    scheme_options: tuple[str, ...] = ()  # more that `scheme` takes, by name of the flag
    # more that `build` takes for training, likewise, with its usual value
    training_options: Mapping[str, Any] = MappingProxyType({})


def _build_second(root: Path | str, part: str, *, scheme: Scheme, **options) -> Dataset:
    return build_second(root, part, **options)


def _check_second(root: Path | str, parts=None, *, scheme: Scheme, **options) -> dict[str, int]:
    return check_pairs(root, scheme.palette, parts, **options)


def _second_scheme(root: Path | str, *, folders=None, bands=None) -> Scheme:
    if bands is not None:
        raise ValueError("--bands: this data set always has red, green and blue; leave it out")
    return SECOND


def _build_demo(root: Path | str, part: str, **options) -> Dataset:
    from datasets.demo import ensure_demo  # itself a script: `python -m datasets.demo`

    ensure_demo(root)
    return _build_second(root, part, **options)


def _check_demo(root: Path | str, parts=None, **options) -> dict[str, int]:
    from datasets.demo import ensure_demo

    ensure_demo(root)
    return _check_second(root, parts, **options)


SENTINEL_GROUPS = ("use_s1", "use_s2hr", "use_s2mr", "use_s2lr", "no_savanna")


def _sentinel_entry(build, check, name: str, root: str, about: str, split: str) -> DatasetEntry:
    return DatasetEntry(
        build,
        check,
        sentinel_scheme,
        root,
        "land_cover",
        about,
        split=split,
        orient="none",
        indexed=True,
        absent_is_zero=True,
        labels=LabelFiles(lambda patch: dfc_label_name(patch.name, name), write_dfc_label),
        scheme_options=SENTINEL_GROUPS,
    )


DATASETS = {
    "second": DatasetEntry(
        _build_second,
        _check_second,
        _second_scheme,
        "data/dataset",
        "semantic_change",
        "SECOND / SenseEarth 2020 layout",
    ),
    "demo": DatasetEntry(
        _build_demo,
        _check_demo,
        _second_scheme,
        "data/demo",
        "semantic_change",
        "generated scenes, made on first use",
    ),
    "binary": DatasetEntry(
        build_binary,
        check_binary,
        binary_scheme,
        "data/dataset",
        "binary_change",
        "folders A B label, images of any size and bands",
        scenes=True,
        chooses_bands=True,
        training_options={"positive_crops": 0.0, "samples_per_image": 1},
    ),
    "rucode": DatasetEntry(
        build_rucode,
        check_rucode,
        rucode_scheme,
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
        build_folder,
        check_folder,
        folder_scheme,
        "data/dataset",
        "land_cover",
        "folders images labels of one date, classes.yaml",
        chooses_bands=True,
        labels=LabelFiles(folder_mask_name, write_folder_mask),
        training_options={"samples_per_image": 1},
    ),
    "naic2020": DatasetEntry(
        build_naic2020,
        check_naic2020,
        naic2020_scheme,
        "data",
        "land_cover",
        "annotation lists of NAIC 2020",
        split="official",
        orient="none",
        zip=zip_naic,
    ),
    "sen12ms": _sentinel_entry(
        build_sen12ms,
        check_sen12ms,
        "sen12ms",
        "data/sen12ms",
        "Sentinel patches with coarse labels",
        "official",
    ),
    "dfc2020": _sentinel_entry(
        build_dfc2020,
        check_dfc2020,
        "dfc2020",
        "data/dfc2020",
        "Sentinel patches of the contest DFC2020",
        "every10th",
    ),
    "tiff_dir": _sentinel_entry(
        build_tiff_dir,
        check_tiff_dir,
        "tiff_dir",
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
    return entry.scheme(root or entry.root, folders=folders, bands=bands, **chosen)


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
) -> Dataset:
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
    return entry.build(root or entry.root, part, scheme=scheme, **options)


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
    return entry.check(root or entry.root, parts, scheme=scheme, **options)


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
