"""Checks a data set before training and reports all problems in one error."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.codecs import (
    CHANGE_CODINGS,
    LabelError,
    Palette,
    read_change,
    read_image,
    read_label,
    values_of_labels,
)
from datasets.layout import PARTS, DataError, Problem, Tile, list_pairs, part_path
from datasets.scene_reader import Scene
from utils.files import write_json
from utils.rasters.grids import grid_difference
from utils.rasters.reading import Raster, open_raster, strips
from utils.structures import Scheme

VERSION = 1  # of the requirements; increasing it invalidates old fingerprints


class FoundFiles(NamedTuple):
    """Files of one part of a data set, listed without opening them."""

    key: str  # key of the part's fingerprint in the file `passed_file`
    items: Sequence[Any]  # Tiles, Scenes or Patches
    problems: Sequence[Problem]  # problems found while listing


def check_pairs(
    root: Path | str,
    palette: Palette,
    parts: Sequence[str] | None = None,
    *,
    folders: Mapping[str, str] | None = None,
    passed_file: Path | str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Decodes every file of the parts and applies the `datasets.layout.REQUIREMENTS`.

    Args:
        root: folder with the parts in it.
        palette: K + 1 colours; labels may be 0..K.
        parts: parts to check; None = those of train, val and test that exist.
        folders: replaces default folder names.
        passed_file: JSON file with the fingerprints (names, sizes, times) of parts that passed.
            Unchanged parts are not decoded again. None: always decode.
        threads: number of threads; None = one per core.
        progress: show a progress bar.

    Returns:
        Number of tiles per part.

    Raises:
        FileNotFoundError: a part has no images.
        DataError: lists all files that break a requirement.
    """
    if parts is None:
        parts = [part for part in PARTS if part_path(root, part, folders).is_dir()] or ["train"]
    found = {}
    for part in parts:
        key = str(part_path(root, part, folders).resolve())
        found[part] = FoundFiles(key, *list_pairs(root, part, folders))
    return check_parts(
        root,
        found,
        lambda tile: check_tile(tile, palette),
        settings=palette,
        passed_file=passed_file,
        threads=threads,
        progress=progress,
    )


def check_scenes(
    root: Path | str,
    parts: Mapping[str, FoundFiles],
    scheme: Scheme,
    coding: str,
    *,
    num_bands: int | None = None,
    passed_file: Path | str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Decodes every file of some scenes and applies the `datasets.layout.REQUIREMENTS`.

    Args:
        root: root folder, for the error message.
        parts: scenes by part name; "train" must have at least one changed pixel.
        scheme: scheme of binary change.
        coding: label coding, a key of `datasets.codecs.CHANGE_CODINGS`.
        num_bands: exact number of bands of every image; None = at least the bands that are read.
        passed_file: see `check_pairs`.
        threads: number of threads; None = one per core.
        progress: show a progress bar.

    Returns:
        Number of scenes per part.

    Raises:
        DataError: lists all files that break a requirement.
    """
    if "train" in parts:
        train = parts["train"]
        empty = _no_change([scene.label for scene in train.items if scene.label], coding)
        parts = {**parts, "train": train._replace(problems=[*train.problems, *empty])}
    return check_parts(
        root,
        parts,
        lambda scene: check_scene(scene, scheme, coding, num_bands),
        settings=(scheme, coding, num_bands),
        passed_file=passed_file,
        threads=threads,
        progress=progress,
    )


def check_tile(tile: Tile, palette: Palette) -> list[Problem]:
    """Decodes all files of one tile; returns the problems found."""
    problems, arrays = [], {}
    for path in (*tile.images, *(tile.labels or ())):
        try:
            label = path not in tile.images
            arrays[path] = read_label(path, palette) if label else read_image(path)
        except LabelError as error:
            problems.append(Problem("label values", str(error)))
        except (OSError, ValueError) as error:
            problems.append(Problem("unreadable", str(error)))
    sizes = {path: array.shape[:2] for path, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{path} {size[0]} x {size[1]}" for path, size in sizes.items())
        return [*problems, Problem("sizes differ", text)]
    if tile.labels and all(path in arrays for path in tile.labels):
        first, second = (arrays[path] for path in tile.labels)
        num = int(np.count_nonzero((first == 0) != (second == 0)))
        if num:
            text = f"{tile.labels[0]} and {tile.labels[1]}: {num} pixels"
            problems.append(Problem("change differs", text))
    return problems


def check_scene(
    scene: Scene, scheme: Scheme, coding: str, num_bands: int | None = None
) -> list[Problem]:
    """Decodes all files of one scene, strip by strip; returns the problems found.

    Args:
        scene: files of the scene.
        scheme: bands to read.
        coding: label coding, a key of `datasets.codecs.CHANGE_CODINGS`.
        num_bands: exact number of bands of the images; None = at least the bands that are read.
    """
    problems, rasters = [], {}
    for path in dict.fromkeys((*scene.images, *([scene.label] if scene.label else []))):
        label = path == scene.label
        try:
            rasters[path] = raster = open_raster(path, indices=label)
            if label:
                for window in strips(raster):
                    read_change(raster, window, coding)
            else:
                problems += _image_problems(raster, scene, scheme, num_bands)
        except LabelError as error:
            problems.append(Problem("mask values", str(error)))
        except (OSError, ValueError) as error:
            problems.append(Problem("unreadable", str(error)))
    return problems + _place_problems(rasters, scene)


def _image_problems(
    raster: Raster, scene: Scene, scheme: Scheme, num_bands: int | None
) -> list[Problem]:
    """Problems with the bands, bit depth and values of an image; reads every pixel."""
    used = {
        band
        for path, bands in zip(scene.images, scene.bands, strict=True)
        if path == raster.path
        for band in bands
    }
    needed = num_bands or max(used) + 1
    wrong = raster.count != needed if num_bands else raster.count < needed
    if wrong:
        text = f"{raster.path}: {raster.count} bands where {needed} are needed"
        return [Problem("bands", text)]
    if scheme.standardise == "none" and raster.dtype != np.uint8:
        return [Problem("bands", f"{raster.path}: {raster.dtype} where 8 bits (uint8) are needed")]
    bad = 0
    for window in strips(raster):
        bad += np.count_nonzero(~np.isfinite(raster.read(window, sorted(used))))
    share = 100 * bad / (raster.height * raster.width * len(used))
    return [Problem("no numbers", f"{raster.path}: {share:.3g} % of its values")] if bad else []


def _place_problems(rasters: Mapping[Path, Raster], scene: Scene) -> list[Problem]:
    """Problems with sizes or georeferences that differ; a label may have no georeference."""
    sizes = {path: (raster.height, raster.width) for path, raster in rasters.items()}
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{path} {size[0]} x {size[1]}" for path, size in sizes.items())
        return [Problem("sizes differ", text)]
    problems = []
    first = rasters.get(scene.images[0])
    for path, raster in rasters.items():
        placed = path != scene.label or raster.crs is not None or raster.transform is not None
        difference = grid_difference(first, raster) if first and placed else None
        if difference:
            problems.append(Problem("grids differ", f"{first.path} and {path}: {difference}"))
    return problems


def _no_change(labels: Sequence[Path], coding: str) -> list[Problem]:
    """A problem if no label has a changed pixel; none if there are no labels."""
    changed = {stored for stored, meant in CHANGE_CODINGS[coding].items() if meant == 1}
    values = values_of_labels(labels)
    if not values or values & changed:
        return []
    listed = ", ".join(f"{value:g}" for value in sorted(values))
    return [Problem("no change", f"{labels[0].parent}: {len(labels)} label(s), all {listed}")]


def check_parts(
    root: Path | str,
    parts: Mapping[str, FoundFiles],
    check: Callable[[Any], list[Problem]],
    *,
    settings: object,
    passed_file: Path | str | None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Checks the parts whose files or `settings` have changed since they last passed.

    Args:
        root: root folder, for the error message.
        parts: parts by name; each item has `images` and `label`, or is a Tile.
        check: item -> problems.
        settings: what else the result depends on; its repr goes into the fingerprint.
        passed_file: see `check_pairs`.
        threads: number of threads; None = one per core.
        progress: show a progress bar.

    Returns:
        Number of items per part.

    Raises:
        DataError: lists all files that break a requirement.
    """
    passed = _load(passed_file)
    problems, prints = [], {}
    for name, part in parts.items():
        prints[part.key] = _fingerprint(part.items, settings)
        if part.problems or passed.get(part.key) != prints[part.key]:
            problems += part.problems
            problems += _check_items(part.items, check, threads, name if progress else None)
    if problems:
        raise DataError(root, problems)
    if passed_file is not None and not prints.items() <= passed.items():
        write_json(passed_file, passed | prints)
    return {name: len(part.items) for name, part in parts.items()}


def _check_items(
    items: Sequence[Any],
    check: Callable[[Any], list[Problem]],
    threads: int | None,
    title: str | None,
) -> list[Problem]:
    """Checks items in threads; decoding releases the GIL."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        results = pool.map(check, items)
        bar = tqdm(results, f"checking {title}", len(items), unit="tile", disable=title is None)
        return [problem for found in bar for problem in found]


def _fingerprint(items: Iterable[Any], settings: object) -> str:
    digest = hashlib.sha1(repr((VERSION, settings)).encode())
    for item in items:
        for path in _files(item):
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(item: Any) -> list[Path]:
    labels = item.labels or () if isinstance(item, Tile) else [item.label] if item.label else ()
    return [*item.images, *labels]


def _load(passed_file: Path | str | None) -> dict[str, str]:
    """Fingerprints of earlier runs; empty if the file is missing or invalid."""
    try:
        passed = json.loads(Path(passed_file).read_text("utf-8")) if passed_file is not None else {}
    except (OSError, ValueError):
        passed = {}
    return passed if isinstance(passed, dict) else {}
