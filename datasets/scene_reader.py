"""Reads windows of scenes: standardised images and change labels."""

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.bands import GREY
from datasets.cache import BlockLayout, make_cache
from datasets.codecs import find_coding, read_change
from utils.rasters.grids import shifted
from utils.rasters.reading import MemoryRaster, Raster, open_raster, read_padded
from utils.rasters.statistics import mean_and_std, measured, to_grey
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX, Scheme

MOST_OPEN = 6  # files a thread keeps open; some are completely decoded in memory
PREVIEW_ROWS = 256  # rows in memory at a time


class Scene(NamedTuple):
    """The files of one scene, and the bands and rows to use."""

    name: str  # id
    images: tuple[Path, Path]  # date 1, date 2; the same file twice if it holds both
    bands: tuple[tuple[int, ...], tuple[int, ...]]  # band indices of each date, from 0
    label: Path | None = None
    rows: tuple[int, int] | None = None  # rows in use (start, stop); None = all


class SceneReader:
    """Reads windows of scenes; every thread opens its own files, on demand.

    Args:
        scenes: scenes in order.
        scheme: bands ("grey" combines three), and standardisation with the statistics of the whole
            image, computed once per process. Non-finite and nodata pixels become 0 (the mean)
            after standardisation.
        label_coding: coding of all labels, see `datasets.codecs.find_coding`.
        cache: "ram" or "disk", see `datasets.cache.make_cache`; None reads files every time.
        cache_dir: folder of the cache "disk".

    Attributes:
        sizes: (height, width) of every scene.
        label_coding: the given or detected coding.

    Raises:
        ValueError: files of a scene differ in size, too few bands, or an unknown option.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        scheme: Scheme,
        label_coding: str = "auto",
        cache: str | None = None,
        cache_dir: Path | str | None = None,
    ):
        self.scenes, self.scheme = scenes, scheme
        labels = [scene.label for scene in scenes if scene.label is not None]
        self.label_coding = find_coding(labels, label_coding)
        self._files = _Files()
        self._moments: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        specs = [self._specs(scene) for scene in scenes]
        self.sizes = [shapes[0][1:] for shapes, _ in specs]
        self.cache = make_cache(
            cache,
            lambda: BlockLayout(*zip(*specs, strict=True)),
            lambda index: self._decode(scenes[index]),
            lambda: (p for s in scenes for p in (*s.images, s.label) if p is not None),
            settings=(self.label_coding, [scene.bands for scene in scenes]),
            folder=cache_dir,
            threads=1,  # each thread would keep its own decoded rasters
        )

    def rows(self, index: int) -> tuple[int, int]:
        """Rows in use (start, stop) of a scene."""
        return self.scenes[index].rows or (0, self.sizes[index][0])

    def image(self, index: int, date: int, window: Window) -> np.ndarray:
        """Window (C, h, w) of an image, reflected beyond the edges; `date` is 0 or 1.

        uint8 if the file is uint8 and the scheme does not standardise, otherwise float32.
        """
        raster, bands = self._raster(index, date)
        grey = tuple(self.scheme.bands) == GREY
        pixels = read_padded(raster, window, bands, rows=self.rows(index))
        if self.scheme.standardise != "none":
            pixels = measured(pixels, raster.nodata)
        pixels = to_grey(pixels) if grey else pixels
        if self.scheme.standardise == "none":
            return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        mean, std = self._mean_and_std(index, date)
        return np.nan_to_num(((pixels - mean) / std).astype(np.float32), posinf=0, neginf=0)

    def change(self, index: int, window: Window) -> np.ndarray:
        """Window (h, w) uint8 of the label, reflected at the edges; IGNORE_INDEX = unlabelled."""
        if self.scenes[index].label is None:
            return np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
        if self.cache is not None:
            change = _in_memory(self._cached(index)[2][None])
            return read_padded(change, window, (0,), rows=self.rows(index))[0]
        label = self._files.get(self.scenes[index].label, indices=True)
        change = _Decoded(label, self.label_coding)
        return read_padded(change, window, (0,), rows=self.rows(index))[0]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of the rows in use of every scene."""
        rows = [self.rows(index) for index in range(len(self.scenes))]
        return [(b - a, size[1]) for (a, b), size in zip(rows, self.sizes, strict=True)]

    def georeference(self, index: int) -> dict:
        """`crs` and `transform` of the rows in use, from date 1; None without georeference."""
        raster = self._files.get(self.scenes[index].images[0])
        transform = shifted(raster.transform, 0, self.rows(index)[0])
        return {"crs": raster.crs, "transform": transform}

    def is_geotiff(self, index: int) -> bool:
        """Whether results are written as GeoTIFF: date 1 is a TIFF or has a georeference."""
        suffix = self.scenes[index].images[0].suffix.lower()
        return suffix in (".tif", ".tiff") or self.georeference(index)["transform"] is not None

    def preview(self, index: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Every `step`-th pixel of the rows in use: images (2, C, h, w) and change (h, w)."""
        (start, stop), width = self.rows(index), self.sizes[index][1]
        images, change, rows = [], [], step * max(1, PREVIEW_ROWS // step)
        for top in range(start, stop, rows):
            strip = Window(top, 0, min(rows, stop - top), width)
            dates = [self.image(index, date, strip)[:, ::step, ::step] for date in (0, 1)]
            images.append(np.stack(dates))  # a copy, so that the strip can be freed
            change.append(self.change(index, strip)[::step, ::step].copy())
        return np.concatenate(images, axis=2), np.concatenate(change)

    def measure(self, indices: Iterable[int]) -> None:
        """Computes statistics of scenes now, so that processes started later inherit them."""
        if self.scheme.standardise != "none":
            for index in indices:
                self._mean_and_std(index, 0)
                self._mean_and_std(index, 1)

    def _mean_and_std(self, index: int, date: int) -> tuple[np.ndarray, np.ndarray]:
        scene, (raster, bands) = self.scenes[index], self._raster(index, date)
        key = (scene.images[date], scene.bands[date])
        if key not in self._moments:
            joint, grey = self.scheme.standardise == "joint", self.scheme.bands == GREY
            self._moments[key] = mean_and_std(raster, bands, joint=joint, grey=grey)
        return self._moments[key]

    def _raster(self, index: int, date: int) -> tuple[Raster, Sequence[int]]:
        """The raster of a date, and the band indices to read."""
        scene = self.scenes[index]
        if self.cache is None:
            return self._files.get(scene.images[date]), scene.bands[date]
        return _in_memory(self._cached(index)[date]), range(len(scene.bands[date]))

    def _cached(self, index: int) -> Sequence[np.ndarray]:
        """Cached whole arrays: date 1 and date 2 (C, H, W) as stored, and change (H, W)."""
        return self.cache.fetch(index, lambda: self._decode(self.scenes[index]))

    def _decode(self, scene: Scene) -> list[np.ndarray]:
        arrays = []
        for path, bands in zip(scene.images, scene.bands, strict=True):
            raster = self._files.get(path)
            arrays.append(raster.read(Window(0, 0, raster.height, raster.width), bands))
        whole = Window(0, 0, *arrays[0].shape[1:])
        if scene.label is None:
            return [*arrays, np.full(whole[2:], IGNORE_INDEX, np.uint8)]
        label = self._files.get(scene.label, indices=True)
        return [*arrays, read_change(label, whole, self.label_coding)]

    def _specs(self, scene: Scene) -> tuple[list[tuple[int, ...]], list[np.dtype]]:
        """Shapes and dtypes of the arrays of `_decode`; reads only file headers."""
        rasters = [self._files.get(path) for path in scene.images]
        labels = [] if scene.label is None else [self._files.get(scene.label, indices=True)]
        sizes = [(raster.height, raster.width) for raster in (*rasters, *labels)]
        if len(set(sizes)) > 1:
            shapes = " and ".join(f"{height} x {width}" for height, width in sizes)
            raise ValueError(f"scene {scene.name}: its files are {shapes} pixels; make them equal")
        for raster, bands in zip(rasters, scene.bands, strict=True):
            if max(bands) >= raster.count:
                raise ValueError(
                    f"{raster.path}: {raster.count} bands where {max(bands) + 1} are needed; "
                    "choose others with --bands"
                )
        shapes = [(len(bands), *sizes[0]) for bands in scene.bands]
        return [*shapes, sizes[0]], [*(raster.dtype for raster in rasters), np.dtype(np.uint8)]


class _Files(threading.local):
    """The most recently used open rasters of a thread; reset after a fork."""

    def __init__(self):
        self.opened: dict[tuple[Path, bool], Raster] = {}
        self.pid = os.getpid()

    def __reduce__(self):
        return _Files, ()

    def get(self, path: Path, indices: bool = False) -> Raster:
        """See `open_raster`."""
        if self.pid != os.getpid():
            self.opened, self.pid = {}, os.getpid()
        raster = self.opened.pop((path, indices), None) or open_raster(path, indices)
        self.opened[path, indices] = raster
        while len(self.opened) > MOST_OPEN:
            self.opened.pop(next(iter(self.opened)))
        return raster


class _Decoded(Raster):
    """A change label as a Raster with decoded values."""

    def __init__(self, label: Raster, coding: str):
        super().__init__(label.path, (1, label.height, label.width), np.uint8)
        self.label, self.coding = label, coding

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        return read_change(self.label, window, self.coding)[None]


def _in_memory(pixels: np.ndarray) -> Raster:
    return MemoryRaster("memory", pixels.shape, pixels.dtype, lambda: pixels)
