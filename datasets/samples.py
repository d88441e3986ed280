"""The data set class: random crops of scenes, whole scenes, or windows of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.codecs import open_label
from datasets.labels import PairLabels, classes_of
from datasets.layout import find_files
from datasets.reader import Reading, SceneReader
from datasets.resize import Size
from datasets.transforms import Augment
from utils.rasters.reading import beyond
from utils.rasters.windows import Window, windows_of
from utils.structures import IGNORE_INDEX, Sample, Scene, Scheme

Key = int | tuple[int, int]  # index, or (epoch, index)

TILE_PX = 1024  # default side of windows
OVERLAP_PX = 48  # default overlap of windows of this side
WHOLE_PX = 1024  # default of the largest side that is predicted as a whole
PADDINGS = ("reflect", "constant")
DRAWS = 50  # attempts to draw a crop with a changed pixel, before one is placed around such a pixel


class SceneSamples(Dataset):
    """Samples of scenes by index, or by (epoch, index).

    With `augment`, an item is a random crop, or without a crop size the whole scene. Crops may
    reach beyond small scenes: images are reflected, labels are IGNORE_INDEX. Otherwise an item is a
    whole scene, or a window of one that is larger than `whole_px`.

    Args:
        scenes: scenes in order.
        scheme: bands and classes.
        reading: how the files are read.
        part: name of the part.
        path: path of the part, for error messages.
        cache: "ram" or "disk", see SceneReader; None reads files every time.
        cache_dir: folder of the cache "disk".
        augment: random augmentation; its random numbers depend on (seed, epoch, index) only, not
            on workers, ranks or restarts.
        seed: at least 0.
        positive_crops: share in 0..1 of crops that must hold a changed pixel, if the scene has one.
        samples_per_image: crops per scene and epoch; those of one scene are consecutive.
        tile_px: side of the windows of large scenes, see `utils.rasters.windows.windows_of`.
        overlap_px: overlap of neighbouring windows.
        padding: values of windows beyond the scene: "reflect", or "constant": all bands of all
            dates take the top left value of the first band of date 1 (as published for Rucode).
            Labels are IGNORE_INDEX there.
        whole_px: longest side in pixels of scenes that are not divided into windows.

    Attributes:
        names: ids of the scenes, in order.
        labelled: whether all scenes have labels.
        windows: (index of the scene, window in its pixels) of every item; empty for training.
        reader: reads the pixels of the scenes.
        epoch: epoch used for plain indices.

    Raises:
        ValueError: no scenes, a repeated id, or a bad option.
        OSError: a file cannot be read.
    """

    epoch = 0

    def __init__(
        self,
        scenes: Sequence[Scene],
        scheme: Scheme,
        reading: Reading,
        *,
        part: str = "",
        path: Path | str = "",
        cache: str | None = None,
        cache_dir: Path | str | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        positive_crops: float = 0.0,
        samples_per_image: int = 1,
        tile_px: int | None = None,
        overlap_px: int = 0,
        padding: str = "reflect",
        whole_px: int | None = None,
    ):
        self.scenes, self.scheme, self.part, self.path = scenes, scheme, part, Path(path)
        self.names = getattr(scenes, "names", None) or [scene.name for scene in scenes]
        self._check_names()
        _check_options(augment, positive_crops, samples_per_image, padding)
        self.labelled = all(scenes[i].labels for i in (0, -1))
        self.crop_size = augment.crop_size if augment else None
        self.augment = replace(augment, crop_size=None) if augment else None
        self.seed = seed
        self.positive_crops, self.samples_per_image = positive_crops, samples_per_image
        self.tile_px, self.overlap_px, self.padding = tile_px or TILE_PX, overlap_px, padding
        self.whole_px = WHOLE_PX if whole_px is None else whole_px
        self.reader = SceneReader(scenes, scheme, reading, cache, cache_dir)
        self.cache = self.reader.cache
        self._changed: dict[int, np.ndarray] = {}
        self.windows = [] if augment else self._windows()

    def __len__(self) -> int:
        return len(self.windows) or len(self.scenes) * self.samples_per_image

    @property
    def tile_sizes(self) -> list[Size | tuple[Size, Size]] | None:
        """(height, width) of every item; a pair (image, label) if labels have another size.

        None if all are equal by declaration, and for crops.
        """
        reading = self.reader.reading
        padded = reading.fit is not None and reading.fit.pad
        if self.crop_size is not None or reading.equal_sizes or padded:
            return None
        if not self.windows:
            self.reader.open_all()
            sizes = [self.reader.shape(index) for index in range(len(self.scenes))]
            return [size for size in sizes for _ in range(self.samples_per_image)]
        found = []
        for index, window in self.windows:
            if window is None:
                found.append((self.reader.shape(index), self.reader.label_size(index)))
            else:
                found.append((window.height, window.width))
        return found

    def num_smaller_than_crops(self) -> int:
        """Number of scenes with a side shorter than the crop size; opens all scenes."""
        if self.crop_size is None:
            return 0
        self.reader.open_all()
        shapes = (self.reader.shape(index) for index in range(len(self.scenes)))
        return sum(min(shape) < self.crop_size for shape in shapes)

    def scene_of(self, name: str) -> Scene:
        """A scene by id."""
        return self.scenes[self._index[name]]

    def has_georeference(self, name: str) -> bool:
        """Whether date 1 of a scene has a georeference."""
        return self.reader.georeference(self._index[name])["transform"] is not None

    def is_geotiff(self, name: str) -> bool:
        """Whether date 1 of a scene is a TIFF or has a georeference."""
        return self.reader.is_geotiff(self._index[name])

    def is_divided(self, name: str) -> bool:
        """Whether only some rows of a scene are in use, or windows of it are predicted."""
        index = self._index[name]
        if self.scenes[index].rows is not None:
            return True
        return self.reader.reading.fit is None and max(self.reader.shape(index)) > self.whole_px

    def whole_masks(self, name: str, masks: np.ndarray) -> np.ndarray:
        """Masks (T, h, W) of the rows in use as masks (T, H, W) of the image; 0 elsewhere."""
        index = self._index[name]
        (start, stop), (height, _) = self.reader.rows(index), self.reader.size(index)
        return np.pad(masks, ((0, 0), (start, height - stop), (0, 0)))

    def dense_labels(self, name: str) -> np.ndarray | None:
        """Class of every pixel, changed or not, from the folders dense1 and dense2.

        The generated demo data have them; for the evaluation of pseudo labels, not training.

        Returns:
            (2, H, W) uint8, 1..K, 0 = unknown; None if there are no such files, and if the labels
            themselves have a class everywhere.
        """
        labels = self.reader.reading.labels
        if not (isinstance(labels, PairLabels) and labels.style == "changed"):
            return None
        if self._dense is None:
            self._dense = [find_files(self.path / field) for field in ("dense1", "dense2")]
        if not all(name in found for found in self._dense):
            return None
        files = [open_label(found[name][0]) for found in self._dense]
        whole = Window(0, 0, *self.reader.size(self._index[name]))
        dense = np.stack([classes_of(file, whole, labels.classes) for file in files])
        return np.where(dense < self.scheme.num_classes, dense + np.uint8(1), np.uint8(0))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of plain indices; samplers of `datasets.loader` pass (epoch, index)."""
        self.epoch = epoch

    def __getitem__(self, key: Key) -> Sample:
        """Item `index`, or (epoch, index) with that epoch's augmentation; tensors, labels int64."""
        (sample,) = self.__getitems__([key])
        return Sample(
            name=sample.name,
            images=torch.from_numpy(np.require(sample.images, requirements=["C", "W"])),
            semantic=torch.from_numpy(sample.semantic.astype(np.int64, order="C")),
            change=torch.from_numpy(sample.change.astype(np.int64, order="C")),
            valid=None if sample.valid is None else torch.from_numpy(sample.valid),
        )

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Items as numpy arrays, possibly views, labels uint8; `collate` copies them once.

        With a cache, this is thread-safe.
        """
        return [self._item(*(key if isinstance(key, tuple) else (self.epoch, key))) for key in keys]

    def _item(self, epoch: int, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)} in {self.path}")
        if self.windows:
            return self._cut(*self.windows[index])
        scene = index // self.samples_per_image
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self._cut(scene, self._choose(scene, rng))
        return self.augment(sample._replace(valid=None), rng)

    def _cut(self, index: int, window: Window | None) -> Sample:
        """Reads the Sample of a window, or of the whole scene, as numpy arrays."""
        images, labels, valid = self.reader.read(index, window)
        if window is not None:
            rows, width = self.reader.rows(index), self.reader.size(index)[1]
            inside = rows[0] <= window.top and window.top + window.height <= rows[1]
            if not (inside and window.left >= 0 and window.left + window.width <= width):
                images, labels = self._fill(index, beyond(window, rows, width), images, labels)
        valid = None if valid is None or valid.all() else valid
        return Sample(self.names[index], images, labels[:-1], labels[-1], valid)

    def _fill(
        self, index: int, outside: np.ndarray, images: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fills what lies beyond a scene."""
        labels = np.where(outside, np.uint8(IGNORE_INDEX), labels)
        if self.padding == "constant":
            corner = Window(self.reader.rows(index)[0], 0, 1, 1)
            value = self.reader.read(index, corner)[0][0, 0, 0, 0]
            images = np.where(outside, value, images)
        return images, labels

    def _windows(self) -> list[tuple[int, Window | None]]:
        """All windows; None is the whole of a scene that is resized."""
        self.reader.open_all()
        found, full = [], self.padding == "constant"
        for index in range(len(self.scenes)):
            if self.reader.reading.fit is not None:
                found.append((index, None))
                continue
            if max(self.reader.shape(index)) <= self.whole_px:
                found.append((index, self.reader.in_use(index)))
                continue
            top = self.reader.rows(index)[0]
            for window in windows_of(
                *self.reader.shape(index), self.tile_px, self.overlap_px, full
            ):
                found.append((index, window._replace(top=top + window.top)))
        return found

    def _choose(self, index: int, rng: np.random.Generator) -> Window | None:
        """Draws a crop of the rows in use, which may lie inside of it; None: no crop."""
        size = self.crop_size
        if size is None:
            return None

        def draw() -> Window:
            area = self.reader.in_use(index)
            top, left = (_first(rng, length, size) for length in (area.height, area.width))
            return Window(area.top + top, left, size, size)

        window = draw()
        if not self.positive_crops or rng.random() >= self.positive_crops:
            return window
        if not len(self._changes(index)):
            return window
        for _ in range(DRAWS):
            if (self.reader.labels(index, window)[-1] == 1).any():
                return window
            window = draw()
        return self._around_change(index, window, rng)

    def _changes(self, index: int) -> np.ndarray:
        """Flat indices of the changed pixels among the rows in use."""
        if index not in self._changed:
            change = self.reader.labels(index, self.reader.in_use(index))[-1]
            self._changed[index] = np.flatnonzero(change == 1)
        return self._changed[index]

    def _around_change(self, index: int, window: Window, rng: np.random.Generator) -> Window:
        """A window of the same size with a random changed pixel in it."""
        area, size = self.reader.in_use(index), window.height
        row, column = divmod(int(rng.choice(self._changes(index))), area.width)
        top, left = (
            int(rng.integers(max(0, at - size + 1), min(at, max(length - size, 0)) + 1))
            for at, length in ((row, area.height), (column, area.width))
        )
        return Window(area.top + top, left, size, size)

    def _check_names(self) -> None:
        if not len(self.names):
            raise ValueError(f"no scenes in the part {self.part!r} of {self.path}; see --data-root")
        self._index = {name: i for i, name in enumerate(self.names)}
        if len(self._index) < len(self.names):
            raise ValueError(
                f"the part {self.part!r} of {self.path} has the same id twice; rename one file"
            )
        self._dense: list[dict[str, list[Path]]] | None = None


def _first(rng: np.random.Generator, length: int, size: int) -> int:
    """A random first pixel of a crop along one side; a small scene lies somewhere inside of it."""
    least, most = sorted((0, length - size))
    return int(rng.integers(least, most + 1))


def _check_options(augment, positive_crops, samples_per_image, padding) -> None:
    if not 0 <= positive_crops <= 1:
        raise ValueError(f"--positive-crops {positive_crops} must lie in 0..1 (0 = off)")
    if samples_per_image < 1:
        raise ValueError(f"--samples-per-image {samples_per_image} must be at least 1")
    if samples_per_image > 1 and (augment is None or augment.crop_size is None):
        raise ValueError("--samples-per-image is for crops; pass --crop-size too")
    if padding not in PADDINGS:
        raise ValueError(f"--padding {padding!r} is not known; choose from {', '.join(PADDINGS)}")
