"""Data sets of Sentinel patches: SEN12MS, DFC2020, and a folder of TIFFs.

`datasets.sentinel.files` finds their files, `datasets.sentinel.reader` reads them.

Reference: arXiv 2002.08254, which describes the baseline of the contest DFC2020.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.codecs import LabelError
from datasets.entry import DatasetEntry, LabelFiles
from datasets.land_cover import LandCoverDataset, Patch, split_patches
from datasets.layout import DataError, Problem
from datasets.sentinel.files import DFC_SCENES, find_patches
from datasets.sentinel.patch_index import SUFFIX
from datasets.sentinel.reader import (
    SentinelReader,
    open_tiff,
    refuse_bands,
    sibling_name,
    to_dfc_labels,
)
from utils.cli import SWITCH
from utils.rasters.writing import write_with_georeference_of
from utils.schemes import DFC_CLASSES, WHITE, dfc_scheme
from utils.structures import Scheme

# replaces `s2` in the file name of a predicted label
PREDICTED = {"sen12ms": "lc", "dfc2020": "dfc", "tiff_dir": "pred"}
BAND_FLAGS = {
    "use_s1": "read Sentinel-1 (VV, VH)",
    "use_s2hr": "read Sentinel-2 at 10 m (B2 B3 B4 B8)",
    "use_s2mr": "read Sentinel-2 at 20 m (B5 B6 B7 B8A B11 B12)",
    "use_s2lr": "read Sentinel-2 at 60 m (B1 B9 B10)",
}
NOT_CHECKED = "of each folder the first patch was opened; the others are when they are used"


def sentinel_scheme(
    root: Path | str | None = None,
    *,
    folders: Mapping[str, str] | None = None,
    bands: Sequence[str | int] | None = None,
    use_s1: bool = False,
    use_s2hr: bool = False,
    use_s2mr: bool = False,
    use_s2lr: bool = False,
    no_savanna: bool = False,
) -> Scheme:
    """The scheme of the chosen band groups, see `utils.schemes.dfc_scheme`; opens no files.

    Raises:
        ValueError: no group is chosen, or `bands` is given.
    """
    if bands is not None:
        raise ValueError(
            "--bands: Sentinel bands come in groups; pass --use-s1, --use-s2hr, --use-s2mr, "
            "--use-s2lr instead"
        )
    return dfc_scheme(use_s1, use_s2hr, use_s2mr, use_s2lr, savanna=not no_savanna)


def add_band_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the flags that choose bands and classes of Sentinel data."""
    for name, text in BAND_FLAGS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            **SWITCH,
            help=f"sen12ms, dfc2020, tiff_dir: {text}",
        )
    group.add_argument(
        "--no-savanna",
        action="store_true",
        help="sen12ms, dfc2020, tiff_dir: leave that class out, 9 remain",
    )


def dfc_label_name(name: str, dataset: str) -> str:
    """File name of a predicted label, such as ROIs0000_test_dfc_0_p1.tif.

    Args:
        name: id.
        dataset: sen12ms, dfc2020 or tiff_dir.
    """
    return sibling_name(name, PREDICTED[dataset]) + SUFFIX


def write_dfc_label(path: Path | str, mask: np.ndarray, scheme: Scheme, patch: Patch) -> None:
    """Writes a prediction in the format of DFC2020 labels: a GeoTIFF of 1..10.

    Args:
        path: the file, .tif.
        mask: (H, W) uint8, 1..K = class.
        scheme: K = 10 classes, or 9 without savanna, whose number 3 is then left out.
        patch: source of the CRS and transform.
    """
    labels = to_dfc_labels(mask - np.uint8(1), scheme.num_classes)
    write_with_georeference_of(path, labels, (WHITE, *DFC_CLASSES.values()), patch.images[0])


def build_sen12ms(root: Path | str, part: str, **options) -> LandCoverDataset:
    """Builds train (all scenes not held out) or holdout (also called val and test) of SEN12MS.

    Args:
        root: see `datasets.sentinel.files`.
        part: train, val, test or holdout; with a split other than "official": train or val, both
            subsets of train.
        **options: see `build_patches`.

    Raises:
        FileNotFoundError, ValueError, DataError: see `build_patches`.
    """
    return build_patches("sen12ms", root, part, **options)


def build_dfc2020(root: Path | str, part: str, **options) -> LandCoverDataset:
    """Builds val or test of DFC2020; with a split, subsets of its val. See `build_patches`."""
    return build_patches("dfc2020", root, part, **options)


def build_tiff_dir(root: Path | str, part: str = "test", **options) -> LandCoverDataset:
    """Builds all patches of a folder, for any `part`. See `build_patches`."""
    return build_patches("tiff_dir", root, part, **options)


def build_patches(
    dataset: str,
    root: Path | str,
    part: str,
    *,
    scheme: Scheme,
    split: str | None = None,
    folders: Mapping[str, str] | None = None,
    index_dir: Path | str | None = None,
    **options,
) -> LandCoverDataset:
    """Builds one part of one of the three layouts.

    Args:
        dataset: sen12ms, dfc2020 or tiff_dir.
        root: see `datasets.sentinel.files`.
        part: part of the data set.
        scheme: see `utils.schemes.dfc_scheme`; only the files of its bands must exist.
        split: None or "official": the parts of the data set. Others split its first labelled part,
            see `datasets.splits.split_names`.
        folders: replaces the list of held-out scenes, key holdout_scenes.
        index_dir: folder for the list of file names, see `datasets.sentinel.patch_index`.
        **options: cache, augment, seed, see LandCoverDataset.

    Raises:
        FileNotFoundError: no patches, or no list of held-out scenes.
        DataError: a patch lacks a file.
        ValueError: no such part, no labels to split, or a bad option.
    """
    divided = split not in (None, "official")
    source = {"sen12ms": "train", "dfc2020": "val"}.get(dataset, part) if divided else part
    patches, label, problems = find_patches(
        dataset, root, source, scheme, folders=folders, index_dir=index_dir
    )
    if problems:
        raise DataError(root, problems)
    if split is not None and label is None:
        raise ValueError(f"{root} has no labels; training needs them. Pass another --data-root")
    if divided:
        patches = split_patches(patches, split, part)
    reader = SentinelReader(root, patches, scheme, label)
    return LandCoverDataset(reader, scheme, part=part, path=root, **options)


def check_sen12ms(root: Path | str, parts=None, **options) -> dict[str, int]:
    """Checks train and holdout, see `check_patches`."""
    return check_patches("sen12ms", root, parts or ("train", "holdout"), **options)


def check_dfc2020(root: Path | str, parts=None, **options) -> dict[str, int]:
    """Checks val and test if they exist, see `check_patches`; train is a subset of val."""
    there = [part for part, scene in DFC_SCENES.items() if Path(root, scene).is_dir()]
    parts = ["val" if part == "train" else part for part in parts or there or ["val"]]
    return check_patches("dfc2020", root, parts, **options)


def check_tiff_dir(root: Path | str, parts=None, **options) -> dict[str, int]:
    """Checks all patches, see `check_patches`."""
    return check_patches("tiff_dir", root, parts or ("test",), **options)


def check_patches(
    dataset: str,
    root: Path | str,
    parts: Sequence[str],
    *,
    scheme: Scheme,
    folders: Mapping[str, str] | None = None,
    passed_file: Path | str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Checks that every patch is complete, and opens the first patch of each folder.

    There are about half a million files. Therefore bands, sizes and values of other patches are
    checked when they are read; the error then names the file.

    Args:
        dataset: sen12ms, dfc2020 or tiff_dir.
        root: see `datasets.sentinel.files`.
        parts: parts of the data set.
        scheme: only the files of its bands are required.
        folders: as in `build_patches`.
        passed_file: its folder stores the file names, see `datasets.sentinel.patch_index`.
        threads: not used.
        progress: not used.

    Returns:
        Number of patches per part.

    Raises:
        FileNotFoundError, ValueError: see `build_patches`.
        DataError: lists all problems.
    """
    counts, problems = {}, []
    index_dir = None if passed_file is None else Path(passed_file).parent
    for part in parts:
        patches, label, found = find_patches(
            dataset, root, part, scheme, folders=folders, index_dir=index_dir
        )
        counts[part] = len(patches)
        firsts = {patch.folder: patch for patch in reversed(patches)}
        reader = SentinelReader(root, sorted(firsts.values()), scheme, label)
        problems += found
        problems += [p for i in range(len(firsts)) for p in _check_patch(reader, i)]
    if problems:
        raise DataError(root, list(dict.fromkeys(problems)))
    return counts


def _check_patch(reader: SentinelReader, index: int) -> list[Problem]:
    """Reads the files of one patch; returns the problems found."""
    problems = []
    for kind in reader.bands:
        path = reader.path(index, kind)
        try:
            with open_tiff(path) as file:
                refuse_bands(path, kind, file.count)
        except FileNotFoundError:
            return []  # a missing file is reported when the folder is listed
        except OSError as error:
            problems.append(Problem("unreadable", str(error)))
        except ValueError as error:
            problems.append(Problem("bands", str(error)))
    return problems or _read_problems(reader, index)


def _read_problems(reader: SentinelReader, index: int) -> list[Problem]:
    try:
        reader.read(index)
    except FileNotFoundError:
        return []  # a missing file is reported when the folder is listed
    except LabelError as error:
        return [Problem("label values", str(error))]
    except OSError as error:
        return [Problem("unreadable", str(error))]
    except ValueError as error:
        return [Problem("sizes differ", str(error))]
    return []


def _entry(
    name: str, about: str, build: Callable, check: Callable, split: str = "every10th"
) -> DatasetEntry:
    return DatasetEntry(
        root=f"data/{name}",
        task="land_cover",
        about=about,
        build=build,
        check=check,
        scheme=sentinel_scheme,
        labels=LabelFiles(lambda patch: dfc_label_name(patch.name, name), write_dfc_label),
        split=split,
        orient="none",
        indexed=True,
        absent_is_zero=True,
        scheme_options=(*BAND_FLAGS, "no_savanna"),
    )


SEN12MS_ENTRY = _entry(
    "sen12ms", "Sentinel patches with coarse labels", build_sen12ms, check_sen12ms, "official"
)
DFC2020_ENTRY = _entry(
    "dfc2020", "Sentinel patches of the contest DFC2020", build_dfc2020, check_dfc2020
)
TIFF_DIR_ENTRY = _entry(
    "tiff_dir", "Sentinel patches without labels", build_tiff_dir, check_tiff_dir
)
