"""Binary change detection in the layout of LEVIR-CD: folders A, B and label.

`ROOT/{train,val,test}/{A,B,label}`, or `ROOT/{A,B,label}` without part folders. The latter may have
lists `ROOT/list/{train,val,test}.txt` with one file name or id per line. Images are PNG, JPEG, BMP,
TIFF or ENVI with any number of bands.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.bands import RGB, band_names, band_numbers
from datasets.checks import FoundFiles, check_scenes
from datasets.codecs import find_coding
from datasets.entry import DatasetEntry
from datasets.layout import PARTS, DataError, Problem, find_files, match_files, part_path
from datasets.scene_reader import Scene
from datasets.scenes import SceneDataset, build_scenes, split_scenes
from datasets.splits import SCENE_RULES, read_ids
from utils.rasters.reading import open_raster
from utils.schemes import change_scheme
from utils.structures import Scheme

FIELDS = {"im1": "A", "im2": "B", "label": "label"}  # key of --folders -> default folder name


class PartPath(NamedTuple):
    """Location of the scenes of one part."""

    path: Path  # folder that holds A, B and label
    ids: Path | None = None  # text file with the ids of the part; None = all ids


def binary_scheme(
    root: Path | str,
    *,
    folders: Mapping[str, str] | None = None,
    bands: Sequence[str | int] | None = None,
) -> Scheme:
    """Derives the scheme of a data set from its first image.

    Args:
        root: see `find_sources`.
        folders: replaces default folder names.
        bands: names (red, green, blue, nir, grey) or numbers from 1; None = all bands of the file.
            Three 8-bit bands count as red, green and blue.

    Returns:
        For 8-bit red, green and blue: unchanged values, ImageNet statistics. Otherwise every band
        of every image is standardised separately.

    Raises:
        FileNotFoundError: no images.
        ValueError: the file lacks a requested band.
    """
    source = next(iter(find_sources(root, folders).values()))
    raster = open_raster(_images(source.path, folders)[0])
    plain = raster.dtype == np.uint8
    if bands is None:
        rgb = plain and raster.count == 3
        names = RGB if rgb else band_names(range(1, raster.count + 1))
    else:
        names = band_names(bands)
    if max(band_numbers(names)) >= raster.count:
        raise ValueError(
            f"--bands {' '.join(names)}: {raster.path} has {raster.count} band(s); "
            f"pass numbers in 1..{raster.count}"
        )
    return change_scheme(names, "none" if plain and names == RGB else "bands")


def build_binary(
    root: Path | str,
    part: str,
    *,
    scheme: Scheme,
    split: str | None = None,
    folders: Mapping[str, str] | None = None,
    label_coding: str = "auto",
    **options,
) -> SceneDataset:
    """Builds one part: with `split` the subset "train" or "val", otherwise a whole part.

    Args:
        root: see `find_sources`.
        part: train or val. Without `split` also any other folder under root, or "test", which
            falls back to val, then to the data without part folders.
        scheme: see `binary_scheme`.
        split: "official" validates on the folder val; others: see `datasets.scenes.split_scenes`.
        folders: replaces default folder names; keys train, val, test, im1, im2 and label.
        label_coding: "auto", "01" or "0255", see `datasets.codecs.find_coding`. "auto" looks
            at all labels under root.
        **options: see `datasets.scenes.build_scenes`.

    Raises:
        FileNotFoundError: no images, or no such part.
        DataError: a scene lacks a file.
        ValueError: no labels to split, or an unknown option.
    """
    sources = find_sources(root, folders)
    if split is None or split == "official":
        name = part if split is None else _official(sources, part)
        source, scenes = _complete_scenes(root, name, scheme, folders)
    else:
        source, scenes = _complete_scenes(root, "train", scheme, folders)
    if split is not None and scenes[0].label is None:
        raise ValueError(f"{source.path} has no labels; training needs the folder label")
    if split not in (None, "official"):
        scenes = split_scenes(scenes, split)[part]
    coding = _coding({source, *sources.values()} if scenes[0].label else (), folders, label_coding)
    return build_scenes(scenes, scheme, part=part, path=source.path, label_coding=coding, **options)


def check_binary(
    root: Path | str,
    parts: Sequence[str] | None = None,
    *,
    scheme: Scheme,
    folders: Mapping[str, str] | None = None,
    label_coding: str = "auto",
    **options,
) -> dict[str, int]:
    """Checks every file of the parts.

    Args:
        root: see `find_sources`.
        parts: parts to check; None = all.
        scheme: see `binary_scheme`.
        folders: replaces default folder names.
        label_coding: as in `build_binary`.
        **options: passed_file, threads, progress, see `datasets.checks.check_scenes`.

    Returns:
        Number of scenes per part.

    Raises:
        FileNotFoundError: a part has no images.
        DataError: lists all files that break a requirement.
    """
    found, sources = {}, set(find_sources(root, folders).values())
    for part in parts or find_sources(root, folders):
        source, scenes, problems = list_binary(root, part, scheme, folders)
        found[part] = FoundFiles(f"{source.path.resolve()} {part}", scenes, problems)
        sources.add(source)
    coding = _coding(sources, folders, label_coding)
    return check_scenes(root, found, scheme, coding, **options)


def find_sources(root: Path | str, folders: Mapping[str, str] | None = None) -> dict[str, PartPath]:
    """Finds the parts of a data set.

    Returns:
        {part: source} for the folders train, val and test that exist. Without part folders: the
        parts that have a list, or everything as "train" if there are no lists.

    Raises:
        FileNotFoundError: no images.
    """
    root = Path(root)
    divided = {part: PartPath(part_path(root, part, folders)) for part in PARTS}
    found = {part: s for part, s in divided.items() if _images(s.path, folders)}
    if found:
        return found
    if not _images(root, folders):
        image1 = _folder(root, "im1", folders).name
        raise FileNotFoundError(
            f"no images in {divided['train'].path / image1} nor in {root / image1} (expected "
            "*.png, *.jpg, *.bmp, *.tif, or ENVI with its .hdr). Unpack the archive there, pass "
            "--data-root, or name the folders with --folders."
        )
    lists = {part: root / "list" / f"{part}.txt" for part in PARTS}
    listed = {part: PartPath(root, path) for part, path in lists.items() if path.is_file()}
    return listed or {"train": PartPath(root)}


def list_binary(
    root: Path | str,
    part: str,
    scheme: Scheme,
    folders: Mapping[str, str] | None = None,
) -> tuple[PartPath, list[Scene], list[Problem]]:
    """Finds the scenes of a part without opening an image.

    Returns:
        The source; complete scenes, sorted by id or in list order; problems of incomplete scenes.

    Raises:
        FileNotFoundError: no images, or no such part.
        ValueError: a list names ids that do not exist.
    """
    source = _source(root, part, folders)
    paths = [_folder(source.path, field, folders) for field in FIELDS]
    found = [(path, find_files(path, (".bmp",), envi=True)) for path in paths]
    names = list(found[0][1])
    if source.ids is not None:
        names = read_ids(source.ids, names, where=paths[0])
        found = [
            (path, {name: files[name] for name in names if name in files}) for path, files in found
        ]
    whole, problems = match_files(found if found[2][1] else found[:2])
    bands = (band_numbers(scheme.bands),) * 2
    scenes = [
        Scene(name, (first, second), bands, label[0] if label else None)
        for name in (names if source.ids else whole)
        if name in whole
        for first, second, *label in (whole[name],)
    ]
    return source, scenes, problems


def _source(root: Path | str, part: str, folders: Mapping[str, str] | None) -> PartPath:
    sources = find_sources(root, folders)
    if part in sources:
        return sources[part]
    if part == "test":
        return sources.get("val") or sources["train"]
    other = PartPath(part_path(root, part, folders))
    if not _images(other.path, folders):
        raise FileNotFoundError(
            f"there is no part {part!r} in {root}, which has {', '.join(sources)}. Pass --split "
            f"with one of {', '.join(rule for rule in SCENE_RULES if rule != 'official')}, a text "
            "file of ids, or a folder that is there."
        )
    return other


def _official(sources: Mapping[str, PartPath], part: str) -> str:
    if "val" not in sources:
        path = next(iter(sources.values())).path
        others = ", ".join(rule for rule in SCENE_RULES if rule != "official")
        raise FileNotFoundError(
            f"--split official: there is no val beside {path}; pass --split {others} or a text "
            "file of ids"
        )
    return part


def _complete_scenes(root, part, scheme, folders) -> tuple[PartPath, list[Scene]]:
    source, scenes, problems = list_binary(root, part, scheme, folders)
    if problems:
        raise DataError(source.path, problems)
    return source, scenes


def _folder(path: Path, field: str, folders: Mapping[str, str] | None) -> Path:
    return path / (folders or {}).get(field, FIELDS[field])


def _images(path: Path, folders: Mapping[str, str] | None) -> list[Path]:
    """First-date images of a folder, one per id."""
    found = find_files(_folder(path, "im1", folders), (".bmp",), envi=True)
    return [same[0] for same in found.values()]


def _coding(
    sources: Iterable[PartPath], folders: Mapping[str, str] | None, label_coding: str
) -> str:
    """Label coding (key of CHANGE_CODINGS), determined from the labels of all sources."""
    paths = {_folder(source.path, "label", folders) for source in sources}
    found = [find_files(path, (".bmp",), envi=True) for path in paths]
    return find_coding([same[0] for files in found for same in files.values()], label_coding)


BINARY_ENTRY = DatasetEntry(
    root="data/dataset",
    task="binary_change",
    about="folders A B label, images of any size and bands",
    build=build_binary,
    check=check_binary,
    scheme=binary_scheme,
    scenes=True,
    chooses_bands=True,
    training_options={"positive_crops": 0.0, "samples_per_image": 1},
)
