"""SECOND / SenseEarth 2020: semantic change, with land-cover classes of both dates.

`ROOT/{train,val,test}/{im1,im2,label1,label2}`; labels hold 0 = unchanged and 1..6, or colours.

Reference: K. Yang et al., "Asymmetric Siamese Networks for Semantic Change Detection in Aerial
Images", IEEE TGRS 2022 (the data set). Only changed areas are labelled.
"""

from pathlib import Path

from datasets.class_file import ClassFile
from datasets.entry import DatasetEntry, Where, refuse_bands
from datasets.folders import FolderLayout, FolderSpec
from datasets.labels import PairLabels
from datasets.layout import PARTS
from datasets.reader import Reading
from utils.schemes import SECOND
from utils.structures import Scheme

SPEC = FolderSpec({"im1": "im1", "im2": "im2"}, {"label1": "label1", "label2": "label2"})
CLASSES = ClassFile(
    SECOND.classes,
    SECOND.palette[1:],
    coloured=True,
    values=tuple(range(1, SECOND.num_classes + 1)),
    unchanged=0,
    unchanged_colour=SECOND.palette[0],
    style="changed",
)


def second_scheme(root: Path | str, where: Where, bands=None) -> Scheme:
    """The fixed scheme of SECOND.

    Raises:
        ValueError: `bands` is given.
    """
    refuse_bands(bands)
    return SECOND


def second_layout(root: Path | str, scheme: Scheme, where: Where) -> FolderLayout:
    """See the top of this file."""
    reading = Reading(PairLabels(CLASSES, "changed"))
    return FolderLayout(root, SPEC, scheme, lambda _: reading, where.folders)


SECOND_ENTRY = DatasetEntry(
    root="data/dataset",
    task="semantic_change",
    about="SECOND / SenseEarth 2020 layout",
    layout=second_layout,
    scheme=second_scheme,
    folder_keys=(*PARTS, *SPEC.images, *SPEC.labels),
)
