"""Looks up data sets by name: their scheme, the check of their files, and their samples."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from datasets import DATASETS
from datasets.entry import DatasetEntry
from datasets.folder import find_parts
from datasets.layout import part_path
from utils import distributed
from utils.structures import Scheme

# names of the command-line flags that some data sets use for their scheme or for training
SCHEME_FLAGS = sorted({key for entry in DATASETS.values() for key in entry.scheme_options})
TRAINING_FLAGS = sorted({key for entry in DATASETS.values() for key in entry.training_options})


class Source(NamedTuple):
    """A data set on disk: its name, root folder and folder names."""

    dataset: str  # a key of DATASETS
    root: Path | str | None = None  # None: the default root of the data set
    folders: Mapping[str, str] = MappingProxyType({})  # replaces default folder names
    label_coding: str | None = None  # of binary change labels; None: detected
    outdir: Path | str | None = None  # for data_check.json (passed checks) and patch indices

    @property
    def entry(self) -> DatasetEntry:
        """The entry in DATASETS."""
        return DATASETS[self.dataset]

    @property
    def root_path(self) -> Path:
        """The root folder."""
        return Path(self.root or self.entry.root)

    def scheme(
        self,
        bands: Sequence[str] | None = None,
        flags: Mapping[str, Any] = MappingProxyType({}),
    ) -> Scheme:
        """See `find_scheme`."""
        where = {"folders": self.folders, "bands": bands, "flags": flags}
        return find_scheme(self.dataset, self.root, **where)

    def check(self, parts: Sequence[str], scheme: Scheme) -> None:
        """Checks every file of some parts on rank 0; the other ranks wait. See `check_dataset`."""
        passed_file = None if self.outdir is None else Path(self.outdir, "data_check.json")
        if distributed.is_main():
            check_dataset(
                self.dataset,
                list(parts),
                self.root,
                scheme=scheme,
                passed_file=passed_file,
                **self._names(),
            )
        distributed.barrier()

    def build(self, part: str, scheme: Scheme, **options: Any) -> Dataset:
        """Builds one part, see `build_dataset`."""
        return build_dataset(
            self.dataset,
            part,
            self.root,
            scheme=scheme,
            index_dir=self.outdir,
            **self._names(),
            **options,
        )

    def _names(self) -> dict[str, Any]:
        coding = {} if self.label_coding is None else {"label_coding": self.label_coding}
        return {"folders": self.folders, **coding}


def get_entry(name: str) -> DatasetEntry:
    """The entry of a data set in DATASETS.

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
    """The scheme (bands, classes, normalisation) of a data set; some data sets open an image.

    Args:
        name: a key of DATASETS.
        root: None = the default root of the data set.
        folders: replaces default folder names.
        bands: bands to read, for data sets that support it.
        flags: values of SCHEME_FLAGS by name, which choose bands and classes; missing = not set.

    Raises:
        FileNotFoundError, ValueError: no images, or the bands or flags are not available.
    """
    entry = get_entry(name)
    chosen = _scheme_flags(flags)
    _refuse_flags(name, chosen - set(entry.scheme_options))
    chosen = {key: key in chosen for key in entry.scheme_options}
    return entry.scheme(root or entry.root, folders=folders, bands=bands, **chosen)


def scheme_as_trained(name: str, bands: Sequence[str] | None, flags: Mapping[str, Any]) -> bool:
    """Whether the scheme must come from the checkpoint instead of the command line.

    True if the data set lets the user choose bands and no flag chooses them.

    Args:
        name: a key of DATASETS.
        bands: value of --bands.
        flags: values of SCHEME_FLAGS by name.
    """
    entry = get_entry(name)
    return bool(
        (entry.chooses_bands and bands is None)
        or (entry.scheme_options and not _scheme_flags(flags))
    )


def _scheme_flags(flags: Mapping[str, Any]) -> set[str]:
    """Names of the scheme flags that are set."""
    return {key for key in SCHEME_FLAGS if flags.get(key)}


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
        root: None = the default root of the data set.
        scheme: bands and classes to read; None = result of `find_scheme`.
        **options: options of its build function, such as split, folders, augment, cache,
            pseudo_label_dir, seed; index_dir is dropped unless the entry is `indexed`.
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
    """Checks the files of a data set before use; returns the number of tiles per part.

    Args:
        name: a key of DATASETS.
        parts: parts to check; None = those of train, val and test that exist.
        root: None = the default root of the data set.
        scheme: bands and classes to read; None = result of `find_scheme`.
        **options: folders, passed_file, threads, progress; see `datasets.checks.check_pairs`.
    """
    entry = get_entry(name)
    if scheme is None:
        scheme = find_scheme(name, root, folders=options.get("folders"))
    return entry.check(root or entry.root, parts, scheme=scheme, **options)


def training_options(name: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Training options of a data set: its defaults, overridden by the flags that are given.

    Args:
        name: a key of DATASETS.
        flags: values of TRAINING_FLAGS by name; None = not given.

    Raises:
        ValueError: a flag is given that this data set does not support.
    """
    usual = get_entry(name).training_options
    given = {key: value for key, value in flags.items() if value is not None}
    _refuse_flags(name, given.keys() - usual.keys())
    return {**usual, **given}


def common_scheme(
    data: Source,
    validation: Source | None,
    bands: Sequence[str] | None = None,
    flags: Mapping[str, Any] = MappingProxyType({}),
) -> Scheme:
    """The scheme of the training data, after checking that the validation data match it.

    Args:
        data: training data.
        validation: validation data; None if they are a part of `data`.
        bands: see `find_scheme`.
        flags: see `find_scheme`.

    Raises:
        FileNotFoundError, ValueError: see `find_scheme`; or tasks, classes or bands differ.
    """
    scheme = data.scheme(bands, flags)
    if validation is None:
        return scheme
    name = f"--val-dataset {validation.dataset}"
    try:
        other = validation.scheme(bands, flags)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from error
    for field in ("task", "classes", "bands"):
        if getattr(scheme, field) != getattr(other, field):
            raise ValueError(
                f"{name} has {field} {getattr(other, field)}, --dataset {data.dataset} has "
                f"{getattr(scheme, field)}; choose one alike"
            )
    return scheme


def check_training_data(data: Source, validation: Source | None, rule: str, scheme: Scheme) -> None:
    """Checks every file that training reads.

    Args:
        data: training data.
        validation: validation data; None if `rule` splits off a part of `data`.
        rule: value of --split.
        scheme: scheme of both.

    Raises:
        DataError, FileNotFoundError: a file is bad, or missing.
    """
    parts, entry = ["train"], data.entry
    if validation is None and rule == "official":
        one_folder_each = not entry.scenes and entry.task != "land_cover"
        val = part_path(data.root_path, "val", data.folders)
        parts = ["train"] if one_folder_each and not val.is_dir() else ["train", "val"]
    data.check(parts, scheme)
    if validation is not None:
        try:
            validation.check(["val"], scheme)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--val-dataset, --val-root: {error}") from error


def open_part(
    source: Source, part: str, scheme: Scheme, scored: bool = False, **windows: Any
) -> Dataset:
    """Checks and opens a part for prediction: tiles, or windows of scenes.

    Args:
        source: the data set.
        part: part of the data set.
        scheme: bands and classes to read.
        scored: whether labels are required.
        **windows: tile_px, overlap_px and padding, for data sets of scenes.

    Raises:
        DataError, FileNotFoundError, ValueError: a bad or missing file, or `scored` without labels.
    """
    # check before every process opens files or lists names
    first = source.entry.scenes or source.entry.indexed
    if first:
        source.check([part], scheme)
    tiles = source.build(part, scheme, **windows)
    if scored and not tiles.labelled:
        raise ValueError(f"--score: {tiles.path} has no labels; leave out --score")
    if not first:
        source.check([tiles.part], scheme)
    return tiles


def may_have_trained(source: Source, part: str | None) -> bool:
    """Whether testing falls back to training images; `part` None means the default test part."""
    if source.dataset != "folder" or part is not None:
        return False
    return "test" not in find_parts(source.root_path, source.folders)
