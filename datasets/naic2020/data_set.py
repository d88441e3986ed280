"""NAIC 2020 "AI + remote sensing": eight classes of land cover, 256 x 256 pixels of 8-bit colours.

`ROOT/train_sub.json`, `ROOT/eval_5000.json` and `ROOT/image_A.json`, lists made by
`python -m datasets.prepare naic2020 annotate` and `split`. Labels are 16-bit PNG of 100, 200, ...,
800. As published, images are resized to fit 512 x 512, and there is no random augmentation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.checks import FoundFiles, check_parts
from datasets.codecs import LabelError, read_stored, refuse_unknown
from datasets.entry import DatasetEntry
from datasets.image_files import FileReader, Fit, check_files
from datasets.land_cover import LandCoverDataset, split_patches
from datasets.naic2020.annotations import read_annotations
from datasets.naic2020.submission import read_masks, write_zip
from utils.schemes import NAIC2020
from utils.structures import Scheme

# key of --folders -> default list
LISTS = {"train": "train_sub.json", "val": "eval_5000.json", "test": "image_A.json"}
SIDE_PX = 512  # images are resized to fit into this square
CODE = 100  # stored value of the first class, and step to the next


def naic2020_scheme(
    root: Path | str | None = None,
    *,
    folders: Mapping[str, str] | None = None,
    bands: Sequence[str | int] | None = None,
) -> Scheme:
    """The scheme: RGB with ImageNet statistics; `root` and `folders` are not used.

    Raises:
        ValueError: `bands` is given.
    """
    if bands is not None:
        raise ValueError("--bands: this data set always has red, green and blue; leave it out")
    return NAIC2020


def build_naic2020(
    root: Path | str,
    part: str,
    *,
    scheme: Scheme = NAIC2020,
    split: str | None = None,
    folders: Mapping[str, str] | None = None,
    size_px: int = SIDE_PX,
    **options,
) -> LandCoverDataset:
    """Builds one part. Images are resized; images of train are also padded to a square.

    Labels of train are resized and padded like their images. Labels of val and test keep the size
    of their files; predictions are resized to that size before they are scored and written.

    Args:
        root: see the top of this file.
        part: train, val or test, or the name of a list under root.
        scheme: classes and normalisation.
        split: None or "official": one list per part; others split the list of train, see
            `datasets.splits.split_names`.
        folders: replaces default lists; keys train, val and test; under root or absolute.
        size_px: side of the square that images are resized to fit into.
        **options: cache, augment, seed, see LandCoverDataset.

    Raises:
        FileNotFoundError: no such list.
        DataError: missing files.
        ValueError: no labels to split or to train on, or a bad option.
    """
    divided = split not in (None, "official")
    path = _list_path(root, "train" if divided else part, folders)
    patches = read_annotations(path)
    if patches[0].label is None and (split is not None or part == "train"):
        raise ValueError(
            f"{path} has no labels; make it with `python -m datasets.prepare naic2020 annotate "
            "IMAGES --mask-dir DIR`"
        )
    if divided:
        patches = split_patches(patches, split, part)
    fit = Fit(size_px, pad=part == "train", labels=part == "train")
    reader = FileReader(patches, scheme, read_naic_label, fit)
    return LandCoverDataset(reader, scheme, part=part, path=path, **options)


def check_naic2020(
    root: Path | str,
    parts: Sequence[str] | None = None,
    *,
    scheme: Scheme = NAIC2020,
    folders: Mapping[str, str] | None = None,
    passed_file: Path | str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Decodes every file of the lists.

    Args:
        root: see the top of this file.
        parts: parts to check; None = those whose list exists.
        scheme: classes and normalisation.
        folders: replaces default lists.
        passed_file: see `datasets.checks.check_pairs`.
        threads: number of threads; None = one per core.
        progress: show a progress bar.

    Returns:
        Number of images per part.

    Raises:
        FileNotFoundError: no such list.
        DataError: lists all files that break a requirement.
    """
    paths = {part: _list_path(root, part, folders) for part in parts or LISTS}
    if parts is None:
        there = {part: path for part, path in paths.items() if path.is_file()}
        paths = there or {"train": paths["train"]}
    found = {
        part: FoundFiles(str(path.resolve()), read_annotations(path), [])
        for part, path in paths.items()
    }
    reader = FileReader([], scheme, read_naic_label)
    return check_parts(
        root,
        found,
        lambda patch: check_files(reader, patch),
        settings=scheme,
        passed_file=passed_file,
        threads=threads,
        progress=progress,
    )


def zip_naic(path: Path | str, folder: Path | str, names: Sequence[str]) -> int:
    """Packs masks in the format of the contest, see `datasets.naic2020.submission.write_zip`.

    Args:
        path: the archive to write.
        folder: folder with masks `im1/<id>.png` of 1..8.
        names: ids, in the order of the list.

    Returns:
        The number of files.
    """
    return write_zip(path, names, read_masks(folder, names))


def naic_classes(stored: np.ndarray) -> np.ndarray:
    """Converts stored values to classes, uint8(value / 100) - 1: 100..800 -> 0..7, 0..99 -> 255."""
    return (stored // CODE).astype(np.uint8) - np.uint8(1)


def read_naic_label(path: Path) -> np.ndarray:
    """Reads a 16-bit label.

    Returns:
        (H, W) uint8 in 0..7, IGNORE_INDEX where the stored value is below 100.

    Raises:
        LabelError: a value of 900 or more, or a label in colours.
        OSError: the file cannot be decoded.
    """
    stored, coded = read_stored(path)
    if coded:
        raise LabelError(f"{path}: colours, where a label has one band of 100, 200, ..., 800")
    num = NAIC2020.num_classes
    past = (num + 1) * CODE
    classes = np.where(stored < past, naic_classes(stored), np.uint8(num))
    refuse_unknown(path, stored, classes, num, f"0..{past - 1}")
    return classes


def _list_path(root: Path | str, part: str, folders: Mapping[str, str] | None) -> Path:
    return Path(root) / (folders or {}).get(part, LISTS.get(part, f"{part}.json"))


NAIC2020_ENTRY = DatasetEntry(
    root="data",
    task="land_cover",
    about="annotation lists of NAIC 2020",
    build=build_naic2020,
    check=check_naic2020,
    scheme=naic2020_scheme,
    zip=zip_naic,
    split="official",
    orient="none",
)
