"""Looks through a data set before any training, and says all that is wrong with it at once."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.codecs import LabelError, Palette, read_image, read_label
from datasets.layout import PARTS, DataError, Problem, Tile, list_pairs, part_path
from utils.files import write_json

VERSION = 1  # of the rules; a change makes old fingerprints void


def check_pairs(
    root: Path | str,
    palette: Palette,
    parts: Sequence[str] | None = None,
    *,
    folders: Mapping[str, str] | None = None,
    seen: Path | str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Decodes every file of the parts and applies the rules of `datasets.layout.RULES`.

    Args:
        root: folder with the parts in it.
        palette: K + 1 colours; labels may be 0..K.
        parts: which to check; None = those of train, val and test that are there.
        folders: names in place of the usual ones.
        seen: JSON file with the fingerprints (names, sizes, times) of parts that passed; a part
            that is as it was is not decoded again. None always decodes.
        threads: None = one a core.
        progress: show a bar.

    Returns:
        Number of tiles per part.

    Raises:
        FileNotFoundError: a part has no images.
        DataError: all files that break a rule.
    """
    if parts is None:
        parts = [part for part in PARTS if part_path(root, part, folders).is_dir()] or ["train"]
    passed = _load(seen)
    counts, problems, prints = {}, [], {}
    for part in parts:
        tiles, found = list_pairs(root, part, folders)
        key, counts[part] = str(part_path(root, part, folders).resolve()), len(tiles)
        prints[key] = _fingerprint(tiles, palette)
        if found or passed.get(key) != prints[key]:
            problems += found + _check_tiles(tiles, palette, threads, part if progress else None)
    if problems:
        raise DataError(root, problems)
    if seen is not None and not prints.items() <= passed.items():
        write_json(seen, passed | prints)
    return counts


def check_tile(tile: Tile, palette: Palette) -> list[Problem]:
    """What is wrong inside the files of one tile; decodes all of them."""
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


def _check_tiles(
    tiles: list[Tile], palette: Palette, threads: int | None, title: str | None
) -> list[Problem]:
    """Checks tiles in threads: decoding releases Python's lock."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        results = pool.map(lambda tile: check_tile(tile, palette), tiles)
        bar = tqdm(results, f"checking {title}", len(tiles), unit="pair", disable=title is None)
        return [problem for found in bar for problem in found]


def _fingerprint(tiles: list[Tile], palette: Palette) -> str:
    digest = hashlib.sha1(repr((VERSION, palette)).encode())
    for tile in tiles:
        for path in (*tile.images, *(tile.labels or ())):
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _load(seen: Path | str | None) -> dict[str, str]:
    """Fingerprints of earlier runs; a file that is no such thing counts as none."""
    try:
        passed = json.loads(Path(seen).read_text("utf-8")) if seen is not None else {}
    except (OSError, ValueError):
        passed = {}
    return passed if isinstance(passed, dict) else {}
