"""Scenes as arrays: windows of their images, standardised, and of their change labels."""

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

MOST_OPEN = 6  # files a thread keeps open, some of them decoded whole
PREVIEW_ROWS = 256  # in memory at a time


class Scene(NamedTuple):
    """The files of one scene, and what of them is used."""

    name: str  # id
    images: tuple[Path, Path]  # of date 1 and 2; the same file twice where it holds both
    bands: tuple[tuple[int, ...], tuple[int, ...]]  # that are read of each date, from 0
    label: Path | None = None
    rows: tuple[int, int] | None = None  # (start, stop) that are used; None = all


class SceneReader:
    """Reads windows of scenes; opens files when they are asked for, each thread its own.

    Args:
        scenes: in this order.
        scheme: bands ("grey" makes one of three), and how they are standardised: by the statistics
            of the whole image, streamed once a process. Pixels that are not finite, or hold their
            file's nodata value, become 0 then, the mean.
        label_coding: of all labels, see `datasets.codecs.find_coding`.
        cache: keeps decoded scenes, see `datasets.cache.make_cache`; None reads files anew.
        cache_dir: of cache "disk".

    Attributes:
        sizes: (height, width) of every scene.
        label_coding: "auto" resolved.

    Raises:
        ValueError: files of a scene that differ in size, too few bands, or an unknown option.
        OSError: a file that is no image.
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
        kinds = [self._kind(scene) for scene in scenes]
        self.sizes = [shapes[0][1:] for shapes, _ in kinds]
        self.cache = make_cache(
            cache,
            lambda: BlockLayout(*zip(*kinds, strict=True)),
            lambda index: self._decode(scenes[index]),
            lambda: (p for s in scenes for p in (*s.images, s.label) if p is not None),
            rules=(self.label_coding, [scene.bands for scene in scenes]),
            folder=cache_dir,
            threads=1,  # each keeps rasters of its own, some of them decoded whole
        )

    def rows(self, index: int) -> tuple[int, int]:
        """(start, stop) of the rows of a scene that are used."""
        return self.scenes[index].rows or (0, self.sizes[index][0])

    def image(self, index: int, date: int, window: Window) -> np.ndarray:
        """(C, h, w) of date 0 or 1, reflected beyond the edges.

        uint8 where files hold that and the scheme does not standardise, else float32.
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
        """(h, w) uint8 of the label, reflected beyond the edges; IGNORE_INDEX where unknown."""
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
        """(height, width) of what is used of every scene."""
        rows = [self.rows(index) for index in range(len(self.scenes))]
        return [(b - a, size[1]) for (a, b), size in zip(rows, self.sizes, strict=True)]

    def place(self, index: int) -> dict:
        """`crs` and `transform` of what is used of a scene, as date 1 has them; None for none."""
        raster = self._files.get(self.scenes[index].images[0])
        transform = shifted(raster.transform, 0, self.rows(index)[0])
        return {"crs": raster.crs, "transform": transform}

    def is_geotiff(self, index: int) -> bool:
        """Whether results belong in a GeoTIFF: date 1 is a TIFF, or has a place on earth."""
        suffix = self.scenes[index].images[0].suffix.lower()
        return suffix in (".tif", ".tiff") or self.place(index)["transform"] is not None

    def preview(self, index: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Every `step`-th pixel of what is used: images (2, C, h, w) and change (h, w)."""
        (start, stop), width = self.rows(index), self.sizes[index][1]
        images, change, rows = [], [], step * max(1, PREVIEW_ROWS // step)
        for top in range(start, stop, rows):
            strip = Window(top, 0, min(rows, stop - top), width)
            dates = [self.image(index, date, strip)[:, ::step, ::step] for date in (0, 1)]
            images.append(np.stack(dates))  # copies, so that the strip can go
            change.append(self.change(index, strip)[::step, ::step].copy())
        return np.concatenate(images, axis=2), np.concatenate(change)

    def measure(self, indices: Iterable[int]) -> None:
        """Takes the statistics of scenes now, for all processes that are started later."""
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
        """The raster of a date, and which bands of it to read."""
        scene = self.scenes[index]
        if self.cache is None:
            return self._files.get(scene.images[date]), scene.bands[date]
        return _in_memory(self._cached(index)[date]), range(len(scene.bands[date]))

    def _cached(self, index: int) -> Sequence[np.ndarray]:
        """Date 1, date 2 (C, H, W) as stored, and change (H, W), whole."""
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

    def _kind(self, scene: Scene) -> tuple[list[tuple[int, ...]], list[np.dtype]]:
        """Shapes and types of what `_decode` gives; looks at the heads of files only."""
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
    """Open rasters, the latest few; every thread of every process has its own handles."""

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
    """A label as a raster of change."""

    def __init__(self, label: Raster, coding: str):
        super().__init__(label.path, (1, label.height, label.width), np.uint8)
        self.label, self.coding = label, coding

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster."""
        return read_change(self.label, window, self.coding)[None]


def _in_memory(pixels: np.ndarray) -> Raster:
    return MemoryRaster("memory", pixels.shape, pixels.dtype, lambda: pixels)
