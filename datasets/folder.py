"""Land cover in folders: images, labels, and a file with the classes.

`ROOT/{train,val,test}/{images,labels}`, or `ROOT/{images,labels}/{train,val,test}`, or without
parts `ROOT/{images,labels}`, see `datasets.folders`; and `ROOT/classes.yaml`, see
`datasets.class_file`. Images are PNG, JPEG, BMP or TIFF with any number of bands; labels hold
indices or colours.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.class_file import free_colour, read_class_file, refuse_other_classes
from datasets.entry import DatasetEntry, LabelFiles, Where
from datasets.folders import FolderLayout, FolderSpec, with_bands
from datasets.labels import LandCoverLabels
from datasets.layout import PARTS
from datasets.reader import Reading
from utils.rasters.masks import write_mask
from utils.rasters.writing import write_with_georeference_of
from utils.structures import Scene, Scheme

TIFF = (".tif", ".tiff")
SPEC = FolderSpec({"images": "images"}, {"labels": "labels"})


def folder_scheme(root: Path | str, where: Where, bands: Sequence[str | int] | None) -> Scheme:
    """Classes of classes.yaml, and the bands of the images, see `with_bands`.

    Raises:
        FileNotFoundError: no images, or no class file.
        ValueError: the file lacks a requested band, or the class file is invalid.
    """
    scheme = with_bands(Scheme("land_cover", (), ()), SPEC, root, where, bands)
    classes = read_class_file(where.class_file(root), num_dates=1)
    palette = (free_colour(classes.colours), *classes.colours)
    return scheme._replace(classes=classes.names, palette=palette)


def folder_layout(root: Path | str, scheme: Scheme, where: Where) -> FolderLayout:
    """See the top of this file.

    Raises:
        ValueError: classes.yaml has other classes than the scheme.
    """
    classes = read_class_file(where.class_file(root), num_dates=1)
    refuse_other_classes(root, classes, scheme)
    reading = Reading(LandCoverLabels(classes))
    return FolderLayout(root, SPEC, scheme, lambda _: reading, where.folders, where.suffixes)


def folder_mask_name(scene: Scene) -> str:
    """File name of a prediction: GeoTIFF if the image is a TIFF, otherwise PNG."""
    geotiff = scene.images[0].suffix.lower() in TIFF
    return f"im1/{scene.name}{'.tif' if geotiff else '.png'}"


def write_folder_mask(path: Path, mask: np.ndarray, scheme: Scheme, scene: Scene) -> None:
    """Writes a prediction; a GeoTIFF gets the georeference of its image.

    Args:
        path: the file, .tif or .png.
        mask: (H, W) uint8, 1..K = class.
        scheme: has the palette.
        scene: the image that was predicted.
    """
    if path.suffix == ".tif":
        write_with_georeference_of(path, mask, scheme.palette, scene.images[0])
    else:
        write_mask(path, mask, scheme.palette)


FOLDER_ENTRY = DatasetEntry(
    root="data/dataset",
    task="land_cover",
    about="folders images labels of one date, classes.yaml",
    layout=folder_layout,
    scheme=folder_scheme,
    folder_keys=(*PARTS, *SPEC.images, *SPEC.labels, "classes"),
    suffix_keys=(*SPEC.images, *SPEC.labels),
    labels=LabelFiles(folder_mask_name, write_folder_mask),
    chooses_bands=True,
)
