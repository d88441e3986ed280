"""Binary change detection in the layout of LEVIR-CD: folders A, B and label.

`ROOT/{train,val,test}/{A,B,label}`, or `ROOT/{A,B,label}`, see `datasets.folders`. Images are PNG,
JPEG, BMP, TIFF or ENVI with any number of bands. For grey or lossy masks, `ROOT/classes.yaml` says
`threshold: LEVEL`, see `datasets.class_file`.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets.bands import RGB
from datasets.change_masks import find_coding
from datasets.class_file import read_threshold
from datasets.entry import DatasetEntry, Where
from datasets.folders import FolderLayout, FolderSpec, with_bands
from datasets.labels import ChangeLabels
from datasets.layout import PARTS
from datasets.reader import Reading
from utils.schemes import change_scheme
from utils.structures import Scheme

SPEC = FolderSpec({"im1": "A", "im2": "B"}, {"label": "label"})


def binary_scheme(root: Path | str, where: Where, bands: Sequence[str | int] | None) -> Scheme:
    """The scheme for the bands of the images, see `with_bands`."""
    return with_bands(change_scheme(RGB, "none"), SPEC, root, where, bands)


def binary_layout(root: Path | str, scheme: Scheme, where: Where) -> FolderLayout:
    """See the top of this file."""

    def reading(layout: FolderLayout) -> Reading:
        threshold = read_threshold(where.class_file(root))
        if threshold is not None:
            return Reading(ChangeLabels("01", threshold))
        masks = (mask for (mask,) in layout.label_files("label"))
        return Reading(ChangeLabels(find_coding(masks, where.label_coding)))

    return FolderLayout(root, SPEC, scheme, reading, where.folders, where.suffixes)


BINARY_ENTRY = DatasetEntry(
    root="data/dataset",
    task="binary_change",
    about="folders A B label, images of any size and bands",
    layout=binary_layout,
    scheme=binary_scheme,
    folder_keys=(*PARTS, *SPEC.images, *SPEC.labels, "classes"),
    suffix_keys=(*SPEC.images, *SPEC.labels),
    chooses_bands=True,
    training_options={"positive_crops": 0.0, "samples_per_image": 1},
)
