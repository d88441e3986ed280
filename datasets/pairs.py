"""Semantic change on own data: two dates, land-cover classes of your own, any size and bands.

`ROOT/{train,val,test}/{im1,im2,label1,label2[,change]}`, see `datasets.folders`, and
`ROOT/classes.yaml`, see `datasets.class_file`; without it the classes are SECOND's. Labels have
classes where the land changed, or everywhere ("dense"); then the land changed where the two differ,
or where the mask `change` says so. With `transitions` in classes.yaml there is one label, in the
folder `label`, that holds from-to codes.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from datasets.change_masks import find_coding
from datasets.class_file import ClassFile, free_colour, read_class_file, refuse_other_classes
from datasets.codecs import UNCHANGED, LabelError, open_label
from datasets.entry import DatasetEntry, Where
from datasets.folders import FolderLayout, FolderSpec, with_bands
from datasets.labels import PairLabels, TransitionLabels, classes_of
from datasets.layout import PARTS
from datasets.reader import Reading
from datasets.second import CLASSES
from utils.rasters.reading import strips
from utils.schemes import SECOND, WHITE
from utils.structures import Scheme

MOST_CODES = 250  # from-to codes, which are decoded as classes
IMAGES = {"im1": "im1", "im2": "im2"}
SPEC = FolderSpec(IMAGES, {"label1": "label1", "label2": "label2"}, {"change": "change"})
CODES = FolderSpec(IMAGES, {"label": "label"})  # from-to codes


def pairs_classes(root: Path | str, where: Where) -> ClassFile:
    """The classes of a data set, with what its file does not say about "unchanged" filled in.

    Raises:
        FileNotFoundError, ValueError: see `read_class_file`.
    """
    path = where.class_file(root)
    if not path.is_file() and "classes" not in where.folders:
        _refuse_misnamed(path)
        return CLASSES._replace(style="auto")
    classes = read_class_file(path)
    if len(classes.transitions) > MOST_CODES:
        raise ValueError(
            f"{path}: {len(classes.transitions)} transitions; at most {MOST_CODES} are read. Leave "
            "out those that never occur, or write a label for each date"
        )
    said = classes.unchanged is not None or classes.unchanged_colour is not None
    if classes.coloured and WHITE not in classes.palette and not said:
        classes = classes._replace(unchanged_colour=WHITE)
    if classes.transitions and classes.unchanged is None:
        taken = {code for code, _, _ in classes.transitions} | set(classes.ignore)
        classes = classes._replace(unchanged=None if 0 in taken else 0)
    return classes


def _refuse_misnamed(path: Path) -> None:
    """Raises ValueError if a file beside the one that is missing seems to be meant."""
    names = ("classes.yml", "classes.yaml", "classes.json", "classes.txt")
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    for other in there:
        if other.name.lower() in names and other != path:
            raise ValueError(
                f"{other} is not read; rename it to {path.name}, or pass --folders "
                f"classes={other.name}"
            )


def pairs_scheme(root: Path | str, where: Where, bands: Sequence[str | int] | None) -> Scheme:
    """Classes of classes.yaml, or SECOND's; and the bands of the images, see `with_bands`.

    Raises:
        FileNotFoundError: no images.
        ValueError: the file lacks a requested band, or the class file is invalid.
    """
    classes = pairs_classes(root, where)
    palette = (classes.unchanged_colour or free_colour(classes.colours), *classes.colours)
    scheme = SECOND._replace(
        classes=classes.names,
        palette=palette,
        same_class_change=classes.same_class_change,
    )
    return with_bands(scheme, SPEC, root, where, bands)


def pairs_layout(root: Path | str, scheme: Scheme, where: Where) -> FolderLayout:
    """See the top of this file.

    Raises:
        ValueError: classes.yaml has other classes than the scheme.
    """
    classes = pairs_classes(root, where)
    refuse_other_classes(root, classes, scheme)

    def reading(layout: FolderLayout) -> Reading:
        if classes.transitions:
            return Reading(TransitionLabels(classes))
        masks = [mask for (mask,) in layout.label_files("change")]
        coding = "01"  # not used with a threshold
        if classes.threshold is None:
            coding = find_coding(masks, where.label_coding)
        labels = layout.label_files("label1", "label2")
        try:
            return Reading(PairLabels(*find_style(classes, labels, bool(masks)), coding))
        except ValueError as error:
            raise ValueError(f"{where.class_file(root)}: {error}") from error

    spec = CODES if classes.transitions else SPEC
    return FolderLayout(root, spec, scheme, reading, where.folders, where.suffixes)


def find_style(
    classes: ClassFile, labels: Sequence[tuple[Path, Path]], has_change: bool
) -> tuple[ClassFile, str]:
    """The style of the labels, see `datasets.labels.PairLabels`, and the classes that it implies.

    Looks at all labels if the class file does not say it. "changed" needs a value for "unchanged".
    Without one, that is 0 where the indices of the classes are not given, 0 stands at the same
    pixels of both dates, and the last index is K; the classes then begin with 1.

    Args:
        classes: style "auto" is decided here.
        labels: of both dates, for each scene.
        has_change: there is a change mask, so the labels are dense.

    Raises:
        ValueError: style "changed" without a value for "unchanged", or 0 may be it or a class.
    """
    style = "dense" if has_change and classes.style == "auto" else classes.style
    if style == "dense":
        return classes, style
    if classes.unchanged is None and classes.values == tuple(range(len(classes.names))):
        moved = classes._replace(
            values=tuple(value + 1 for value in classes.values), unchanged=0, ignore=classes.ignore
        )
        if 0 not in classes.ignore and (style == "changed" or _is_changed_style(moved, labels)):
            every = [path for scene in labels for path in scene]
            if style == "auto" and not classes.coloured and not _holds(len(classes.names), every):
                raise ValueError(
                    f"in {every[0].parent}, 0 stands at the same pixels of both dates, and no "
                    f"label holds {len(classes.names)}; 0 may be {classes.names[0]} or mean "
                    "unchanged. Say what it is: `labels: dense`, or `unchanged: 0` and `first: 1`"
                )
            return moved, "changed"
    if style == "auto":
        style = "changed" if _is_changed_style(classes, labels) else "dense"
    if style == "changed" and classes.unchanged is None and classes.unchanged_colour is None:
        raise ValueError("`labels: changed` needs `unchanged: INDEX or colour`")
    return classes, style


def _holds(value: int, paths: Sequence[Path]) -> bool:
    """Whether a label holds an index."""
    for path in paths:
        file = open_label(path)
        if not file.coloured and any((file.read(w) == value).any() for w in strips(file)):
            return True
    return False


def _is_changed_style(classes: ClassFile, labels: Sequence[tuple[Path, Path]]) -> bool:
    """Whether some pixels are unchanged, and the same ones at both dates."""
    found = False
    for scene in labels:
        # read once per process, although every part asks
        some = _some_unchanged(classes, *((path, path.stat().st_mtime_ns) for path in scene))
        if some is None:
            return False
        found = found or some
    return found


@lru_cache(maxsize=1 << 16)
def _some_unchanged(classes: ClassFile, *dates: tuple[Path, int]) -> bool | None:
    """Whether some pixels of a scene are unchanged; None: not the same ones at both dates.

    Args:
        classes: what the values mean.
        *dates: path and time of the label of each date.
    """
    found = False
    try:
        files = [open_label(path) for path, _ in dates]
        for window in strips(files[0]):
            unchanged = [classes_of(file, window, classes) == UNCHANGED for file in files]
            if not np.array_equal(*unchanged):
                return None
            found = found or bool(unchanged[0].any())
    except (LabelError, OSError):
        return None
    return found


PAIRS_ENTRY = DatasetEntry(
    root="data/dataset",
    task="semantic_change",
    about="folders im1 im2 label1 label2, own classes, images of any size and bands",
    layout=pairs_layout,
    scheme=pairs_scheme,
    folder_keys=(*PARTS, *SPEC.images, *SPEC.labels, *SPEC.optional, *CODES.labels, "classes"),
    suffix_keys=(*SPEC.images, *SPEC.labels, *SPEC.optional, *CODES.labels),
    chooses_bands=True,
    training_options={"positive_crops": 0.0, "samples_per_image": 1},
)
