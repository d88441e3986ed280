"""From the name of a data set to what its values mean, its checked files and its samples."""

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

# flags of the command line, by name, that some data set takes for its scheme, or for training
SCHEME_FLAGS = sorted({key for entry in DATASETS.values() for key in entry.scheme_options})
TRAINING_FLAGS = sorted({key for entry in DATASETS.values() for key in entry.training_options})


class Source(NamedTuple):
    """A data set on disk: which one, where it lies, what its folders are called."""

    dataset: str  # a key of DATASETS
    root: Path | str | None = None  # None: its own
    folders: Mapping[str, str] = MappingProxyType({})  # names in place of the usual ones
    label_coding: str | None = None  # of binary labels; None: found out
    outdir: Path | str | None = None  # keeps which files were checked, and the names of many files

    @property
    def entry(self) -> DatasetEntry:
        """Its line of DATASETS."""
        return DATASETS[self.dataset]

    @property
    def place(self) -> Path:
        """Its folder."""
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
        """Looks at every file of some parts, on the first rank; see `check_dataset`."""
        seen = None if self.outdir is None else Path(self.outdir, "data_check.json")
        if distributed.is_main():
            check_dataset(
                self.dataset, list(parts), self.root, scheme=scheme, seen=seen, **self._names()
            )
        distributed.barrier()

    def build(self, part: str, scheme: Scheme, **options: Any) -> Dataset:
        """One part, see `build_dataset`."""
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
        flags: SCHEME_FLAGS by name, which choose bands and classes; what is left out is not set.

    Raises:
        FileNotFoundError, ValueError: no images, or such bands cannot be had.
    """
    entry = get_entry(name)
    chosen = _scheme_flags(flags)
    _refuse_flags(name, chosen - set(entry.scheme_options))
    chosen = {key: key in chosen for key in entry.scheme_options}
    return entry.scheme(root or entry.root, folders=folders, bands=bands, **chosen)


def reads_as_trained(name: str, bands: Sequence[str] | None, flags: Mapping[str, Any]) -> bool:
    """Whether a trained network says how images are to be read, not the command line.

    So it is where bands can be chosen and no flag does.

    Args:
        name: a key of DATASETS.
        bands: --bands.
        flags: SCHEME_FLAGS by name.
    """
    entry = get_entry(name)
    return bool(
        (entry.chooses_bands and bands is None)
        or (entry.scheme_options and not _scheme_flags(flags))
    )


def _scheme_flags(flags: Mapping[str, Any]) -> set[str]:
    """Those flags that are set."""
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
        flags: TRAINING_FLAGS by name; None = not given.

    Raises:
        ValueError: a flag is given that this data set does not take.
    """
    usual = get_entry(name).training_options
    given = {key: value for key, value in flags.items() if value is not None}
    _refuse_flags(name, given.keys() - usual.keys())
    return {**usual, **given}


def common_scheme(
    data: Source,
    validation: Source,
    bands: Sequence[str] | None = None,
    flags: Mapping[str, Any] = MappingProxyType({}),
) -> Scheme:
    """The scheme of the data that train, after a look whether those that validate are alike.

    Raises:
        FileNotFoundError, ValueError: see `find_scheme`; or other classes or bands.
    """
    scheme = data.scheme(bands, flags)
    if validation == data:
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


def check_training_data(data: Source, validation: Source, rule: str, scheme: Scheme) -> None:
    """Looks at every file that training reads.

    Args:
        data: trains.
        validation: validates; `data` if a part of it does, chosen by `rule`.
        rule: --split.
        scheme: of both.

    Raises:
        DataError, FileNotFoundError: a file is bad, or missing.
    """
    parts, entry = ["train"], data.entry
    if validation == data and rule == "official":
        one_folder_each = not entry.scenes and entry.task != "land_cover"
        val = part_path(data.place, "val", data.folders)
        parts = ["train"] if one_folder_each and not val.is_dir() else ["train", "val"]
    data.check(parts, scheme)
    if validation != data:
        try:
            validation.check(["val"], scheme)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--val-dataset, --val-root: {error}") from error


def open_part(
    source: Source, part: str, scheme: Scheme, scored: bool = False, **windows: Any
) -> Dataset:
    """The tiles, or the scenes in windows, of a part that is to be predicted; checked.

    Args:
        source: the data set.
        part: its folder.
        scheme: how they are read.
        scored: labels are needed.
        **windows: tile_px, overlap_px and padding, of data sets of scenes.

    Raises:
        DataError, FileNotFoundError, ValueError: see the data set; or `scored` without labels.
    """
    # before files are opened, or names listed, by every process
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
    """Whether the images of a part are, for want of others, those to train on; None: test."""
    if source.dataset != "folder" or part is not None:
        return False
    return "test" not in find_parts(source.place, source.folders)
