"""Reads patches of Sentinel-1 and Sentinel-2 with a land-cover label as arrays.

Sentinel-2 has 13 bands (digital numbers, 10000 = reflectance 1), Sentinel-1 has VV and VH in
decibel. Only the bands of the scheme are read. Uncompressed files are read by `plain_tiff`, others
by rasterio.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.codecs import LabelError, refuse_unknown
from datasets.land_cover import Patch, Size, refuse_sizes, unlabelled
from datasets.sentinel.plain_tiff import read_plain
from utils.rasters.gdal import rasterio
from utils.rasters.reading import decoding
from utils.schemes import DFC_CLASSES, S1_BANDS, S2_BANDS
from utils.structures import IGNORE_INDEX, Scheme

BANDS = {"s2": S2_BANDS, "s1": S1_BANDS}  # bands of the files, in file order
S2_MOST = 10000  # digital number that is scaled to 1.0
S1_LEAST = -25.0  # decibel that are scaled to 0.0; 0 dB to 1.0
SAVANNA = 3  # DFC2020 number of the class that --no-savanna leaves out
# IGBP class 0..17 -> DFC2020 class; 0 = none
IGBP_TO_DFC = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10)
NO_CLASS = 254  # in `label_table`: the value stands for no class


class SentinelPatch(NamedTuple):
    """Folder and name of the Sentinel-2 image of a patch; `mate` derives the other files."""

    folder: str  # relative to the root, such as ROIs1158_spring/s2_1
    name: str  # id: file name without extension


def mate(patch: SentinelPatch, kind: str) -> tuple[str, str]:
    """Folder and name of the file of another kind: s1, s2, lc or dfc.

    Replaces the prefix `s2` of the last folder and `_s2_` in the name.
    """
    parent, slash, last = patch.folder.rpartition("/")
    folder = parent + slash + kind + last.removeprefix("s2")
    return folder, sibling_name(patch.name, kind)


def sibling_name(name: str, kind: str) -> str:
    """File name of another kind (s1, s2, lc or dfc), without extension."""
    return name.replace("_s2_", f"_{kind}_")


class SentinelReader:
    """Reads patches of Sentinel data. See `datasets.land_cover.Reader`.

    Images are (C, H, W) float32 in 0..1: first Sentinel-2, clipped to 0..10000 and divided by
    10000, then Sentinel-1, clipped to -25..0 dB (NaN = 0 dB) and scaled.

    Args:
        root: parent of the folders of the patches.
        patches: patches in order.
        scheme: bands to read; 10 classes, or 9 without savanna.
        label: kind of the labels, "lc" (IGBP, SEN12MS) or "dfc"; None = no labels.

    Raises:
        ValueError: unknown bands, or another number of classes.
    """

    def __init__(
        self,
        root: Path | str,
        patches: Sequence[SentinelPatch],
        scheme: Scheme,
        label: str | None = None,
    ):
        self.root, self.patches, self.label = Path(root), patches, label
        self.settings = scheme, label
        self.names, self.labelled = [patch.name for patch in patches], label is not None
        self.bands = chosen_bands(scheme)
        self.num_classes, self._first = scheme.num_classes, None
        label_table(label or "dfc", self.num_classes)  # checks the number of classes

    def path(self, index: int, kind: str) -> Path:
        """Path of the file of a kind: s1, s2, lc or dfc."""
        folder, name = mate(self.patches[index], kind)
        return self.root / folder / f"{name}.tif"

    def patch(self, index: int) -> Patch:
        """See Reader."""
        label = self.path(index, self.label) if self.label else None
        return Patch(self.names[index], tuple(self.path(index, k) for k in self.bands), label)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """See Reader.

        Raises:
            LabelError, OSError, ValueError: a file is unreadable or has bad values, bands or size.
        """
        files = {kind: self.path(index, kind) for kind in self.bands}
        images = [read_bands(path, kind, self.bands[kind]) for kind, path in files.items()]
        sizes = {path: i.shape[1:] for path, i in zip(files.values(), images, strict=True)}
        classes = unlabelled(images[0].shape[1:])
        if self.label is not None:
            path = self.path(index, self.label)
            classes = read_dfc_classes(path, self.label, self.num_classes)
            sizes[path] = classes.shape
        refuse_sizes(sizes)
        return images[0] if len(images) == 1 else np.concatenate(images), classes

    def array_specs(self, index: int) -> tuple[tuple, tuple]:
        """See Reader; assumes the size of the first patch."""
        if self._first is None:
            self._first = self.stored_size(0)
        height, width = self._first
        shapes = (sum(map(len, self.bands.values())), height, width), (height, width)
        return shapes, (np.dtype(np.float32), np.dtype(np.uint8))

    def stored_size(self, index: int) -> Size:
        """Size of the image in its file."""
        with open_tiff(self.path(index, next(iter(self.bands)))) as file:
            return file.shape

    def sizes(self) -> list[tuple[Size, Size]] | None:
        """See Reader; labelled patches have equal sizes (256 x 256 as published)."""
        if self.labelled:
            return None
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [(size,) * 2 for size in pool.map(self.stored_size, range(len(self.names)))]


def chosen_bands(scheme: Scheme) -> dict[str, list[int]]:
    """Bands to read of every kind of file, numbered from 1, in the order of the scheme.

    Raises:
        ValueError: no bands, an unknown band, or Sentinel-1 before Sentinel-2.
    """
    found = {
        kind: [names.index(band) + 1 for band in scheme.bands if band in names]
        for kind, names in BANDS.items()
    }
    read = [BANDS[kind][number - 1] for kind, numbers in found.items() for number in numbers]
    if not read or tuple(read) != tuple(scheme.bands):
        raise ValueError(
            f"bands {' '.join(scheme.bands) or 'none'}: Sentinel data has {' '.join(S2_BANDS)} and "
            f"then {' '.join(S1_BANDS)}; choose with --use-s1, --use-s2hr, --use-s2mr, --use-s2lr"
        )
    return {kind: numbers for kind, numbers in found.items() if numbers}


def read_bands(path: Path, kind: str, numbers: Sequence[int]) -> np.ndarray:
    """Reads and scales bands of an image.

    Args:
        path: a GeoTIFF.
        kind: "s2" or "s1".
        numbers: band numbers, from 1.

    Returns:
        (C, H, W) float32 in 0..1.

    Raises:
        ValueError: wrong number of bands, or floating-point Sentinel-2 values.
        OSError: the file cannot be decoded.
    """
    stored = _read(path, numbers, kind)
    if kind == "s2" and stored.dtype.kind == "f":
        raise ValueError(
            f"{path}: floating-point values, where Sentinel-2 comes as digital numbers (whole, "
            f"{S2_MOST} = reflectance 1); multiply and store them as 16-bit integers"
        )
    return scale_s2(stored) if kind == "s2" else scale_s1(stored)


def _read(path: Path, numbers: Sequence[int], kind: str | None = None) -> np.ndarray:
    """Reads bands (C, H, W) as stored; checks the number of bands if `kind` is given."""
    plain = read_plain(path)
    if plain is not None:
        if kind is not None:
            refuse_bands(path, kind, len(plain))
        stored = np.empty((len(numbers), *plain.shape[1:]), plain.dtype.newbyteorder("="))
        for band, number in zip(stored, numbers, strict=True):
            band[...] = plain[number - 1]
        return stored
    with open_tiff(path) as file:
        if kind is not None:
            refuse_bands(path, kind, file.count)
        with decoding(path):
            return file.read(numbers)


def refuse_bands(path: Path, kind: str, count: int) -> None:
    """Raises ValueError if a file does not have the number of bands of its kind."""
    needed = len(BANDS[kind])
    if count != needed:
        raise ValueError(
            f"{path}: {count} band(s) where {needed} are needed ({' '.join(BANDS[kind])}); export "
            "it with all of them, also those that are not read: they are found by their number"
        )


def scale_s2(stored: np.ndarray) -> np.ndarray:
    """Scales digital numbers to float32 in 0..1."""
    scaled = np.clip(stored, 0, S2_MOST).astype(np.float32)
    scaled /= np.float32(S2_MOST)
    return scaled


def scale_s1(decibel: np.ndarray) -> np.ndarray:
    """Scales decibel to float32 in 0..1; NaN counts as 0 dB, which becomes 1."""
    decibel = decibel.astype(np.float32)
    decibel[np.isnan(decibel)] = 0
    return np.clip(decibel, S1_LEAST, 0) / np.float32(-S1_LEAST) + np.float32(1)


def read_dfc_classes(path: Path, label: str, num_classes: int) -> np.ndarray:
    """Reads a label file as (H, W) uint8 in 0..K-1 or IGNORE_INDEX.

    Args:
        path: a GeoTIFF; its first band is read.
        label: "lc" or "dfc".
        num_classes: 10, or 9 without savanna.

    Raises:
        LabelError: a value without a class.
        OSError: the file cannot be decoded.
    """
    stored = _read(path, [1])[0]
    if stored.dtype.kind == "f":
        raise LabelError(f"{path}: floating-point values; store classes as 8-bit integers")
    table = label_table(label, num_classes)
    inside = stored if stored.dtype == np.uint8 else np.where(stored < 0, 255, stored).clip(0, 255)
    classes = table[inside]
    allowed = "0..17 (IGBP)" if label == "lc" else f"0..{len(DFC_CLASSES)} (DFC2020)"
    refuse_unknown(path, stored, classes, num_classes, allowed)
    return classes


@lru_cache(maxsize=4)
def label_table(label: str, num_classes: int) -> np.ndarray:
    """(256,) uint8 look-up table: stored value -> class 0..K-1, IGNORE_INDEX or NO_CLASS.

    Args:
        label: "lc" (IGBP 0..17) or "dfc" (0 = none, 1..10).
        num_classes: 10, or 9 without savanna.

    Raises:
        ValueError: another number of classes.
    """
    if num_classes not in (len(DFC_CLASSES), len(DFC_CLASSES) - 1):
        raise ValueError(
            f"{num_classes} classes: DFC2020 has {len(DFC_CLASSES)}, or one less with --no-savanna"
        )
    dfc = np.array(IGBP_TO_DFC if label == "lc" else range(len(DFC_CLASSES) + 1))
    if num_classes < len(DFC_CLASSES):
        dfc = np.where(dfc == SAVANNA, 0, np.where(dfc > SAVANNA, dfc - 1, dfc))
    table = np.full(256, NO_CLASS, np.uint8)
    table[: len(dfc)] = np.where(dfc == 0, IGNORE_INDEX, dfc - 1)
    return table


def to_dfc_labels(pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Converts predicted classes 0..K-1 to DFC2020 numbers 1..10.

    Args:
        pred: integers in 0..K-1, or IGNORE_INDEX, which is kept.
        num_classes: 10, or 9 without savanna, whose number 3 is then left out.

    Returns:
        uint8, of the same shape.
    """
    pred = np.asarray(pred).astype(np.uint8)
    shift = 1 + (pred >= SAVANNA - 1) * (num_classes < len(DFC_CLASSES))
    return np.where(pred == IGNORE_INDEX, IGNORE_INDEX, pred + shift).astype(np.uint8)


def open_tiff(path: Path | str) -> Any:
    """Opens a GeoTIFF with rasterio, without listing the folder for sidecar files.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: not a GeoTIFF, or a truncated header.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {path}; check --data-root")
    with decoding(path), rasterio().Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        return rasterio().open(path, driver="GTiff", sharing=False)
