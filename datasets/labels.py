"""What label files mean: classes of each date, and where the land changed.

Labels of two dates come in four styles: classes where the land changed (SECOND), classes
everywhere, the same with a mask of the change, and one map of from-to codes. Land cover has one
label, binary change a mask of the change.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from datasets.change_masks import change_of
from datasets.class_file import FORM, ClassFile
from datasets.codecs import (
    NO_MEANING,
    UNCHANGED,
    ChangeError,
    LabelError,
    LabelFile,
    from_colours,
    listed,
    palette_order,
    refuse_floats,
)
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX

Open = Callable[[Path], LabelFile]  # `datasets.codecs.open_label`, or one that keeps files open


class Labels(Protocol):
    """Decodes the label files of scenes. Equal instances have equal reprs.

    Attributes:
        num_dates: T, dates with classes; 0 for binary change.
        about: what the labels are, in words.
    """

    num_dates: int
    about: str

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """Reads a window inside the labels of a scene.

        Args:
            paths: `labels` of the scene.
            window: in pixels of the labels.
            opened: opens a label file.

        Returns:
            (T + 1, h, w) uint8: classes 0..K-1 of each date, or IGNORE_INDEX; then change, 1 =
            changed, 0 = unchanged, IGNORE_INDEX = unknown.

        Raises:
            LabelError: values without a meaning.
            OSError: a file cannot be decoded.
        """


def classes_of(file: LabelFile, window: Window, classes: ClassFile) -> np.ndarray:
    """Reads a window of a label file that holds indices or colours.

    Args:
        file: the label. A palette file that uses only colours of the classes is read by them.
        window: window inside the label.
        classes: meaning of the values.

    Returns:
        (h, w) uint8: class 0..K-1, IGNORE_INDEX or UNCHANGED.

    Raises:
        LabelError: a value or colour without a meaning.
        OSError: the file cannot be decoded.
    """
    stored = file.read(window)
    if file.coloured:
        if not classes.coloured:
            raise LabelError(f"{file.path}: colours, and classes.yaml names none; write {FORM}")
        return classes.meanings[from_colours(file.path, stored, classes.palette)]
    if file.palette is not None and classes.coloured:
        order = palette_order(file, classes.palette)
        if order is not None:
            meanings = np.append(classes.meanings, np.uint8(NO_MEANING))
            return np.take(np.take(meanings, order, mode="clip"), stored)
    refuse_floats(file)
    table = classes.table()
    inside = stored if stored.dtype.kind == "u" else np.where(stored < 0, 1 << 16, stored)
    if inside.dtype.itemsize > 2:
        table, inside = np.append(table, np.uint8(NO_MEANING)), np.minimum(inside, 1 << 16)
    found = np.take(table, inside)
    bad = found == NO_MEANING
    if file.nodata is not None:
        found[bad & (stored == file.nodata)] = IGNORE_INDEX
        bad = found == NO_MEANING
    if bad.any():
        wrong = listed(np.unique(stored[bad]))
        raise LabelError(f"{file.path}: value(s) {wrong} where {classes.allowed()} is allowed")
    return found


class ChangeLabels(NamedTuple):
    """One mask of the change, for binary change."""

    coding: str  # a key of CHANGE_CODINGS
    threshold: int | None = None  # grey levels from here on are "changed"
    num_dates: int = 0

    @property
    def about(self) -> str:
        """See Labels."""
        if self.threshold is not None:
            return f"change masks, changed from grey level {self.threshold} on"
        return "change masks, " + (
            "0, 1, 255 = not labelled" if self.coding == "01" else self.coding
        )

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """See Labels."""
        return change_of(opened(paths[0]), window, self.coding, self.threshold)[None]


class LandCoverLabels(NamedTuple):
    """One label of one date; every pixel counts as changed, so that masks hold class + 1."""

    classes: ClassFile
    num_dates: int = 1

    @property
    def about(self) -> str:
        """See Labels."""
        return "classes of one date"

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """See Labels."""
        found = classes_of(opened(paths[0]), window, self.classes)
        return np.stack([found, np.ones_like(found)])


class PairLabels(NamedTuple):
    """Classes of both dates: label1, label2, and in the style "dense" perhaps a change mask."""

    classes: ClassFile
    style: str  # "changed": classes only where the land changed; "dense": everywhere
    coding: str = "0255"  # of the change mask
    num_dates: int = 2

    @property
    def about(self) -> str:
        """See Labels."""
        return "classes " + ("where the land changed" if self.style == "changed" else "everywhere")

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """See Labels."""
        files = [opened(path) for path in paths[:2]]
        dates = np.stack([classes_of(file, window, self.classes) for file in files])
        if self.style == "changed":
            change = _where_labelled(dates, paths)
        elif len(paths) > 2:
            change = change_of(opened(paths[2]), window, self.coding, self.classes.threshold)
        else:
            change = (dates[0] != dates[1]).astype(np.uint8)
            change[(dates == IGNORE_INDEX).any(0)] = IGNORE_INDEX
        np.copyto(dates, IGNORE_INDEX, where=dates == UNCHANGED)
        return np.concatenate([dates, change[None]])


def _where_labelled(dates: np.ndarray, paths: Sequence[Path]) -> np.ndarray:
    """(h, w) uint8 change of labels (2, h, w) that have classes only where the land changed."""
    unchanged = dates == UNCHANGED
    differs = (unchanged[0] != unchanged[1]) & (dates != IGNORE_INDEX).all(0)
    if differs.any():
        raise ChangeError(
            f"{paths[0]} and {paths[1]}: {np.count_nonzero(differs)} pixels are unchanged in one "
            "of them only"
        )
    change = (~unchanged).all(0).astype(np.uint8)
    np.copyto(change, IGNORE_INDEX, where=(dates == IGNORE_INDEX).any(0))
    return change


class TransitionLabels(NamedTuple):
    """One map of from-to codes; a code from a class to itself is a change if the classes say so."""

    classes: ClassFile  # has transitions
    num_dates: int = 2

    @property
    def about(self) -> str:
        """See Labels."""
        return "from-to codes"

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """See Labels."""
        codes = self.classes.codes
        found = classes_of(opened(paths[0]), window, codes)
        pairs = [pair[1:] for pair in self.classes.transitions]
        pairs = np.array([*pairs, (IGNORE_INDEX,) * 2], np.uint8)
        changed = found < len(codes.names)
        dates = pairs[np.where(changed, found, len(codes.names))].transpose(2, 0, 1)
        if not self.classes.same_class_change:
            changed &= dates[0] != dates[1]
        change = changed.astype(np.uint8)
        change[found == IGNORE_INDEX] = IGNORE_INDEX
        return np.concatenate([dates, change[None]])


class WithPseudoLabels(NamedTuple):
    """Labels of two dates whose classes are read from pseudo labels; the change stays true.

    The scene's labels are those of `labels`, then two masks of label.py: 0 = unlabelled, 1..K.
    """

    labels: Labels
    masks: ClassFile  # of the masks
    num_dates: int = 2

    @property
    def about(self) -> str:
        """See Labels."""
        return "pseudo labels"

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """See Labels."""
        true = self.labels.read(paths[:-2], window, opened)
        files = [opened(path) for path in paths[-2:]]
        dates = np.stack([classes_of(file, window, self.masks) for file in files])
        np.copyto(dates, IGNORE_INDEX, where=dates == UNCHANGED)
        return np.concatenate([dates, true[2:]])
