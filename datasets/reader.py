"""Reads windows of scenes: prepared images, and labels."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.bands import RGB, bands_in_file
from datasets.cache import BlockOffsets, make_cache
from datasets.codecs import LabelFile, open_label
from datasets.labels import Labels
from datasets.preparation import Moments, Preparation
from datasets.resize import Fit, Size
from utils.rasters.grids import shifted
from utils.rasters.raster import JoinedRaster, MemoryRaster, Raster
from utils.rasters.reading import open_raster, read_padded, read_valid
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX, ImageFile, Scene, Scheme

MOST_OPEN = 4  # scenes a thread keeps open; some are completely decoded in memory
PREVIEW_ROWS = 256  # rows in memory at a time


class Reading(NamedTuple):
    """How the files of a data set are read."""

    labels: Labels
    open_image: Callable[[Path], Raster] = open_raster
    open_label: Callable[[Path], LabelFile] = open_label
    scaled: bool = False  # pixels are scaled as they are read
    fit: Fit | None = None  # images are resized; scenes are then read as a whole
    equal_sizes: bool = False  # all scenes have the size of the first; only that one is opened


class SceneReader:
    """Reads windows of scenes; every thread opens its own files, on demand.

    Images are prepared for the networks, see `datasets.preparation`, with the statistics of the
    whole images where all dates have data, computed once per process. Where one date has no data,
    all dates have the mean, so that no change is seen, and labels are IGNORE_INDEX.

    Args:
        scenes: scenes in order.
        scheme: bands and standardisation.
        reading: how the files are read.
        cache: "ram" or "disk", see `datasets.cache.make_cache`: keeps prepared images and decoded
            labels of whole scenes. None reads files every time.
        cache_dir: folder of the cache "disk".
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        scheme: Scheme,
        reading: Reading,
        cache: str | None = None,
        cache_dir: Path | str | None = None,
    ):
        self.scenes, self.scheme, self.reading = scenes, scheme, reading
        self.prepare = Preparation(scheme, reading.scaled)
        # of many small scenes none is read again soon, and those kept open would only fill caches
        most = 1 if reading.equal_sizes else MOST_OPEN
        self._image_files = _MostRecent(reading.open_image, most)
        self._open = _MostRecent(self._opened, most)
        self._sizes: dict[int, Size] = {}
        self._moments: dict[tuple[tuple[ImageFile, ...], ...], list[Moments | None]] = {}
        self.cache = make_cache(
            cache,
            self._offsets,
            self._decode,
            lambda: (path for scene in scenes for path in scene.files),
            settings=(scheme, reading.labels, reading.fit),
            folder=cache_dir,
            threads=1 if self.prepare.standardised else None,  # large scenes are decoded whole
        )

    def size(self, index: int) -> Size:
        """(height, width) of the images of a scene as read, pixels."""
        stored, fit = self._stored_size(index), self.reading.fit
        return stored if fit is None else fit.image_size(stored)

    def label_size(self, index: int) -> Size:
        """(height, width) of the labels of a scene as read, pixels."""
        stored, fit = self._stored_size(index), self.reading.fit
        return stored if fit is None else fit.label_size(stored)

    def open_all(self) -> None:
        """Reads the sizes of all scenes, in threads."""
        if not self.reading.equal_sizes:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(self._stored_size, range(len(self.scenes))))

    def rows(self, index: int) -> tuple[int, int]:
        """Rows in use (start, stop) of a scene."""
        return self.scenes[index].rows or (0, self.size(index)[0])

    def shape(self, index: int) -> Size:
        """(height, width) of the rows in use of a scene."""
        start, stop = self.rows(index)
        return stop - start, self.size(index)[1]

    def in_use(self, index: int) -> Window:
        """The rows in use of a scene."""
        return Window(self.rows(index)[0], 0, *self.shape(index))

    def read(
        self, index: int, window: Window | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Images and labels of a window, reflected beyond the edges. May be read-only views.

        Args:
            index: of the scene.
            window: in pixels of the scene; None: the rows in use, with labels of their own size.

        Returns:
            (T, C, h, w), uint8 for 8-bit files if the scheme does not standardise, else float32;
            (T + 1, h, w) uint8, see `datasets.labels.Labels.read`; and (h, w) bool, where all dates
            have data, None: everywhere, or not known (from a cache, and for resized images).

        Raises:
            LabelError: values without a meaning.
            ValueError: files of a scene that differ in size, too few bands, or a wrong type.
            OSError: a file cannot be decoded.
        """
        if not self._as_a_whole:
            window = self.in_use(index) if window is None else window
            images, valid = self._read_images(index, window, self.scenes[index].rows)
            return images, self._read_labels(index, window, valid), valid
        images, labels = self._arrays(index)
        if window is None and self.scenes[index].rows is None:
            return images, labels, None
        window = self.in_use(index) if window is None else window
        rows = self.rows(index)
        cut = [
            read_padded(_in_memory(array), window, range(len(array)), rows=rows)
            for array in (images.reshape(-1, *images.shape[2:]), labels)
        ]
        return cut[0].reshape(*images.shape[:2], *cut[0].shape[1:]), cut[1], None

    def labels(self, index: int, window: Window) -> np.ndarray:
        """The labels of a window as `read` returns them; images are read only for their gaps."""
        if self._as_a_whole:
            return self.read(index, window)[1]
        if not self.scenes[index].labels:
            return self._read_labels(index, window, None)
        valid = None
        for raster, bands in self._open.get(index).dates:
            if raster.may_have_gaps:
                _, known = read_valid(raster, window, bands, self.rows(index))
                valid = _both(valid, known)
        return self._read_labels(index, window, valid)

    def georeference(self, index: int) -> dict:
        """`crs` and `transform` of the rows in use, from date 1; None without georeference."""
        raster = self._image_files.get(self.scenes[index].images[0])
        transform = shifted(raster.transform, 0, self.rows(index)[0])
        return {"crs": raster.crs, "transform": transform}

    def is_geotiff(self, index: int) -> bool:
        """Whether results are written as GeoTIFF: date 1 is a TIFF or has a georeference."""
        suffix = self.scenes[index].images[0].suffix.lower()
        return suffix in (".tif", ".tiff") or self.georeference(index)["transform"] is not None

    def preview(self, index: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Every `step`-th pixel of the rows in use: images (T, C, h, w), labels (T + 1, h, w)."""
        (start, stop), width = self.rows(index), self.size(index)[1]
        images, labels, rows = [], [], step * max(1, PREVIEW_ROWS // step)
        for top in range(start, stop, rows):
            strip = Window(top, 0, min(rows, stop - top), width)
            pixels, found, _ = self.read(index, strip)
            images.append(pixels[..., ::step, ::step].copy())  # so that the strip can be freed
            labels.append(found[:, ::step, ::step].copy())
        return np.concatenate(images, axis=2), np.concatenate(labels, axis=1)

    def measure(self, indices: Iterable[int]) -> None:
        """Computes statistics of scenes now, so that processes started later inherit them."""
        if self.prepare.standardised and not self._as_a_whole:
            for index in indices:
                self.moments(index)

    def moments(self, index: int) -> list[Moments | None]:
        """The statistics of each date of a scene, computed once; None if they are not needed."""
        dates = self.scenes[index].dates
        if dates not in self._moments:
            self._moments[dates] = self.prepare.moments(self._open.get(index).dates)
        return self._moments[dates]

    def keep_moments(self, index: int, moments: Sequence[Moments]) -> None:
        """Takes the statistics of a scene from elsewhere, such as another process."""
        self._moments[self.scenes[index].dates] = list(moments)

    @property
    def _as_a_whole(self) -> bool:
        return self.cache is not None or self.reading.fit is not None

    def _stored_size(self, index: int) -> Size:
        index = 0 if self.reading.equal_sizes else index
        if index not in self._sizes:
            raster = self._image_files.get(self.scenes[index].images[0])
            self._sizes[index] = raster.height, raster.width
        return self._sizes[index]

    def _read_images(
        self, index: int, window: Window, rows: tuple[int, int] | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Prepared images of a window, and (h, w) bool, where all dates have data; None: all."""
        dates, stored, valid = self._open.get(index).dates, [], None
        for raster, bands in dates:
            pixels, known = read_valid(raster, window, bands, rows)
            stored.append(pixels)
            valid = _both(valid, known)
        moments = self.moments(index) if self.prepare.standardised else [None] * len(stored)
        units = [raster.units(bands) for raster, bands in dates]
        each = zip(stored, moments, units, strict=True)
        prepared = [self.prepare(pixels, valid, *known) for pixels, *known in each]
        return prepared[0][None] if len(prepared) == 1 else np.stack(prepared), valid

    def _read_labels(
        self, index: int, window: Window, valid: np.ndarray | None, whole: bool = False
    ) -> np.ndarray:
        scene, count = self.scenes[index], self.reading.labels.num_dates + 1
        if not scene.labels:
            return np.full((count, window.height, window.width), IGNORE_INDEX, np.uint8)
        raster, rows = self._open.get(index).labels, None if whole else scene.rows
        labels = read_padded(raster, window, range(count), rows=rows)
        if valid is not None and not valid.all():
            labels[:, ~valid] = IGNORE_INDEX
        return labels

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of a whole scene, all its rows, from its files."""
        whole = Window(0, 0, *self._stored_size(index))
        images, valid = self._read_images(index, whole, None)
        labels, fit = self._read_labels(index, whole, valid, whole=True), self.reading.fit
        if fit is None:
            return images, labels
        mean = np.array(self.scheme.mean) * self.scheme.scale
        images = np.stack([fit.image(image, mean) for image in images])
        return images, np.stack([fit.label(label) for label in labels])

    def _arrays(self, index: int) -> Sequence[np.ndarray]:
        if self.cache is None:
            return self._decode(index)
        return self.cache.fetch(index, lambda: self._decode(index))

    def _offsets(self) -> BlockOffsets:
        self.open_all()
        shapes, dtypes = [], []
        dates, bands = self.scheme.num_dates, len(self.scheme.bands)
        plain = not self.prepare.standardised and self.scheme.scale == 255
        for index in range(len(self.scenes)):
            stored, fit = self._stored_size(index), self.reading.fit
            whole = plain and not (fit and fit.is_padded(stored))
            count = self.reading.labels.num_dates + 1
            shapes.append(((dates, bands, *self.size(index)), (count, *self.label_size(index))))
            dtypes.append((np.dtype(np.uint8 if whole else np.float32), np.dtype(np.uint8)))
        return BlockOffsets(shapes, dtypes)

    def _opened(self, index: int) -> "_OpenScene":
        """Opens the files of a scene, and compares their sizes."""
        scene = self.scenes[index]
        dates = [[self._open_image(file) for file in files] for files in scene.dates]
        labels = {path: self.reading.open_label(path) for path in scene.labels}
        rasters = [*(raster for files in dates for raster, _ in files), *labels.values()]
        refuse_sizes({raster.path: (raster.height, raster.width) for raster in rasters})
        return _OpenScene(
            [files[0] if len(files) == 1 else JoinedRaster.of(files) for files in dates],
            _SceneLabels(scene.labels, labels, self.reading.labels) if labels else None,
        )

    def _open_image(self, file: ImageFile) -> tuple[Raster, Sequence[int]]:
        raster = self._image_files.get(file.path)
        bands = bands_in_file(raster.path, raster.names, file.names, file.bands)
        if raster.count == 1 and raster.dtype == np.uint8 and self.scheme.bands == RGB:
            bands = (0,) * len(bands)  # a grey image
        if max(bands) >= raster.count:
            raise ValueError(
                f"{raster.path}: {raster.count} bands where {max(bands) + 1} are needed; choose "
                "others with --bands"
            )
        self.prepare.check_type(raster.path, raster.dtype)
        return raster, bands


def refuse_sizes(sizes: Mapping[Path, Size]) -> None:
    """Raises ValueError unless all files of a scene have the same size."""
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path} {size[0]} x {size[1]}" for path, size in sizes.items())
        raise ValueError(f"sizes differ: {listed}; all files of a scene have the same size")


class _OpenScene(NamedTuple):
    """The open files of a scene."""

    dates: list[tuple[Raster, Sequence[int]]]  # of each date, and the band indices to read
    labels: Raster | None  # T + 1 bands


class _MostRecent(threading.local):
    """What a thread has opened most recently; reset after a fork."""

    def __init__(self, opened: Callable[[Any], Any], most: int):
        self.open, self.most = opened, most
        self.found: dict[Any, Any] = {}
        self.pid = os.getpid()

    def __reduce__(self):
        return _MostRecent, (self.open, self.most)

    def get(self, key: Any) -> Any:
        """What belongs to a key, opened if necessary."""
        if self.pid != os.getpid():
            self.found, self.pid = {}, os.getpid()
        one = self.found.pop(key, None) or self.open(key)
        self.found[key] = one
        while len(self.found) > self.most:
            self.found.pop(next(iter(self.found)))
        return one


class _SceneLabels(Raster):
    """The decoded labels of a scene as a Raster of T + 1 bands."""

    def __init__(self, paths: Sequence[Path], files: Mapping[Path, LabelFile], labels: Labels):
        first = files[paths[0]]
        super().__init__(first.path, (labels.num_dates + 1, first.height, first.width), np.uint8)
        self._paths, self._files, self._labels = paths, files, labels

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """See Raster; all bands."""
        return self._labels.read(self._paths, window, self._files.__getitem__)


def _both(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """Where both masks are True; None is True everywhere."""
    if first is None or second is None:
        return first if second is None else second
    return first & second


def _in_memory(pixels: np.ndarray) -> Raster:
    return MemoryRaster("memory", pixels.shape, pixels.dtype, lambda: pixels)
