"""Checks a data set before training and reports all problems in one error.

Every file is decoded. Then the labels of a part are looked at together: what is wrong is an error,
what is odd but possible is printed as a warning with its numbers.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.bands import bands_in_file
from datasets.codecs import LabelError, LabelFile
from datasets.labels import PairLabels
from datasets.layout import DataError, Problem
from datasets.preparation import Preparation
from datasets.reader import Reading
from datasets.resize import Size
from datasets.scene import Found, Layout
from utils.files import write_json
from utils.rasters.grids import grid_difference
from utils.rasters.raster import Raster
from utils.rasters.reading import strips
from utils.structures import IGNORE_INDEX, ImageFile, Scene, Scheme

VERSION = 3  # of the requirements; increasing it invalidates old fingerprints
MOSTLY = 0.99  # share of one class from which on a warning is printed


class Contents(NamedTuple):
    """What the files of a scene hold."""

    size: Size
    images: tuple[str, ...]  # bands, type and CRS of each image
    classes: np.ndarray  # (T, 256) int64 pixels of each class of each date; 255 = not labelled
    change: np.ndarray  # (256,) int64 pixels: 0 unchanged, 1 changed, 255 unknown
    alpha: int | None = None  # number of a band from 1 that says where there are data, as alpha
    missing: int = 0  # pixels of all images that have no data


def check_parts(
    layout: Layout,
    root: Path | str,
    parts: Sequence[str] | None,
    scheme: Scheme,
    passed_file: Path | str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Checks the parts whose files have changed since they last passed.

    Args:
        layout: of the data set.
        root: its folder, for the error message.
        parts: parts to check; None = all that are there.
        scheme: bands and classes to read.
        passed_file: JSON file with the fingerprints (names, sizes, times) of parts that passed.
            Unchanged parts are not decoded again. None: always decode.
        threads: number of threads; None = one per core.
        progress: show a progress bar.

    Returns:
        Number of scenes per part.

    Raises:
        FileNotFoundError: a part has no images.
        DataError: lists all files that break a requirement.
    """
    passed, prints = _load(passed_file), {}
    problems: list[Problem] = []
    counts = {}
    for part in parts or layout.parts():
        found = layout.find(part)
        counts[part], key = len(found.scenes), f"{found.path.resolve()} {part}"
        reading, scenes = layout.reading(part, part), layout.to_open(found.scenes)
        every = scenes is found.scenes
        if not found.problems and every:
            prints[key] = _fingerprint(scenes, (scheme, reading.labels, layout.num_bands))
            if passed.get(key) == prints[key]:
                continue
        title = part if progress else None
        wrong, contents = check_scenes(scenes, reading, scheme, layout.num_bands, threads, title)
        wrong = [*found.problems, *wrong]
        if not wrong and every:
            wrong = whole_problems(found, part, reading, scheme, contents)
            if not wrong:
                for warning in oddities(part, scheme, contents):
                    tqdm.write(f"warning: {warning}")
        problems += wrong
    if problems:
        raise DataError(root, list(dict.fromkeys(problems)))
    if passed_file is not None and not prints.items() <= passed.items():
        write_json(passed_file, passed | prints)
    return counts


def check_scenes(
    scenes: Sequence[Scene],
    reading: Reading,
    scheme: Scheme,
    num_bands: int | None = None,
    threads: int | None = None,
    title: str | None = None,
) -> tuple[list[Problem], list[Contents]]:
    """Checks scenes in threads; decoding releases the GIL. See `check_scene`."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        results = pool.map(
            lambda i: check_scene(scenes[i], reading, scheme, num_bands), range(len(scenes))
        )
        hidden = title is None
        bar = list(tqdm(results, f"checking {title}", len(scenes), unit="tile", disable=hidden))
    problems = [problem for found, _ in bar for problem in found]
    return problems, [contents for _, contents in bar if contents is not None]


def check_scene(
    scene: Scene, reading: Reading, scheme: Scheme, num_bands: int | None = None
) -> tuple[list[Problem], Contents | None]:
    """Decodes all files of one scene, strip by strip.

    Args:
        scene: files of the scene.
        reading: how they are read.
        scheme: bands to read.
        num_bands: exact number of bands of the images; None = at least the bands that are read.

    Returns:
        The problems found; and the contents if there are none.
    """
    rasters: dict[Path, Raster | LabelFile] = {}
    try:
        problems, missing = _open_images(scene, reading, scheme, num_bands, rasters)
        images = tuple(
            f"{raster.count} x {raster.dtype}, {raster.crs or 'no CRS'}{_named(raster)}"
            for raster in rasters.values()
        )
        for path in scene.labels:
            try:
                rasters[path] = reading.open_label(path)
            except LabelError as error:
                problems.append(Problem(error.requirement, str(error)))
    except FileNotFoundError:
        return [], None  # it was reported when the folder was listed
    except OSError as error:
        return [Problem("unreadable", str(error))], None
    problems += _grid_problems(rasters, scene, placed=not reading.scaled)
    differ = any(problem.requirement == "sizes differ" for problem in problems)
    if differ or any(path not in rasters for path in scene.labels):
        return problems, None
    classes, change, wrong = _read_labels(scene, reading, rasters)
    if problems or wrong:
        return problems + wrong, None
    first, bands = rasters[scene.images[0]], scene.dates[0][0].bands
    alpha = None if first.alpha is None or first.alpha in bands else first.alpha + 1
    return [], Contents((first.height, first.width), images, classes, change, alpha, missing)


def _named(raster: Raster) -> str:
    """The names of the bands as a part of a sentence."""
    names = [name or "?" for name in raster.names]
    return f", bands {' '.join(names)}" if {*names} - {"?"} else ""


def _open_images(
    scene: Scene,
    reading: Reading,
    scheme: Scheme,
    num_bands: int | None,
    rasters: dict[Path, Raster | LabelFile],
) -> tuple[list[Problem], int]:
    """Opens and reads all images of a scene, and adds them to `rasters`.

    Returns:
        The problems, and how many of their pixels have no data.

    Raises:
        FileNotFoundError: a file is missing.
    """
    problems: list[Problem] = []
    missing = 0
    of_path: dict[Path, list[ImageFile]] = {}
    for file in (file for files in scene.dates for file in files):
        of_path.setdefault(file.path, []).append(file)
    for path, files in of_path.items():
        try:
            rasters[path] = raster = reading.open_image(path)
            chosen = [bands_in_file(path, raster.names, f.names, f.bands) for f in files]
            bands = sorted({*chain(*chosen)})
            found, gaps = _image_problems(raster, bands, reading, scheme, num_bands)
            problems, missing = problems + found, missing + gaps
        except FileNotFoundError:
            raise
        except OSError as error:
            problems.append(Problem("unreadable", str(error)))
        except ValueError as error:
            problems.append(Problem("bands", str(error)))
    return problems, missing


def _read_labels(
    scene: Scene, reading: Reading, rasters: Mapping[Path, LabelFile]
) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
    """Counts of classes and change, see Contents, and problems with the labels of a scene."""
    classes = np.zeros((reading.labels.num_dates, 256), np.int64)
    change = np.zeros(256, np.int64)
    try:
        for window in strips(rasters[scene.labels[0]]) if scene.labels else ():
            *dates, changed = reading.labels.read(scene.labels, window, rasters.__getitem__)
            change += np.bincount(changed.ravel(), minlength=256)
            for count, date in zip(classes, dates, strict=True):
                count += np.bincount(date.ravel(), minlength=256)
    except LabelError as error:
        return classes, change, [Problem(error.requirement, str(error))]
    except (OSError, ValueError) as error:
        return classes, change, [Problem("unreadable", str(error))]
    return classes, change, []


def _image_problems(
    raster: Raster,
    bands: Sequence[int],
    reading: Reading,
    scheme: Scheme,
    num_bands: int | None,
) -> tuple[list[Problem], int]:
    """Problems with bands, type and values of an image, and its pixels without data."""
    grey = raster.count == 1 and raster.dtype == np.uint8 and len(bands) == 3
    bands = (0,) * 3 if grey and scheme.standardise == "none" else bands
    needed = num_bands or max(bands) + 1
    if raster.count != needed if num_bands else raster.count < needed:
        text = f"{raster.path}: {raster.count} bands where {needed} are needed"
        return [Problem("bands", text)], 0
    Preparation(scheme, reading.scaled).check_type(raster.path, raster.dtype)
    missing = 0
    for window in strips(raster):
        valid = raster.valid(window, bands, raster.read(window, bands))
        missing += 0 if valid is None else int((~valid).sum())
    if missing == raster.height * raster.width:
        return [Problem("no numbers", f"{raster.path}: no pixel has data")], missing
    return [], missing


def _grid_problems(
    rasters: Mapping[Path, Raster | LabelFile], scene: Scene, placed: bool
) -> list[Problem]:
    """Problems with sizes or georeferences that differ; a label may have no georeference.

    `placed`: georeferences are read and compared.
    """
    sizes = {path: (raster.height, raster.width) for path, raster in rasters.items()}
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{path} {size[0]} x {size[1]}" for path, size in sizes.items())
        return [Problem("sizes differ", text)]
    problems = []
    first = rasters.get(scene.images[0]) if placed else None
    for path, raster in rasters.items():
        placed = path not in scene.labels or raster.crs is not None or raster.transform is not None
        difference = grid_difference(first, raster) if first and placed else None
        if difference:
            problems.append(Problem("grids differ", f"{first.path} and {path}: {difference}"))
    return problems


def whole_problems(
    found: Found, part: str, reading: Reading, scheme: Scheme, contents: Sequence[Contents]
) -> list[Problem]:
    """Problems of all labels of a part together; none if there are no labels."""
    if not found.scenes[0].labels:
        return []
    where = found.scenes[0].labels[0].parent
    change, classes = _sums(contents)
    num, labelled = len(contents), classes[:, : scheme.num_classes]
    changed, known = int(change[1]), int(change[0] + change[1])
    problems = []
    only_changed = isinstance(reading.labels, PairLabels) and reading.labels.style == "changed"
    if only_changed and known and changed == known:
        text = f"{where}: all {known:,} labelled pixels of {num} label(s) have a class"
        problems.append(Problem("label style", text))
    if part == "train" and scheme.num_dates == 2 and known and not changed:
        text = f"{where}: {num} label(s), none has a changed pixel; read as {reading.labels.about}"
        problems.append(Problem("no change", text))
    if part == "train" and scheme.num_classes and not labelled.sum():
        problems.append(Problem("no labels", f"{where}: {num} label(s), all not labelled"))
    elif scheme.task == "land_cover" and part == "train":
        problems += _one_class(where, num, scheme, labelled.sum(0), int(classes[:, 255].sum()))
    return problems


def _one_class(
    where: Path, num: int, scheme: Scheme, pixels: np.ndarray, ignored: int
) -> list[Problem]:
    """A problem if one class alone is labelled, while other pixels are said to be not labelled."""
    there = np.flatnonzero(pixels)
    if len(there) != 1 or not ignored:
        return []
    absent = [name for i, name in enumerate(scheme.classes) if i != there[0]]
    text = (
        f"{where}: {num} label(s) hold {scheme.classes[there[0]]} in {pixels[there[0]]:,} pixels, "
        f"not labelled in {ignored:,}, and never {', '.join(absent)}"
    )
    return [Problem("never occurs", text)]


def oddities(part: str, scheme: Scheme, contents: Sequence[Contents]) -> list[str]:
    """Warnings on the labels of a part, which are possible but rarely meant."""
    change, classes = _sums(contents)
    pixels = classes[:, : scheme.num_classes].sum(0)
    known, num = int(change[0] + change[1]), len(contents)
    found = []
    if bands := sorted({one.alpha for one in contents} - {None}):
        found.append(
            f"{part}: band {bands[0]} of the images is marked as alpha, so it says where there are "
            "data; if it is a measurement, name all bands with --bands"
        )
    if pixels.sum():
        absent = [name for name, count in zip(scheme.classes, pixels, strict=True) if not count]
        if absent:
            found.append(f"{part}: {', '.join(absent)} occurs in none of {num} label(s)")
        share = pixels.max() / pixels.sum()
        if share > MOSTLY:
            name = scheme.classes[int(pixels.argmax())]
            found.append(f"{part}: {share:.1%} of the labelled pixels are {name}")
    if scheme.num_dates == 2 and known:
        share = change[1] / known
        if share == 0 or share > MOSTLY:
            found.append(f"{part}: {share:.1%} of the known pixels changed")
    return found


def _sums(contents: Sequence[Contents]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels by change (256,) and by class (T, 256) of all scenes."""
    if not contents:
        return np.zeros(256, np.int64), np.zeros((0, 256), np.int64)
    return sum(one.change for one in contents), sum(one.classes for one in contents)


def describe(
    part: str, reading: Reading, scheme: Scheme, contents: Sequence[Contents]
) -> list[str]:
    """What a part holds, in lines of text: sizes, bands, classes, change."""
    change, classes = _sums(contents)
    sizes = sorted({one.size for one in contents})
    shown = ", ".join(f"{h} x {w}" for h, w in sizes[:4]) + (" ..." if len(sizes) > 4 else "")
    images = sorted({image for one in contents for image in one.images})
    lines = [f"{part}: {len(contents)} scene(s) of {shown} px"]
    lines += [f"  images: {image}" for image in images[:4]]
    if missing := sum(one.missing for one in contents):
        pixels = sum(one.size[0] * one.size[1] * len(one.images) for one in contents)
        lines.append(f"  no data: {missing:,} px of the images ({_share(missing, pixels)})")
    lines.append(f"  labels: {reading.labels.about}")
    pixels = classes[:, : scheme.num_classes].sum(0)
    for name, count in zip(scheme.classes, pixels, strict=True):
        lines.append(f"  {name}: {count:,} px ({_share(count, pixels.sum())})")
    if len(classes):
        ignored = int(classes[:, IGNORE_INDEX].sum())
        lines.append(f"  without a class: {ignored:,} px ({_share(ignored, classes.sum())})")
    if scheme.num_dates == 2:
        known = int(change[0] + change[1])
        lines.append(f"  changed: {change[1]:,} px ({_share(change[1], known)})")
    return lines


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "none"


def _fingerprint(scenes: Iterable[Scene], settings: object) -> str:
    digest = hashlib.sha1(repr((VERSION, settings)).encode())
    for scene in scenes:
        for path in scene.files:
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _load(passed_file: Path | str | None) -> dict[str, Any]:
    """Fingerprints of earlier runs; empty if the file is missing or invalid."""
    try:
        passed = json.loads(Path(passed_file).read_text("utf-8")) if passed_file is not None else {}
    except (OSError, ValueError):
        passed = {}
    return passed if isinstance(passed, dict) else {}
