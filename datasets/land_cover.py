"""Land cover of one date: images with a class for every pixel, for any file format.

A Reader converts files to arrays; LandCoverDataset converts the arrays to Samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from datasets.cache import BlockLayout, make_cache
from datasets.samples import SampleDataset
from datasets.splits import split_names
from datasets.transforms import Augment
from utils.structures import IGNORE_INDEX, Sample, Scheme

Size = tuple[int, int]  # height, width in pixels
Named = TypeVar("Named", bound=Any)  # has an attribute `name`, its id


class Patch(NamedTuple):
    """The files of one image and its label."""

    name: str  # id
    images: tuple[Path, ...]  # files whose bands form one image
    label: Path | None = None


class Reader(Protocol):
    """Reads patches as arrays.

    Attributes:
        names: ids, in order.
        labelled: whether there are labels.
        settings: what the arrays depend on besides the files; compared by repr.
    """

    names: Sequence[str]
    labelled: bool
    settings: object

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, H, W) and classes (h, w) uint8 in 0..K-1 or IGNORE_INDEX."""

    def array_specs(self, index: int) -> tuple[tuple, tuple]:
        """Shapes and dtypes of the arrays that `read` returns, without decoding the files."""

    def patch(self, index: int) -> Patch:
        """The files of a patch."""

    def sizes(self) -> list[tuple[Size, Size]] | None:
        """Sizes of the images and labels that `read` returns; None if all are equal."""


class LandCoverDataset(SampleDataset):
    """Patches of one date as Samples: images (1, C, H, W), semantic (1, H, W), change all 1.

    Every pixel has a class, so every pixel counts as changed: masks hold class + 1 everywhere.
    Without labels, `semantic` is IGNORE_INDEX.

    Args:
        reader: reads the files.
        scheme: classes and bands.
        part: name of the part.
        path: path of the part, for error messages.
        cache: "ram" or "disk", see `datasets.cache.make_cache`; None reads files every time.
        cache_dir: folder of the cache "disk".
        augment: random augmentation; its random numbers depend on (seed, epoch, index) only.
        seed: at least 0.
        samples_per_image: number of items (crops) per image; items of one image are consecutive.

    Attributes:
        names: ids, in order.
        labelled: whether there are labels.
        scheme, part, path: as given.

    Raises:
        ValueError: no patches, a repeated id, or several samples per image without a crop size.
    """

    def __init__(
        self,
        reader: Reader,
        scheme: Scheme,
        *,
        part: str = "",
        path: Path | str = "",
        cache: str | None = None,
        cache_dir: Path | str | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        samples_per_image: int = 1,
    ):
        self.reader, self.scheme, self.part, self.path = reader, scheme, part, Path(path)
        self.names, self.labelled = reader.names, reader.labelled
        self._index = {name: i for i, name in enumerate(self.names)}
        if not self.names:
            raise ValueError(f"no patches in the part {part!r} of {path}; pass --data-root")
        if len(self._index) < len(self.names):
            raise ValueError(f"the part {part!r} of {path} has the same id twice; rename one file")
        if samples_per_image > 1 and (augment is None or augment.crop_size is None):
            raise ValueError("--samples-per-image is for crops; pass --crop-size too")
        self.augment, self.seed = augment, seed
        self.samples_per_image = samples_per_image
        self.cache = make_cache(
            cache,
            self._layout,
            reader.read,
            self._files,
            settings=reader.settings,
            folder=cache_dir,
        )
        self._sizes: list[tuple[Size, Size]] | None = None

    def __len__(self) -> int:
        return len(self.names) * self.samples_per_image

    @property
    def tile_sizes(self) -> list[tuple[Size, Size]] | None:
        """(height, width) of every image and label as read; None if all are equal."""
        if self._sizes is None:
            self._sizes = self.reader.sizes()
        return self._sizes

    def patch_of(self, name: str) -> Patch:
        """The files of a patch by id; the first image has the georeference."""
        return self.reader.patch(self._index[name])

    def read(self, epoch: int, index: int) -> Sample:
        """See SampleDataset."""
        patch = index // self.samples_per_image
        image, classes = self._arrays(patch)
        everywhere = np.ones(classes.shape, np.uint8)
        sample = Sample(self.names[patch], image[None], classes[None], everywhere)
        if self.augment is None:
            return sample
        return self.augment(sample, np.random.default_rng((self.seed, epoch, index)))

    def _layout(self) -> BlockLayout:
        return BlockLayout(
            *zip(*(self.reader.array_specs(i) for i in range(len(self.names))), strict=True)
        )

    def _files(self) -> Iterator[Path]:
        """All image and label files."""
        for patch in map(self.reader.patch, range(len(self.names))):
            yield from (*patch.images, *([patch.label] if patch.label else []))

    def _arrays(self, index: int) -> Sequence[np.ndarray]:
        if self.cache is None:
            return self.reader.read(index)
        return self.cache.fetch(index, lambda: self.reader.read(index))


def unlabelled(size: Size) -> np.ndarray:
    """Classes (h, w) uint8 of an image without a label: all IGNORE_INDEX."""
    return np.full(size, IGNORE_INDEX, np.uint8)


def refuse_sizes(sizes: Mapping[Path, Size]) -> None:
    """Raises ValueError unless all files of a patch have the same size."""
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path} {size[0]} x {size[1]}" for path, size in sizes.items())
        raise ValueError(f"sizes differ: {listed}; all files of a patch have the same size")


def split_patches(patches: Sequence[Named], rule: str, part: str) -> list[Named]:
    """The training or validation subset, see `datasets.splits.split_names`; sorted by id.

    Raises:
        FileNotFoundError, ValueError: a bad rule, or a part other than train and val.
    """
    if part not in ("train", "val"):
        raise ValueError(f"--split {rule} makes train and val, not {part!r}; leave it out")
    known = {patch.name: patch for patch in patches}
    train, val = split_names(list(known), rule)
    return [known[name] for name in (train if part == "train" else val)]
