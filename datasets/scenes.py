"""Random crops or windows of scenes with change labels; any size and number of bands.

Used by the data sets of binary change, `binary` and `rucode`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.samples import SampleDataset
from datasets.scene_reader import Scene, SceneReader
from datasets.splits import area_rows, area_share, split_names
from datasets.transforms import Augment
from utils.rasters.reading import beyond, open_raster
from utils.rasters.windows import Window, grid
from utils.structures import IGNORE_INDEX, Sample, Scheme

TILE_PX = 512  # default side of windows
PADDINGS = ("reflect", "constant")
DRAWS = 50  # attempts to draw a crop with a changed pixel, before one is placed around such a pixel


class SceneDataset(SampleDataset):
    """Random crops of scenes, or all their windows, as Samples with a change map and no classes.

    `images` are (2, C, h, w): uint8 if files are uint8 and the scheme does not standardise,
    otherwise float32. They are standardised with the statistics of the whole image (non-finite
    pixels become 0, the mean). `semantic` is (0, h, w). Without labels, `change` is IGNORE_INDEX.

    Args:
        scenes: scenes in order.
        scheme: bands ("grey" combines three), and whether they are standardised.
        part: name of the part.
        path: path of the part, for error messages.
        label_coding: coding of all labels, see `datasets.codecs.find_coding`.
        cache: "ram" or "disk", see `datasets.cache.make_cache`; None reads files every time.
        cache_dir: folder of the cache "disk".
        augment: random augmentation of crops of `crop_size` (None: the whole scene); random numbers
            depend on (seed, epoch, index) only.
        seed: at least 0.
        positive_crops: share in 0..1 of crops that must hold a changed pixel, if the scene has one.
        samples_per_image: crops per scene and epoch.
        tile_px: side of the windows, see `utils.rasters.windows.grid`; None = crops.
        overlap_px: overlap of neighbouring windows.
        padding: values of windows beyond the scene: "reflect", or "constant": all bands of both
            dates take the top left value of the first band of date 1 (as published for Rucode).
            `change` is IGNORE_INDEX there.

    Attributes:
        names: ids of the scenes, in order.
        labelled: whether all scenes have labels.
        scenes, scheme, part, path, tile_px, overlap_px: as given.
        windows: (index of the scene, window in its pixels) of every item; empty for crops.
        reader: reads the pixels of the scenes.

    Raises:
        ValueError: no scenes, a bad option, or files of a scene that differ in size.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        scheme: Scheme,
        *,
        part: str = "",
        path: Path | str = "",
        label_coding: str = "auto",
        cache: str | None = None,
        cache_dir: Path | str | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        positive_crops: float = 0.0,
        samples_per_image: int = 1,
        tile_px: int | None = None,
        overlap_px: int = 0,
        padding: str = "reflect",
    ):
        _check_options(scenes, positive_crops, samples_per_image, padding)
        if augment is not None and tile_px is not None:
            raise ValueError("random changes are for crops; leave out either augment or tile_px")
        self.scenes, self.scheme, self.part, self.path = list(scenes), scheme, part, Path(path)
        self.names = [scene.name for scene in self.scenes]
        self.labelled = all(scene.label is not None for scene in self.scenes)
        self.crop_size = augment.crop_size if augment else None
        self.augment = replace(augment, crop_size=None) if augment else None
        self.seed = seed
        self.positive_crops, self.samples_per_image = positive_crops, samples_per_image
        self.tile_px, self.overlap_px, self.padding = tile_px, overlap_px, padding
        self.reader = SceneReader(self.scenes, scheme, label_coding, cache, cache_dir)
        self.cache = self.reader.cache
        self._changed: dict[int, np.ndarray] = {}
        self._check_crops()
        self.windows = self._windows(tile_px, overlap_px) if tile_px is not None else []

    def __len__(self) -> int:
        return len(self.windows) or len(self.scenes) * self.samples_per_image

    @property
    def tile_sizes(self) -> list[tuple[int, int]] | None:
        """(height, width) of every window; None for crops."""
        return [(window.height, window.width) for _, window in self.windows] or None

    def read(self, epoch: int, index: int) -> Sample:
        """See SampleDataset; only crops depend on the epoch."""
        if self.windows:
            return self._cut(*self.windows[index])
        rng = np.random.default_rng((self.seed, epoch, index))
        scene = index % len(self.scenes)
        sample = self._cut(scene, self._choose(scene, rng))
        return self.augment(sample, rng) if self.augment else sample

    def _windows(self, tile_px: int, overlap_px: int) -> list[tuple[int, Window]]:
        found = []
        for index in range(len(self.scenes)):
            (start, stop), width = self._area(index)
            full = self.padding == "constant"
            for window in grid(stop - start, width, tile_px, overlap_px, full):
                found.append((index, window._replace(top=start + window.top)))
        return found

    def _check_crops(self) -> None:
        sides = [min(shape) for shape in self.reader.shapes]
        if self.crop_size is not None and self.crop_size > min(sides):
            smallest = sides.index(min(sides))
            height, width = self.reader.shapes[smallest]
            raise ValueError(
                f"--crop-size {self.crop_size} is larger than scene {self.names[smallest]} "
                f"({height} x {width} in use); pass at most {min(sides)}"
            )

    def _area(self, index: int) -> tuple[tuple[int, int], int]:
        """Rows (start, stop) in use and width of a scene."""
        return self.reader.rows(index), self.reader.sizes[index][1]

    def _choose(self, index: int, rng: np.random.Generator) -> Window:
        """Draws a crop inside the rows in use."""
        (start, stop), width, size = *self._area(index), self.crop_size
        if size is None:
            return Window(start, 0, stop - start, width)

        def draw() -> Window:
            top = start + rng.integers(stop - start - size + 1)
            return Window(int(top), int(rng.integers(width - size + 1)), size, size)

        window = draw()
        if rng.random() >= self.positive_crops or not len(self._changes(index)):
            return window
        for _ in range(DRAWS):
            if (self.reader.change(index, window) == 1).any():
                return window
            window = draw()
        return self._around_change(index, window, rng)

    def _changes(self, index: int) -> np.ndarray:
        """Flat indices of the changed pixels among the rows in use."""
        if index not in self._changed:
            (start, stop), width = self._area(index)
            whole = Window(start, 0, stop - start, width)
            self._changed[index] = np.flatnonzero(self.reader.change(index, whole) == 1)
        return self._changed[index]

    def _around_change(self, index: int, window: Window, rng: np.random.Generator) -> Window:
        """A window of the same size with a random changed pixel in it."""
        (start, stop), width, size = *self._area(index), window.height
        row, column = divmod(int(rng.choice(self._changes(index))), width)
        top, left = (
            rng.integers(max(0, at - size + 1), min(at, length - size) + 1)
            for at, length in ((row, stop - start), (column, width))
        )
        return Window(start + int(top), int(left), size, size)

    def _cut(self, index: int, window: Window) -> Sample:
        """Reads the Sample of a window, as numpy arrays."""
        images = np.stack([self.reader.image(index, date, window) for date in (0, 1)])
        change = self.reader.change(index, window)
        outside = beyond(window, *self._area(index))
        if outside.any():
            change[outside] = IGNORE_INDEX
            if self.padding == "constant":
                corner = Window(self._area(index)[0][0], 0, 1, 1)
                images[..., outside] = self.reader.image(index, 0, corner)[0, 0, 0]
        semantic = np.zeros((0, *change.shape), np.uint8)
        return Sample(self.names[index], images, semantic, change)


def split_scenes(scenes: Sequence[Scene], rule: str) -> dict[str, list[Scene]]:
    """Splits labelled scenes into training and validation.

    Args:
        scenes: scenes with labels.
        rule: "area" or "area:SHARE": the bottom share of the rows of every scene is for validation,
            the rest for training. Others split by id, see `datasets.splits.split_names`.

    Returns:
        {"train": scenes, "val": scenes}.

    Raises:
        ValueError, FileNotFoundError: an unknown rule, or a rule that leaves a part empty.
    """
    share = area_share(rule)
    if share is None:
        known = {scene.name: scene for scene in scenes}
        parts = split_names(list(known), rule)
        train, val = ([known[name] for name in names] for names in parts)
        return {"train": train, "val": val}
    rows = [area_rows(open_raster(scene.images[0]).height, share) for scene in scenes]
    return {
        part: [scene._replace(rows=r[i]) for scene, r in zip(scenes, rows, strict=True)]
        for i, part in enumerate(("train", "val"))
    }


def build_scenes(
    scenes: Sequence[Scene],
    scheme: Scheme,
    *,
    augment: Augment | None = None,
    tile_px: int | None = None,
    pseudo_label_dir: Path | str | None = None,
    **options,
) -> SceneDataset:
    """Builds a SceneDataset: crops if `augment` is given, otherwise windows of `tile_px`.

    Args:
        scenes: scenes of the part.
        scheme: see SceneDataset.
        augment: random augmentation for training.
        tile_px: side of windows; None = TILE_PX; ignored if `augment` is given.
        pseudo_label_dir: must be None: binary change has no classes to fill in.
        **options: other arguments of SceneDataset.

    Raises:
        ValueError: `pseudo_label_dir` is given.
    """
    if pseudo_label_dir is not None:
        raise ValueError(
            "--use-pseudo-label fills in classes, and binary change has none; leave it out"
        )
    side = None if augment is not None else tile_px or TILE_PX
    return SceneDataset(scenes, scheme, augment=augment, tile_px=side, **options)


def _check_options(scenes, positive_crops, samples_per_image, padding) -> None:
    if not scenes:
        raise ValueError("there are no scenes; see --data-root and --split")
    if not 0 <= positive_crops <= 1:
        raise ValueError(f"--positive-crops {positive_crops} must lie in 0..1 (0 = off)")
    if samples_per_image < 1:
        raise ValueError(f"--samples-per-image {samples_per_image} must be at least 1")
    if padding not in PADDINGS:
        raise ValueError(f"--padding {padding!r} is not known; choose from {', '.join(PADDINGS)}")
