"""SECOND / SenseEarth 2020: semantic change, with land-cover classes of both dates.

Reference: K. Yang et al., "Asymmetric Siamese Networks for Semantic Change Detection in Aerial
Images", IEEE TGRS 2022 (the data set). Only changed areas are labelled.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.cache import BlockLayout, make_cache
from datasets.checks import check_pairs
from datasets.codecs import decode, image_size, read_image, read_label
from datasets.entry import DatasetEntry
from datasets.layout import DataError, Tile, find_files, list_pairs, part_path, test_folder
from datasets.samples import SampleDataset
from datasets.splits import RULES, split_names
from datasets.transforms import Augment
from utils.schemes import SECOND
from utils.structures import IGNORE_INDEX, Sample, Scheme


class SecondDataset(SampleDataset):
    """Tiles of one part as Samples: images (2, 3, H, W), semantic (2, H, W), change (H, W).

    Without labels, `semantic` and `change` are IGNORE_INDEX everywhere.

    Args:
        root: folder with train, val and test in it.
        folder: the part to read: train, val, test, or another folder under root.
        names: ids to keep, in this order; None keeps all, sorted.
        folders: replaces default folder names, see `datasets.layout.parse_folders`.
        pseudo_label_dir: folder with `im1/<id>.png` and `im2/<id>.png`, from which `semantic` is
            read; `change` still comes from the true labels.
        cache: "ram" or "disk", see `datasets.cache.make_cache`; None reads files every time.
        cache_dir: folder of the cache "disk".
        augment: random augmentation; its random numbers depend on (seed, epoch, index) only, not
            on workers, ranks or restarts.
        seed: at least 0.

    Attributes:
        part: name of the part.
        path: folder of the part.
        names: ids, in order.
        labelled: whether there are true labels.
        scheme: classes and palette.

    Raises:
        FileNotFoundError: no images, or pseudo labels missing.
        DataError: a tile lacks a file.
        ValueError: an unknown id.
    """

    scheme = SECOND

    def __init__(
        self,
        root: Path | str,
        folder: str = "train",
        names: Sequence[str] | None = None,
        folders: Mapping[str, str] | None = None,
        pseudo_label_dir: Path | str | None = None,
        cache: str | None = None,
        cache_dir: Path | str | None = None,
        augment: Augment | None = None,
        seed: int = 0,
    ):
        self.part, self.path = folder, part_path(root, folder, folders)
        tiles, problems = list_pairs(root, folder, folders)
        if problems:
            raise DataError(self.path, problems)
        self.tiles = _choose(tiles, names, self.path)
        self.names = [tile.name for tile in self.tiles]
        self.labelled = tiles[0].labels is not None
        self.pseudo_labels = _find_pseudo_labels(pseudo_label_dir, self.names)
        self.augment, self.seed = augment, seed
        self.cache = make_cache(
            cache, self._layout, self._decode, self._files, settings=self.scheme, folder=cache_dir
        )
        self._dense: list[dict[str, list[Path]]] | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, epoch: int, index: int) -> Sample:
        """See SampleDataset."""
        sample = Sample(self.names[index], *self._arrays(index))
        if self.augment is None:
            return sample
        return self.augment(sample, np.random.default_rng((self.seed, epoch, index)))

    def dense_labels(self, name: str) -> np.ndarray | None:
        """Class of every pixel, changed or not, from the folders dense1 and dense2.

        Only the generated demo data have them; for the evaluation of pseudo labels, not training.

        Returns:
            (2, H, W) uint8, 1..K, 0 = unknown; None if there are no such files.
        """
        if self._dense is None:
            self._dense = [find_files(self.path / field) for field in ("dense1", "dense2")]
        if not all(name in found for found in self._dense):
            return None
        paths = [found[name][0] for found in self._dense]
        return np.stack([read_label(path, self.scheme.palette) for path in paths])

    def _arrays(self, index: int) -> Sequence[np.ndarray]:
        if self.cache is None:
            return self._decode(index)
        return self.cache.fetch(index, lambda: self._decode(index))

    def _layout(self) -> BlockLayout:
        sizes = [image_size(tile.images[0]) for tile in self.tiles]
        return BlockLayout([((2, 3, *size), (2, *size), size) for size in sizes])

    def _files(self) -> Iterator[Path]:
        """All files that `_decode` reads."""
        for index, tile in enumerate(self.tiles):
            yield from (*tile.images, *(tile.labels or ()))
            if self.pseudo_labels is not None:
                yield from self.pseudo_labels[index]

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decodes images (2, 3, H, W), semantic (2, H, W), change (H, W), all uint8."""
        tile = self.tiles[index]
        images = _stack([read_image(path) for path in tile.images], tile.name)
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        unknown = np.full((2, *images.shape[-2:]), IGNORE_INDEX, np.uint8)
        semantic, change = unknown, unknown[0]
        if tile.labels is not None:
            semantic, change = decode(self._read_masks(tile.labels, images))
        if self.pseudo_labels is not None:
            semantic, _ = decode(self._read_masks(self.pseudo_labels[index], images))
        return images, semantic, change

    def _read_masks(self, paths: Sequence[Path], images: np.ndarray) -> np.ndarray:
        masks = _stack([read_label(path, self.scheme.palette) for path in paths], paths[0].stem)
        if masks.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f"{paths[0]}: {masks.shape[-2:]} pixels, its image has {images.shape[-2:]}; "
                "all files of a tile have the same size"
            )
        return masks


def split_parts(
    root: Path | str, rule: str = "every10th", folders: Mapping[str, str] | None = None
) -> dict[str, tuple[str, list[str]]]:
    """Splits a data set into folders and ids for training and validation.

    Args:
        root: folder with train, val and test in it.
        rule: see `datasets.splits.split_names`. "official": train on train/, validate on val/,
            which must have labels (the val/ of the contest has none: it is the test set).
        folders: replaces default folder names.

    Returns:
        {"train": (folder, ids), "val": (folder, ids)}.

    Raises:
        DataError, FileNotFoundError, ValueError: incomplete tiles, no tiles, or no labels.
    """
    train = _labelled_names(root, "train", folders, "training needs labels: label1 and label2")
    if rule != "official":
        train, val = split_names(train, rule)
        return {"train": ("train", train), "val": ("train", val)}
    others = [other for other in RULES if other != rule]
    remedy = f"pass --split {', '.join(others)} or a text file of ids"
    if not part_path(root, "val", folders).is_dir():
        raise FileNotFoundError(
            f"--split official: there is no {part_path(root, 'val', folders)}; {remedy}"
        )
    val = _labelled_names(
        root, "val", folders, f"--split official validates on its labels, and it has none; {remedy}"
    )
    return {"train": ("train", train), "val": ("val", val)}


def build_second(
    root: Path | str,
    part: str,
    *,
    split: str | None = None,
    folders: Mapping[str, str] | None = None,
    **options,
) -> SecondDataset:
    """Builds one part: with `split` the subset "train" or "val", otherwise a whole folder.

    Args:
        root: folder with train, val and test in it.
        part: train or val. Without `split` also "test" (see `test_folder`) or any other folder
            under root.
        split: see `split_parts`.
        folders: replaces default folder names.
        **options: other arguments of SecondDataset.
    """
    if split is not None:
        folder, names = split_parts(root, split, folders)[part]
        return SecondDataset(root, folder, names, folders, **options)
    folder = test_folder(root, folders) if part == "test" else part
    return SecondDataset(root, folder, folders=folders, **options)


def _labelled_names(root, part, folders, why: str) -> list[str]:
    tiles, problems = list_pairs(root, part, folders)
    path = part_path(root, part, folders)
    if problems:
        raise DataError(path, problems)
    if tiles[0].labels is None:
        raise ValueError(f"{path} has no labels; {why}")
    return [tile.name for tile in tiles]


def _choose(tiles: list[Tile], names: Sequence[str] | None, path: Path) -> list[Tile]:
    if names is None:
        return tiles
    known = {tile.name: tile for tile in tiles}
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(unknown[:10])
        raise ValueError(f"{path} has no tile(s) {shown} ({len(unknown)} unknown id(s))")
    return [known[name] for name in names]


def _find_pseudo_labels(
    folder: Path | str | None, names: list[str]
) -> list[tuple[Path, Path]] | None:
    if folder is None:
        return None
    found = [find_files(Path(folder) / date) for date in ("im1", "im2")]
    missing = [name for name in names if not all(name in paths for paths in found)]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} training tiles have no pseudo label in "
            f"{folder}/im1 and {folder}/im2: {', '.join(missing[:10])}{more}. Run label.py with "
            "the same --data-root and --split, or pass its folder to --use-pseudo-label."
        )
    return [(found[0][name][0], found[1][name][0]) for name in names]


def _stack(arrays: list[np.ndarray], name: str) -> np.ndarray:
    if arrays[0].shape != arrays[1].shape:
        shapes = " and ".join(f"{array.shape[0]} x {array.shape[1]}" for array in arrays)
        raise ValueError(f"tile {name}: its two dates are {shapes} pixels; they must be the same")
    return np.stack(arrays)


def second_scheme(root: Path | str, *, folders=None, bands=None) -> Scheme:
    """The fixed scheme of SECOND.

    Raises:
        ValueError: `bands` is given.
    """
    if bands is not None:
        raise ValueError("--bands: this data set always has red, green and blue; leave it out")
    return SECOND


def _build(root: Path | str, part: str, *, scheme: Scheme, **options) -> SecondDataset:
    return build_second(root, part, **options)


def _check(root: Path | str, parts=None, *, scheme: Scheme, **options) -> dict[str, int]:
    return check_pairs(root, scheme.palette, parts, **options)


SECOND_ENTRY = DatasetEntry(
    root="data/dataset",
    task="semantic_change",
    about="SECOND / SenseEarth 2020 layout",
    build=_build,
    check=_check,
    scheme=second_scheme,
)
