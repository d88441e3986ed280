"""Data sets in folders: one folder for the images of each date and one for each kind of label.

`ROOT/{train,val,test}/<folder>`, or `ROOT/<folder>/{train,val,test}`, or without parts
`ROOT/<folder>`, which may have lists `ROOT/list/{train,val,test}.txt` with one id or file name per
line. The id of a scene is the stem of its files, less a suffix (--suffixes).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.bands import (
    NAMED,
    RGB,
    band_names,
    band_numbers,
    bands_in_file,
    common_names,
    named,
)
from datasets.entry import Where
from datasets.layout import PARTS, Problem, find_files, match_files
from datasets.reader import Reading
from datasets.scene import Found
from datasets.splits import read_ids
from utils.rasters.reading import open_raster
from utils.structures import ImageFile, Scene, Scheme

Files = dict[str, list[Path]]  # id -> files


class FolderSpec(NamedTuple):
    """The folders of a data set: key of --folders -> default name."""

    images: Mapping[str, str]  # one folder per date
    labels: Mapping[str, str]  # all there, or none
    optional: Mapping[str, str] = {}  # further labels


class PartFolders(NamedTuple):
    """Where the scenes of a part are."""

    path: Path  # folder of the part
    folders: Mapping[str, Path]  # key -> folder
    ids: Path | None = None  # text file with the ids of the part; None = all ids


class FolderLayout:
    """See `datasets.scene.Layout`.

    Args:
        root: folder of the data set.
        spec: its folders.
        scheme: bands to read.
        labels: (part folders of all parts) -> how files are read.
        folders: replaces default names, also those of the parts.
        suffixes: key -> end of the stems in that folder, which is no part of the id.
    """

    divided, num_bands = "train", None

    def __init__(
        self,
        root: Path | str,
        spec: FolderSpec,
        scheme: Scheme | None,
        reading: Callable[["FolderLayout"], Reading],
        folders: Mapping[str, str] | None = None,
        suffixes: Mapping[str, str] | None = None,
    ):
        self.root, self.spec, self.scheme = Path(root), spec, scheme
        self._names, self._suffixes = folders or {}, suffixes or {}
        self._reading = reading
        names = [self._name(key) for key in spec.labels]
        self.unlabelled = f"the folder{'s' * (len(names) > 1)} {' and '.join(names)}"

    def parts(self) -> list[str]:
        """See Layout."""
        return list(self._parts())

    def find(self, part: str) -> Found:
        """See Layout; complete scenes, sorted by id or in the order of a list."""
        part_folders = self._where(part)
        files = {key: self._files(key, folder) for key, folder in part_folders.folders.items()}
        names = sorted(files[next(iter(self.spec.images))])
        if part_folders.ids is not None:
            first = part_folders.folders[next(iter(self.spec.images))]
            names = read_ids(part_folders.ids, names, where=first)
            files = {k: {n: found[n] for n in names if n in found} for k, found in files.items()}
        labelled = any(files[key] for key in self.spec.labels)
        for key in self.spec.optional:
            if labelled and key in self._names and not files[key]:
                raise FileNotFoundError(
                    f"--folders {key}={self._names[key]}: no files in {part_folders.folders[key]}; "
                    "correct the name, or leave it out"
                )
        keys = [*self.spec.images, *(self.spec.labels if labelled else ())]
        keys += [key for key in self.spec.optional if labelled and files[key]]
        whole, problems = match_files([(part_folders.folders[key], files[key]) for key in keys])
        if problems:
            problems = [*problems, *self._other_suffixes(part_folders, files, keys)]
        bands, names_of_bands = (), ()
        if self.scheme is not None:
            bands, names_of_bands = band_numbers(self.scheme.bands), named(self.scheme.bands)
        scenes = []
        for name in names if part_folders.ids is not None else whole:
            if name in whole:
                paths = whole[name]
                dates = tuple(
                    (ImageFile(path, bands, names_of_bands),)
                    for path in paths[: len(self.spec.images)]
                )
                scenes.append(Scene(name, dates, tuple(paths[len(dates) :])))
        return Found(part_folders.path, scenes, problems)

    def reading(self, part: str, source: str) -> Reading:
        """See Layout."""
        return self._reading(self)

    def to_open(self, scenes: Sequence[Scene]) -> Sequence[Scene]:
        """See Layout."""
        return scenes

    def first_image(self) -> Path:
        """An image of date 1.

        Raises:
            FileNotFoundError: no images.
        """
        part_folders, key = next(iter(self._parts().values())), next(iter(self.spec.images))
        return next(iter(self._files(key, part_folders.folders[key]).values()))[0]

    def label_files(self, *keys: str) -> list[tuple[Path, ...]]:
        """The files of some kinds of labels, of every scene of all parts that has them all."""
        parts = self._parts().values()
        folders = dict.fromkeys(tuple(part.folders[key] for key in keys) for part in parts)
        found = []
        for each in folders:
            files = [self._files(key, folder) for key, folder in zip(keys, each, strict=True)]
            found += match_files(list(zip(each, files, strict=True)))[0].values()
        return [tuple(paths) for paths in found]

    def unread(self) -> list[Path]:
        """Folders beside those of the data set, which are not read."""
        parts = self._parts().values()
        read = {folder for part in parts for folder in part.folders.values()}
        read |= {*(folder.parent for folder in read), self.root / "list"}
        roots = {self.root, *(part.path for part in parts if part.ids is None)} - {
            part.folders[next(iter(self.spec.images))] for part in parts
        }
        there = (path for root in sorted(roots) for path in sorted(root.iterdir()))
        return [path for path in there if path.is_dir() and path not in read]

    def has_undivided_test(self) -> bool:
        """Whether "test" is read from images that may have been trained on."""
        return not {"test", "val"} & self._parts().keys()

    def _parts(self) -> dict[str, PartFolders]:
        """The parts that have images; without parts, those with a list, or "train"."""
        found = {part: self._divided(part) for part in PARTS}
        found = {part: folders for part, folders in found.items() if folders is not None}
        if found:
            return found
        undivided = self._at(self.root, None)
        if not self._has_images(undivided):
            raise FileNotFoundError(self._no_images())
        lists = {part: self.root / "list" / f"{part}.txt" for part in PARTS}
        listed = {p: undivided._replace(ids=path) for p, path in lists.items() if path.is_file()}
        return listed or {"train": undivided}

    def _divided(self, part: str) -> PartFolders | None:
        """The folders of a part, `ROOT/<part>/images` before `ROOT/images/<part>`; None: none."""
        name, key = self._names.get(part, part), next(iter(self.spec.images))
        for part_folders in (self._at(self.root / name, None), self._at(self.root, name)):
            if self._has_images(part_folders):
                return part_folders
            if part_folders.folders[key].is_dir():
                raise FileNotFoundError(
                    f"no images in {part_folders.folders[key]} (expected {self._expected()}). "
                    "Unpack the archive there, remove the folder, or name another with "
                    f"--folders {key}=NAME."
                )
        return None

    def _at(self, path: Path, inner: str | None) -> PartFolders:
        keys = (*self.spec.images, *self.spec.labels, *self.spec.optional)
        folders = {key: path / self._name(key) / (inner or "") for key in keys}
        return PartFolders(path if inner is None else folders[keys[0]], folders)

    def _where(self, part: str) -> PartFolders:
        parts = self._parts()
        if part in parts:
            return parts[part]
        if part == "test":
            return parts.get("val") or parts["train"]
        other = self._divided(part)
        if other is None:
            raise FileNotFoundError(
                f"there is no part {part!r} in {self.root}, which has {', '.join(parts)}. Pass "
                "--split with a folder that is there (train.py: every10th, hash10, leave_out:ID, "
                "area, or a text file of ids)."
            )
        return other

    def _name(self, key: str) -> str:
        defaults = {**self.spec.images, **self.spec.labels, **self.spec.optional}
        return self._names.get(key, defaults[key])

    def _files(self, key: str, folder: Path) -> Files:
        """Files of a folder by id."""
        files, suffix = find_files(folder, (".bmp",), envi=True), self._suffixes.get(key, "")
        if not suffix:
            return files
        return {stem.removesuffix(suffix): f for stem, f in files.items() if stem.endswith(suffix)}

    def _has_images(self, part_folders: PartFolders) -> bool:
        key = next(iter(self.spec.images))
        return bool(self._files(key, part_folders.folders[key]))

    def _no_images(self) -> str:
        key = next(iter(self.spec.images))
        train, name = self._names.get("train", "train"), self._name(key)
        if not self.root.is_dir():
            return (
                f"there is no folder {self.root}; correct --data-root, or --dataset for data of "
                "another layout"
            )
        return (
            f"no images in {self.root / train / name} nor in {self.root / name} (expected "
            f"{self._expected()}). Unpack the archive there, pass --data-root, name "
            f"the folders with --folders {key}=NAME, or another layout with --dataset."
        )

    def _expected(self) -> str:
        suffix = self._suffixes.get(next(iter(self.spec.images)), "")
        ends = (".png", ".jpg", ".bmp", ".tif")
        return ", ".join(f"*{suffix}{end}" for end in ends) + ", or ENVI with its .hdr"

    def _other_suffixes(
        self, part_folders: PartFolders, files: Mapping[str, Files], keys: Sequence[str]
    ) -> list[Problem]:
        """A hint if ids agree without a common end of the stems in each folder."""
        ends = {key: common_end(list(files[key])) for key in keys}
        ids = [{n.removesuffix(ends[key]) for n in files[key]} for key in keys]
        if not any(ends.values()) or any(one != ids[0] for one in ids):
            return []
        words = " ".join(f"{key}={end}" for key, end in ends.items() if end)
        return [Problem("suffixes", f"{part_folders.path}: pass --suffixes {words}")]


def common_end(stems: Sequence[str]) -> str:
    """The longest common end of several stems that starts with `_`, `-` or `.`; "" for none."""
    if len(stems) < 2:
        return ""
    shortest = min(stems, key=len)
    starts = [i for i in range(1, len(shortest)) if shortest[i] in "_-."]
    ends = (shortest[i:] for i in starts)
    return next((end for end in ends if all(stem.endswith(end) for stem in stems)), "")


def bands_of(path: Path, bands: Sequence[str | int] | None) -> tuple[tuple[str, ...], bool]:
    """Names of the bands to read of a data set, and whether they are 8-bit colours.

    Args:
        path: an image of it.
        bands: names (red, green, blue, nir, grey) or numbers from 1; None = all bands of the file
            but alpha, by name if it names all of them red, green, blue or nir. Three 8-bit bands,
            and one of grey, count as red, green and blue.

    Raises:
        ValueError: the file lacks a requested band.
    """
    raster = open_raster(path)
    plain = raster.dtype == np.uint8
    count = raster.count - (raster.alpha is not None and raster.alpha == raster.count - 1)
    if bands is not None:
        names = band_names(bands)
    elif plain and count == 3:
        names = RGB
    else:
        there = common_names(raster.names)[:count]
        all_named = len({*there} & {*NAMED}) == count
        names = tuple(there) if all_named else band_names(range(1, count + 1))
    if max(bands_in_file(path, raster.names, named(names), band_numbers(names))) >= raster.count:
        raise ValueError(
            f"--bands {' '.join(names)}: {path} has {raster.count} band(s); pass numbers in "
            f"1..{raster.count}"
        )
    return names, plain and names == RGB


def with_bands(
    scheme: Scheme,
    spec: FolderSpec,
    root: Path | str,
    where: Where,
    bands: Sequence[str | int] | None,
) -> Scheme:
    """The scheme for the bands of the images, see `bands_of` for the first image.

    8-bit red, green and blue keep their values and have ImageNet's statistics. Otherwise every band
    of every image is standardised separately.

    Raises:
        FileNotFoundError: no images.
        ValueError: the file lacks a requested band.
    """
    layout = FolderLayout(root, spec, None, lambda _: None, where.folders, where.suffixes)
    names, plain = bands_of(layout.first_image(), bands)
    scheme = scheme._replace(bands=names)
    if plain:
        return scheme
    zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
    return scheme._replace(scale=1.0, mean=zeros, std=ones, standardise="bands")
