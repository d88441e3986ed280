"""NAIC 2020 "AI + remote sensing": eight classes of land cover, 256 x 256 pixels of 8-bit colours.

`ROOT/train_sub.json`, `ROOT/eval_5000.json` and `ROOT/image_A.json`, lists made by
`python -m datasets.prepare naic2020 annotate` and `split`. Labels are 16-bit PNG of 100, 200, ...,
800. As published, images are resized to fit 512 x 512, and there is no random augmentation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.codecs import LabelError, LabelFile, listed
from datasets.entry import DatasetEntry, Where, refuse_bands
from datasets.labels import Open
from datasets.naic2020.annotations import read_annotations
from datasets.naic2020.submission import read_masks, write_zip
from datasets.reader import Reading
from datasets.resize import Fit
from datasets.scene import Found
from utils.rasters.windows import Window
from utils.schemes import NAIC2020
from utils.structures import Scene, Scheme

# key of --folders -> default list
LISTS = {"train": "train_sub.json", "val": "eval_5000.json", "test": "image_A.json"}
SIDE_PX = 512  # images are resized to fit into this square
CODE = 100  # stored value of the first class, and step to the next


def naic2020_scheme(root: Path | str, where: Where, bands=None) -> Scheme:
    """The scheme: RGB with ImageNet statistics.

    Raises:
        ValueError: `bands` is given.
    """
    refuse_bands(bands)
    return NAIC2020


class NaicLabels(NamedTuple):
    """16-bit labels of 100, 200, ..., 800; see `datasets.labels.Labels`."""

    num_dates: int = 1
    about: str = "classes of one date"

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """See Labels."""
        classes = classes_of_naic(opened(paths[0]), window)
        return np.stack([classes, np.ones_like(classes)])


class NaicLayout:
    """See `datasets.scene.Layout`. Images are resized; images of train also padded to a square.

    Labels of train are resized and padded like their images. Labels of val and test keep the size
    of their files; predictions are resized to that size before they are scored and written.

    Args:
        root: see the top of this file.
        scheme: not used.
        where: `folders` replaces default lists; under root or absolute.
    """

    divided, num_bands = "train", None
    unlabelled = (
        "them; make the list with `python -m datasets.prepare naic2020 annotate IMAGES --mask-dir "
        "DIR`"
    )

    def __init__(self, root: Path | str, scheme: Scheme, where: Where):
        self.root, self.folders = Path(root), where.folders

    def parts(self) -> list[str]:
        """See Layout."""
        return [part for part in LISTS if self._path(part).is_file()] or ["train"]

    def find(self, part: str) -> Found:
        """See Layout; also any other list under root, by its name."""
        path = self._path(part)
        return Found(path, read_annotations(path))

    def reading(self, part: str, source: str) -> Reading:
        """See Layout."""
        return Reading(NaicLabels(), fit=Fit(SIDE_PX, part == "train", part == "train"))

    def to_open(self, scenes: Sequence[Scene]) -> Sequence[Scene]:
        """See Layout."""
        return scenes

    def _path(self, part: str) -> Path:
        return self.root / self.folders.get(part, LISTS.get(part, f"{part}.json"))


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


def classes_of_naic(file: LabelFile, window: Window) -> np.ndarray:
    """Reads a window of a 16-bit label.

    Returns:
        (h, w) uint8 in 0..7, IGNORE_INDEX where the stored value is below 100.

    Raises:
        LabelError: a value of 900 or more, or a label in colours.
        OSError: the file cannot be decoded.
    """
    stored = file.read(window)
    if file.coloured:
        raise LabelError(f"{file.path}: colours, where a label has one band of 100, 200, ..., 800")
    past = (NAIC2020.num_classes + 1) * CODE
    wrong = stored[(stored < 0) | (stored >= past)]
    if wrong.size:
        shown = listed(np.unique(wrong))
        raise LabelError(f"{file.path}: value(s) {shown} where 0..{past - 1} is allowed")
    return naic_classes(stored)


NAIC2020_ENTRY = DatasetEntry(
    root="data",
    task="land_cover",
    about="annotation lists of NAIC 2020",
    layout=NaicLayout,
    scheme=naic2020_scheme,
    folder_keys=tuple(LISTS),
    zip=zip_naic,
    split_rule="official",
    orient="none",
)
