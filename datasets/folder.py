"""Land cover in folders: images, labels, and a file with the classes.

`ROOT/{train,val,test}/{images,labels}`, or `ROOT/{images,labels}/{train,val,test}`, or without
parts `ROOT/{images,labels}`; and `ROOT/classes.yaml`, see `datasets.class_file`. Images are PNG,
JPEG, BMP or TIFF with any number of bands; labels hold indices or colours.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datasets.bands import RGB, band_names, band_numbers
from datasets.checks import FoundFiles, check_parts
from datasets.class_file import ClassFile, read_class_file, read_classes
from datasets.entry import DatasetEntry, LabelFiles
from datasets.image_files import FileReader, check_files
from datasets.land_cover import LandCoverDataset, Patch, split_patches
from datasets.layout import PARTS, DataError, Problem, find_files, match_files
from datasets.splits import RULES
from utils.rasters.masks import write_mask
from utils.rasters.reading import open_raster
from utils.rasters.writing import write_with_georeference_of
from utils.schemes import WHITE
from utils.structures import Scheme

TIFF = (".tif", ".tiff")
FIELDS = ("images", "labels")  # default folder names, also the keys of --folders
CLASSES = "classes.yaml"


def folder_scheme(
    root: Path | str,
    *,
    folders: Mapping[str, str] | None = None,
    bands: Sequence[str | int] | None = None,
) -> Scheme:
    """Derives the scheme: classes from classes.yaml, bands from the first image.

    Args:
        root: see the top of this file.
        folders: replaces default names; keys train, val, test, images, labels, classes.
        bands: names (red, green, blue, nir, grey) or numbers from 1; None = all bands of the file.
            Three 8-bit bands count as red, green and blue.

    Returns:
        For 8-bit red, green and blue: unchanged values, ImageNet statistics. Otherwise every band
        of every image is standardised separately.

    Raises:
        FileNotFoundError: no images, or no class file.
        ValueError: the file lacks a requested band, or the class file is invalid.
    """
    part = next(iter(find_parts(root, folders)))
    files = find_files(part_folders(root, part, folders)[0], (".bmp",))
    names, plain = _bands(next(iter(files.values()))[0], bands)
    classes = _classes(root, folders)
    scheme = Scheme("land_cover", classes.names, (WHITE, *classes.colours), names)
    if plain:
        return scheme
    zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
    return scheme._replace(scale=1.0, mean=zeros, std=ones, standardise="bands")


def _bands(path: Path, bands: Sequence[str | int] | None) -> tuple[tuple[str, ...], bool]:
    """Names of the bands to read, and whether they are 8-bit colours."""
    raster = open_raster(path)
    if bands is not None:
        names = band_names(bands)
    elif raster.dtype == np.uint8 and raster.count == (4 if _has_alpha(path) else 3):
        names = RGB
    else:
        names = band_names(range(1, raster.count + 1))
    if max(band_numbers(names)) >= raster.count:
        raise ValueError(
            f"--bands {' '.join(names)}: {path} has {raster.count} band(s); "
            f"pass numbers in 1..{raster.count}"
        )
    return names, raster.dtype == np.uint8 and names == RGB


def _has_alpha(path: Path) -> bool:
    """Whether the fourth band is alpha, not near infrared (PNG and BMP)."""
    return path.suffix.lower() in (".png", ".bmp") and open_raster(path).count == 4


def build_folder(
    root: Path | str,
    part: str,
    *,
    scheme: Scheme,
    split: str | None = None,
    folders: Mapping[str, str] | None = None,
    **options,
) -> LandCoverDataset:
    """Builds one part: with `split` the subset "train" or "val", otherwise a whole part.

    Args:
        root: see the top of this file.
        part: train or val. Without `split` also any other folder, or "test", which falls back to
            val, then to train or the data without part folders.
        scheme: see `folder_scheme`; its classes must be those of classes.yaml.
        split: "official" validates on the part val; others split train, see
            `datasets.splits.split_names`.
        folders: as in `folder_scheme`.
        **options: cache, augment, seed, see LandCoverDataset.

    Raises:
        FileNotFoundError: no images, no class file, or no such part.
        DataError: a patch lacks a file.
        ValueError: no labels to split, other classes, or an unknown option.
    """
    classes = _classes(root, folders)
    if classes.names != scheme.classes:
        raise ValueError(
            f"the network knows {', '.join(scheme.classes)}, {root} has {', '.join(classes.names)}"
            "; pass --folders classes=FILE with the same classes"
        )
    divided = split not in (None, "official")
    source = _named(root, "train" if divided else part, split, folders)
    path, patches, problems = list_folder(root, source, folders)
    if problems:
        raise DataError(path, problems)
    if split is not None and patches[0].label is None:
        raise ValueError(f"{path} has no labels; training needs the folder labels")
    if divided:
        patches = split_patches(patches, split, part)
    reader = FileReader(patches, scheme, partial(read_classes, classes=classes), settings=classes)
    return LandCoverDataset(reader, scheme, part=part, path=path, **options)


def check_folder(
    root: Path | str,
    parts: Sequence[str] | None = None,
    *,
    scheme: Scheme,
    folders: Mapping[str, str] | None = None,
    passed_file: Path | str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Decodes every file of the parts.

    Args:
        root: see the top of this file.
        parts: parts to check; None = all.
        scheme: see `folder_scheme`.
        folders: as in `folder_scheme`.
        passed_file: see `datasets.checks.check_pairs`.
        threads: number of threads; None = one per core.
        progress: show a progress bar.

    Returns:
        Number of images per part.

    Raises:
        FileNotFoundError: a part has no images, or there is no class file.
        DataError: lists all files that break a requirement.
    """
    classes = _classes(root, folders)
    found = {}
    for part in parts or find_parts(root, folders):
        path, *listed = list_folder(root, _named(root, part, None, folders), folders)
        found[part] = FoundFiles(f"{path.resolve()} {part}", *listed)
    reader = FileReader([], scheme, partial(read_classes, classes=classes))
    return check_parts(
        root,
        found,
        lambda patch: check_files(reader, patch),
        settings=(scheme, classes),
        passed_file=passed_file,
        threads=threads,
        progress=progress,
    )


def folder_mask_name(patch: Patch) -> str:
    """File name of a prediction: GeoTIFF if the image is a TIFF, otherwise PNG."""
    geotiff = patch.images[0].suffix.lower() in TIFF
    return f"im1/{patch.name}{'.tif' if geotiff else '.png'}"


def write_folder_mask(path: Path, mask: np.ndarray, scheme: Scheme, patch: Patch) -> None:
    """Writes a prediction; a GeoTIFF gets the georeference of its image.

    Args:
        path: the file, .tif or .png.
        mask: (H, W) uint8, 1..K = class.
        scheme: has the palette.
        patch: the image that was predicted.
    """
    if path.suffix == ".tif":
        write_with_georeference_of(path, mask, scheme.palette, patch.images[0])
    else:
        write_mask(path, mask, scheme.palette)


def list_folder(
    root: Path | str, part: str, folders: Mapping[str, str] | None = None
) -> tuple[Path, list[Patch], list[Problem]]:
    """Finds the images of a part without opening one.

    Returns:
        The image folder; complete patches, sorted by id; problems of incomplete patches.
    """
    paths = part_folders(root, part, folders)
    found = [(path, find_files(path, (".bmp",))) for path in paths]
    whole, problems = match_files(found if found[1][1] else found[:1])
    patches = [
        Patch(name, (image,), label[0] if label else None)
        for name, (image, *label) in whole.items()
    ]
    return paths[0], patches, problems


def find_parts(root: Path | str, folders: Mapping[str, str] | None = None) -> list[str]:
    """Those of train, val and test that have images; "train" for data without part folders.

    Raises:
        FileNotFoundError: no images.
    """
    found = [part for part in PARTS if _has_images(root, part, folders)]
    if found or _has_images(root, "", folders):
        return found or ["train"]
    images = (folders or {}).get("images", "images")
    raise FileNotFoundError(
        f"no images in {Path(root) / images} nor in {Path(root) / 'train' / images} (expected "
        "*.png, *.jpg, *.bmp or *.tif). Unpack the archive there, pass --data-root, or name the "
        "folders with --folders images=NAME labels=NAME."
    )


def part_folders(
    root: Path | str, part: str, folders: Mapping[str, str] | None = None
) -> list[Path]:
    """The folders of images and labels of a part; without part folders, the same for every part.

    `ROOT/<part>/images` has precedence over `ROOT/images/<part>`.
    """
    names = {**{key: key for key in (*PARTS, *FIELDS)}, **(folders or {})}
    root, part = Path(root), names.get(part, part)
    for order in ((part, None), (None, part)):
        paths = [root / Path(*(word or names[f] for word in order)) for f in FIELDS]
        if part and find_files(paths[0], (".bmp",)):
            return paths
    return [root / names[field] for field in FIELDS]


def _has_images(root: Path | str, part: str, folders: Mapping[str, str] | None) -> bool:
    """Whether a part has its own folder with images; "" means the data without part folders."""
    undivided = part_folders(root, "", folders)
    paths = part_folders(root, part, folders)
    return bool(find_files(paths[0], (".bmp",))) and (part == "" or paths != undivided)


def _named(
    root: Path | str, part: str, split: str | None, folders: Mapping[str, str] | None
) -> str:
    """Resolves a part name to the part to read; "" for data without part folders."""
    parts = find_parts(root, folders)
    divided = _has_images(root, parts[0], folders)
    if part in parts:
        return part if divided else ""
    if part == "test" and split is None:
        return ("val" if "val" in parts else "train") if divided else ""
    if divided and _has_images(root, part, folders):
        return part
    others = ", ".join(rule for rule in RULES if rule != "official")
    raise FileNotFoundError(
        f"there is no part {part!r} in {root}, which has {', '.join(parts)}. Pass a folder that is "
        f"there as --split (of train.py also {others}, or a text file of ids)."
    )


def _classes(root: Path | str, folders: Mapping[str, str] | None) -> ClassFile:
    return read_class_file(Path(root) / (folders or {}).get("classes", CLASSES))


FOLDER_ENTRY = DatasetEntry(
    root="data/dataset",
    task="land_cover",
    about="folders images labels of one date, classes.yaml",
    build=build_folder,
    check=check_folder,
    scheme=folder_scheme,
    labels=LabelFiles(folder_mask_name, write_folder_mask),
    chooses_bands=True,
    training_options={"samples_per_image": 1},
)
