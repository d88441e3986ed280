"""Looks up data sets by name: their scheme, the check of their files, and their samples."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from datasets import DATASETS
from datasets.change_masks import CODINGS
from datasets.checks import check_parts
from datasets.entry import DatasetEntry, Where
from datasets.folders import FolderLayout
from datasets.labels import WithPseudoLabels
from datasets.layout import find_files
from datasets.reader import Reading
from datasets.samples import OVERLAP_PX, TILE_PX, WHOLE_PX, SceneSamples
from datasets.scene import Layout, find_part, source_part
from datasets.second import CLASSES as SECOND_CLASSES
from utils import distributed
from utils.structures import Scene, Scheme

# names of the command-line flags that some data sets use for their scheme or for training
SCHEME_FLAGS = sorted({key for entry in DATASETS.values() for key in entry.scheme_options})
TRAINING_FLAGS = sorted({key for entry in DATASETS.values() for key in entry.training_options})


class Source(NamedTuple):
    """A data set on disk: its name, root folder and folder names."""

    dataset: str  # a key of DATASETS
    root: Path | str | None = None  # None: the default root of the data set
    folders: Mapping[str, str] = MappingProxyType({})  # replaces default folder names
    label_coding: str | None = None  # of change masks; None: detected
    outdir: Path | str | None = None  # for data_check.json (passed checks) and patch indices
    suffixes: Mapping[str, str] = MappingProxyType({})  # ends of file names that are not in ids

    @property
    def entry(self) -> DatasetEntry:
        """The entry in DATASETS."""
        return get_entry(self.dataset)

    @property
    def root_path(self) -> Path:
        """The root folder."""
        return Path(self.root or self.entry.root)

    def refuse_missing(self) -> None:
        """Raises FileNotFoundError if there is no root folder."""
        self._ensure_made()
        if not self.root_path.is_dir():
            raise FileNotFoundError(
                f"there is no folder {self.root_path}; correct --data-root, or --dataset for data "
                "of another layout"
            )

    def scheme(
        self,
        bands: Sequence[str] | None = None,
        flags: Mapping[str, Any] = MappingProxyType({}),
    ) -> Scheme:
        """The scheme (bands, classes, normalisation); some data sets open an image.

        Args:
            bands: bands to read, for data sets that support it.
            flags: values of SCHEME_FLAGS by name, which choose bands and classes; missing = not
                set.

        Raises:
            FileNotFoundError, ValueError: no images, or the bands or flags are not available.
        """
        chosen = _scheme_flags(flags)
        _refuse_flags(self.dataset, chosen - set(self.entry.scheme_options))
        chosen = {key: key in chosen for key in self.entry.scheme_options}
        self._ensure_made()
        return self.entry.scheme(self.root_path, self.where, bands, **chosen)

    def layout(self, scheme: Scheme) -> Layout:
        """Its files, and how they are read."""
        self._ensure_made()
        return self.entry.layout(self.root_path, scheme, self.where)

    def check(
        self,
        parts: Sequence[str] | None,
        scheme: Scheme,
        threads: int | None = None,
        progress: bool = True,
    ) -> dict[str, int]:
        """Checks every file of some parts (None: all) on rank 0; the other ranks wait.

        Args:
            parts: parts to check; None = all that are there.
            scheme: bands and classes to read.
            threads: that decode; None = one per core.
            progress: show a progress bar.

        Returns:
            Number of scenes per part, on rank 0.

        Raises:
            FileNotFoundError: a part has no images.
            DataError: lists all files that break a requirement.
        """
        found: dict[str, int] = {}
        if distributed.is_main():
            passed = None if self.outdir is None else Path(self.outdir, "data_check.json")
            found = check_parts(
                self.layout(scheme), self.root_path, parts, scheme, passed, threads, progress
            )
        distributed.barrier()
        return found

    def build(
        self,
        part: str,
        scheme: Scheme,
        split_rule: str | None = None,
        pseudo_label_dir: Path | str | None = None,
        **options: Any,
    ) -> SceneSamples:
        """Builds one part.

        Args:
            part: with `split_rule`, train or val; otherwise any part.
            scheme: bands and classes to read.
            split_rule: how train and val are divided, see `datasets.scene.find_part`; None: not.
            pseudo_label_dir: folder with `im1/<id>.png` and `im2/<id>.png`, from which classes are
                read; the change still comes from the true labels.
            **options: of SceneSamples.

        Raises:
            DataError, FileNotFoundError, ValueError: see `datasets.scene.find_part`; or the pseudo
                labels are missing.
        """
        layout = self.layout(scheme)
        found = find_part(layout, part, split_rule)
        scenes = found.scenes
        reading = layout.reading(part, source_part(layout, part, split_rule))
        if pseudo_label_dir is not None:
            if self.entry.task != "semantic_change":
                raise ValueError(
                    f"--use-pseudo-label is for classes of two dates, and --dataset "
                    f"{self.dataset} has none; leave it out"
                )
            scenes, reading = _with_pseudo_labels(scenes, reading, Path(pseudo_label_dir), scheme)
        options.setdefault("whole_px", self.entry.whole_px)
        return SceneSamples(scenes, scheme, reading, part=part, path=found.path, **options)

    @property
    def where(self) -> Where:
        """Names and codings that the user chose.

        Raises:
            ValueError: a key or a coding that the data set does not have.
        """
        self._refuse_keys("--folders", self.folders, self.entry.folder_keys)
        self._refuse_keys("--suffixes", self.suffixes, self.entry.suffix_keys)
        coding = self.label_coding or "auto"
        if coding not in CODINGS:
            raise ValueError(f"--label-coding {coding!r}: choose from {', '.join(CODINGS)}")
        return Where(self.folders, self.suffixes, coding, self.outdir)

    def _refuse_keys(self, flag: str, given: Mapping[str, str], known: Sequence[str]) -> None:
        for key in given:
            if key in known:
                continue
            others = [
                name
                for name, entry in DATASETS.items()
                if key in (entry.folder_keys if flag == "--folders" else entry.suffix_keys)
            ]
            hint = f"; {key} is of --dataset {', '.join(others)}" if others else ""
            raise ValueError(
                f"{flag} {key}={given[key]}: --dataset {self.dataset} does not use {key}; its keys "
                f"are {', '.join(known) or 'none'}{hint}"
            )

    def _ensure_made(self) -> None:
        if self.entry.make is not None:
            self.entry.make(self.root_path)


def _with_pseudo_labels(
    scenes: Sequence[Scene], reading: Reading, folder: Path, scheme: Scheme
) -> tuple[list[Scene], Reading]:
    """Scenes with two masks of label.py after their labels.

    Raises:
        FileNotFoundError: a scene has no masks.
    """
    found = [find_files(folder / date) for date in ("im1", "im2")]
    names = [scene.name for scene in scenes]
    missing = [name for name in names if not all(name in paths for paths in found)]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} training tiles have no pseudo label in "
            f"{folder}/im1 and {folder}/im2: {', '.join(missing[:10])}{more}. Run label.py with "
            "the same --data-root and --split, or pass its folder to --use-pseudo-label."
        )
    masks = SECOND_CLASSES._replace(
        names=scheme.classes,
        colours=scheme.palette[1:],
        values=tuple(range(1, scheme.num_classes + 1)),
        unchanged_colour=scheme.palette[0],
    )
    labelled = [
        scene._replace(labels=(*scene.labels, *(paths[scene.name][0] for paths in found)))
        for scene in scenes
    ]
    return labelled, reading._replace(labels=WithPseudoLabels(reading.labels, masks))


def get_entry(name: str) -> DatasetEntry:
    """The entry of a data set in DATASETS.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"--dataset={name!r} is not known; choose from {sorted(DATASETS)}")
    return DATASETS[name]


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
        bands: see `Source.scheme`.
        flags: see `Source.scheme`.

    Raises:
        FileNotFoundError, ValueError: see `Source.scheme`; or tasks, classes or bands differ.
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
    parts = ["train", "val"] if validation is None and rule == "official" else ["train"]
    if "train" not in data.layout(scheme).parts():  # the part that `rule` divides
        parts = [data.layout(scheme).divided]
    data.check(parts, scheme)
    if validation is not None:
        try:
            validation.check(["val"], scheme)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--val-dataset, --val-root: {error}") from error


def window_options(
    entry: DatasetEntry,
    tile_px: int | None = None,
    overlap_px: int | None = None,
    padding: str = "reflect",
    whole_px: int | None = None,
) -> dict[str, Any]:
    """Options of `Source.build` for prediction: which scenes are divided, and into which windows.

    Args:
        entry: of the data set.
        tile_px: side of a window; None: TILE_PX.
        overlap_px: of neighbours; None: OVERLAP_PX, or a quarter of a given `tile_px`.
        padding: see SceneSamples.
        whole_px: longest side of scenes that are not divided; None: that of the data set, but at
            most a given `tile_px`.
    """
    if whole_px is None:
        whole_px = WHOLE_PX if entry.whole_px is None else entry.whole_px
        whole_px = whole_px if tile_px is None else min(whole_px, tile_px)
    if overlap_px is None:
        overlap_px = OVERLAP_PX if tile_px is None else tile_px // 4
    return {
        "tile_px": tile_px or TILE_PX,
        "overlap_px": overlap_px,
        "padding": padding,
        "whole_px": whole_px,
    }


def open_part(
    source: Source, part: str, scheme: Scheme, scored: bool = False, **windows: Any
) -> SceneSamples:
    """Checks and opens a part for prediction.

    Args:
        source: the data set.
        part: part of the data set.
        scheme: bands and classes to read.
        scored: whether labels are required.
        **windows: see `window_options`.

    Raises:
        DataError, FileNotFoundError, ValueError: a bad or missing file, or `scored` without labels.
    """
    source.check([part], scheme)
    tiles = source.build(part, scheme, **windows)
    if scored and not tiles.labelled:
        raise ValueError(f"--score: {tiles.path} has no labels; leave out --score")
    return tiles


def may_have_trained(source: Source, part: str | None, scheme: Scheme) -> bool:
    """Whether testing falls back to training images; `part` None means the default test part."""
    layout = source.layout(scheme)
    return part is None and isinstance(layout, FolderLayout) and layout.has_undivided_test()
