"""Reads images of Sentinel-1 and Sentinel-2 and their land-cover labels.

Sentinel-2 has 13 bands (digital numbers, 10000 = reflectance 1), Sentinel-1 has VV and VH in
decibel. Uncompressed files are read by `plain_tiff`, others by rasterio.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.codecs import LabelError, LabelFile, listed
from datasets.labels import Open
from datasets.sentinel.plain_tiff import read_plain
from datasets.sentinel.scaling import S2_MOST, scale_s1, scale_s2
from utils.rasters.gdal import rasterio
from utils.rasters.raster import MemoryRaster, Raster
from utils.rasters.reading import FileRaster, decoding
from utils.rasters.windows import Window
from utils.schemes import DFC_CLASSES, S1_BANDS, S2_BANDS
from utils.structures import IGNORE_INDEX, ImageFile, Scene, Scheme

BANDS = {"s2": S2_BANDS, "s1": S1_BANDS}  # bands of the files, in file order
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


class SentinelScenes(Sequence):
    """The scenes of patches, made when they are asked for: there are hundred thousands.

    The image of a patch has the bands of Sentinel-2, then those of Sentinel-1.

    Args:
        root: parent of the folders of the patches.
        patches: patches in order.
        scheme: bands to read.
        label: kind of the labels, "lc" (IGBP, SEN12MS) or "dfc"; None = no labels.

    Attributes:
        names: ids, in order.
    """

    def __init__(
        self,
        root: Path | str,
        patches: Sequence[SentinelPatch],
        scheme: Scheme,
        label: str | None = None,
    ):
        self.root, self.patches, self.scheme, self.label = Path(root), patches, scheme, label
        self.names = [patch.name for patch in patches]
        self.bands = chosen_bands(scheme)
        self._last: tuple[int, Scene] | None = None  # a scene is asked for several times in a row

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> Scene:
        last = self._last
        if last is not None and last[0] == index:
            return last[1]
        patch = self.patches[index]
        files = [ImageFile(self._path(patch, kind), bands) for kind, bands in self.bands.items()]
        labels = (self._path(patch, self.label),) if self.label else ()
        scene = Scene(patch.name, (tuple(files),), labels)
        self._last = index, scene
        return scene

    def select(self, indices: Sequence[int]) -> "SentinelScenes":
        """Some of the scenes, in this order."""
        patches = [self.patches[index] for index in indices]
        return SentinelScenes(self.root, patches, self.scheme, self.label)

    def _path(self, patch: SentinelPatch, kind: str) -> Path:
        folder, name = mate(patch, kind)
        return Path(f"{self.root}/{folder}/{name}.tif")


def chosen_bands(scheme: Scheme) -> dict[str, tuple[int, ...]]:
    """Indices of the bands to read of every kind of file, from 0, in the order of the scheme.

    Raises:
        ValueError: no bands, an unknown band, or Sentinel-1 before Sentinel-2.
    """
    found = {
        kind: tuple(names.index(band) for band in scheme.bands if band in names)
        for kind, names in BANDS.items()
    }
    read = [BANDS[kind][index] for kind, indices in found.items() for index in indices]
    if not read or tuple(read) != tuple(scheme.bands):
        raise ValueError(
            f"bands {' '.join(scheme.bands) or 'none'}: Sentinel data has {' '.join(S2_BANDS)} and "
            f"then {' '.join(S1_BANDS)}; choose with --use-s1, --use-s2hr, --use-s2mr, --use-s2lr"
        )
    return {kind: indices for kind, indices in found.items() if indices}


def open_sentinel(path: Path) -> Raster:
    """Opens an image, whose pixels are scaled to 0..1 as they are read.

    Pixels without data count as they are stored (NaN decibel as 0 dB), as published.

    Raises:
        ValueError: wrong number of bands, or floating-point Sentinel-2 values.
        OSError: the file cannot be decoded.
    """
    kind = "s1" if "_s1_" in path.name else "s2"
    raster = _open_tiff(path)
    refuse_bands(path, kind, raster.count)
    if kind == "s2" and (raster.dtype.kind == "f" or raster.dtype == np.uint8):
        values = "8-bit" if raster.dtype == np.uint8 else "floating-point"
        raise ValueError(
            f"{path}: {values} values, where Sentinel-2 comes as digital numbers (whole, "
            f"{S2_MOST} = reflectance 1); multiply and store them as 16-bit integers"
        )
    return _Scaled(raster, scale_s2 if kind == "s2" else scale_s1)


def open_label(path: Path) -> LabelFile:
    """Opens a label; see `datasets.codecs.open_label`."""
    return LabelFile(_FirstBand(_open_tiff(path)))


class _Scaled(Raster):
    """A Sentinel image in 0..1, float32."""

    may_have_gaps = False

    def __init__(self, raster: Raster, scale: Any):
        super().__init__(raster.path, (raster.count, raster.height, raster.width), np.float32)
        self._raster, self._scale = raster, scale

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        return self._scale(self._raster.read(window, bands), self._raster.units(bands))

    def missing(self, pixels: np.ndarray, bands: Sequence[int]) -> None:
        """See Raster."""


class _FirstBand(Raster):
    """The first band of an image."""

    def __init__(self, raster: Raster):
        super().__init__(raster.path, (1, raster.height, raster.width), raster.dtype)
        self._raster = raster

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        return self._raster.read(window, (0,))


class _PlainTiff(MemoryRaster):
    """An uncompressed TIFF."""

    def __init__(self, path: Path, stored: np.ndarray):
        super().__init__(path, stored.shape, stored.dtype.newbyteorder("="), lambda: stored)

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster; a copy in the order of the machine's bytes."""
        view = self._whole()
        if window[2:] != view.shape[1:]:
            view = super().read(window, range(self.count))
        out = np.empty((len(bands), *view.shape[1:]), self.dtype)
        for band, index in zip(out, bands, strict=True):
            band[...] = view[index]
        return out


class _Tiff(FileRaster):
    """A TIFF without place, gaps and names, whose parsing would take a tenth of the time."""

    names = ()

    def __init__(self, path: Path):
        self._file = open_tiff(path)
        shape = self._file.count, *self._file.shape
        Raster.__init__(self, path, shape, np.result_type(*self._file.dtypes))


def _open_tiff(path: Path) -> Raster:
    stored = read_plain(path)
    return _Tiff(path) if stored is None else _PlainTiff(path, stored)


def refuse_bands(path: Path, kind: str, count: int) -> None:
    """Raises ValueError if a file does not have the number of bands of its kind."""
    needed = len(BANDS[kind])
    if count != needed:
        raise ValueError(
            f"{path}: {count} band(s) where {needed} are needed ({' '.join(BANDS[kind])}); export "
            "it with all of them, also those that are not read: they are found by their number"
        )


class SentinelLabels(NamedTuple):
    """IGBP classes of SEN12MS or classes of DFC2020; see `datasets.labels.Labels`."""

    label: str  # "lc" or "dfc"
    num_classes: int  # 10, or 9 without savanna
    num_dates: int = 1
    about: str = "classes of one date"

    def read(self, paths: Sequence[Path], window: Window, opened: Open) -> np.ndarray:
        """See Labels."""
        file = opened(paths[0])
        if file.dtype.kind == "f":
            raise LabelError(f"{file.path}: floating-point values; store classes as 8-bit integers")
        stored, table = file.read(window), label_table(self.label, self.num_classes)
        if stored.dtype != np.uint8:
            stored = np.where(stored < 0, 255, stored).clip(0, 255)
        labels = np.ones((2, *stored.shape), np.uint8)
        classes = np.take(table, stored, out=labels[0])
        bad = classes == NO_CLASS
        if bad.any():
            last = "17 (IGBP)" if self.label == "lc" else f"{len(DFC_CLASSES)} (DFC2020)"
            wrong = listed(np.unique(file.read(window)[bad]))
            raise LabelError(f"{file.path}: value(s) {wrong} where 0..{last} is allowed")
        return labels


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
