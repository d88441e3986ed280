"""Tiles of a report: predictions, labels, scores, and the choice of tiles to show."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from inference.label_record import RECORD
from report.files import Sources, files_by_id, is_mask, read_bounded, read_classes, read_mask
from utils.figures.tiles import tile_images
from utils.metrics import confusion_for, metrics_for, transition_states
from utils.structures import IGNORE_INDEX, Scheme

COUNT_PX = 2048  # longest side at which masks are counted and scored
MIN_CHANGED = 0.01  # truly changed share of a tile; below it, a score is too noisy
RANK_BY = {"semantic_change": "fscd", "binary_change": "f1_change", "land_cover": "oa"}
RANK_NAMES = {
    "semantic_change": "F1 of pixels changed to the right class, where at least 1 % changed",
    "binary_change": "F1 of changed pixels, where at least 1 % changed",
    "land_cover": "share of pixels with the right class",
}


class Picture(NamedTuple):
    """One tile or scene to show; all arrays have the same height and width, dates D = 1 or 2."""

    name: str
    images: np.ndarray | None  # (T, h, w, 3) uint8 RGB; None if missing
    pred: np.ndarray  # (D, h, w) uint8: 0 = unchanged, 1..K, IGNORE_INDEX = no data
    truth: np.ndarray | None = None  # (D, h, w) uint8, IGNORE_INDEX = not labelled
    changed: np.ndarray | None = None  # (h, w) bool, if unchanged pixels also have classes
    probability: np.ndarray | None = None  # (h, w) in 0..1, of change (or of the class)
    score: float | None = None  # in 0..1
    verdict: str = ""  # "best", "worst" or ""
    step: float = 1.0  # pixels of the scene per pixel of the picture, along one axis


class Tiles(NamedTuple):
    """The masks of one part."""

    part: str
    names: list[str]
    masks: tuple[dict[str, Path], ...]  # by date, id -> file
    pseudo: bool  # pseudo labels for training, not predictions


class Counts(NamedTuple):
    """Pixel counts and scores of all tiles of a part."""

    transitions: np.ndarray | None  # (K, K) from, to; (1, 1) of changed; None for land cover
    unchanged: int
    classes: np.ndarray | None  # (K,) for land cover
    scores: dict[str, float]  # by id, of tiles with labels


def find_tiles(folder: Path) -> Tiles | None:
    """The masks that test.py or label.py wrote into a folder; None if there are none."""
    dated = tuple(files_by_id(folder / f"im{date}") for date in (1, 2))
    masks = tuple(found for found in dated if found) or (files_by_id(folder),)
    names = sorted(set.intersection(*(set(found) for found in masks)))
    if not names or not is_mask(masks[0][names[0]]):
        return None
    return Tiles(folder.name, names, masks, (folder / RECORD).exists())


def count_tiles(
    tiles: Tiles,
    sources: Sources | None,
    scheme: Scheme,
    each: Callable[[], object] = lambda: None,
) -> Counts:
    """Counts transitions or classes, and scores every tile that has labels.

    Args:
        tiles: the masks.
        sources: files of images and labels, if found.
        scheme: classes and palette.
        each: called after every tile, for a progress bar.
    """
    k, scores = scheme.num_classes, {}
    states = k * k + 1 if scheme.task == "semantic_change" else max(k + 1, 2)
    total = np.zeros(states, np.int64)
    for name in tiles.names:
        pred = read_prediction(tiles, name, COUNT_PX)
        total += _bins(pred, scheme, states)
        if sources and sources.labels and not tiles.pseudo:
            truth = read_truth(sources, name, COUNT_PX, scheme)
            score = tile_score(pred, truth, scheme)
            if score is not None:
                scores[name] = score
        each()
    if scheme.task == "land_cover":
        return Counts(None, 0, total[1:], scores)
    side = max(k, 1) if scheme.task == "semantic_change" else 1
    return Counts(total[1:].reshape(side, side), int(total[0]), None, scores)


def tile_score(pred: np.ndarray, truth: np.ndarray, scheme: Scheme) -> float | None:
    """Score of one tile, 0..1, by the metric RANK_BY of the task.

    Args:
        pred: (D, h, w), 0 = unchanged, 1..K.
        truth: (D, h, w), IGNORE_INDEX = not labelled.
        scheme: classes.

    Returns:
        None if less than MIN_CHANGED changed, the score is undefined, or the shapes differ.
    """
    if pred.shape != truth.shape:
        return None
    known = (truth != IGNORE_INDEX).all(0)
    changed = (truth > 0).any(0) & known
    if scheme.task != "land_cover" and changed.sum() < MIN_CHANGED * changed.size:
        return None
    confusion = confusion_for(scheme.task, scheme.num_classes)
    confusion.update(*(torch.from_numpy(mask.astype(np.int64))[None] for mask in (pred, truth)))
    value = metrics_for(scheme.task, confusion.counts, scheme.num_classes)[RANK_BY[scheme.task]]
    return None if math.isnan(value) else value


def choose(tiles: Tiles, scores: dict[str, float], count: int) -> list[tuple[str, str]]:
    """Tiles to show as (id, verdict): half best and half worst; without scores, evenly spaced."""
    ranked = sorted(scores, key=lambda name: (scores[name], name))
    count = min(count, len(tiles.names))
    if len(ranked) < 2:
        return [(tiles.names[i * len(tiles.names) // count], "") for i in range(count)]
    count = min(count, len(ranked))
    worst, best = ranked[: count // 2], ranked[::-1][: count - count // 2]
    return [(name, "best") for name in best] + [(name, "worst") for name in worst]


def read_picture(
    tiles: Tiles, sources: Sources | None, name: str, scheme: Scheme, longest: int
) -> Picture:
    """The picture of one tile, no side longer than `longest`."""
    pred = read_prediction(tiles, name, longest)
    size, images, truth = pred.shape[1:], None, None
    if sources:
        images = read_images([found[name] for found in sources.images], scheme, longest)
        images = images if images.shape[1:3] == size else None
    if sources and sources.labels and not tiles.pseudo:
        truth = read_truth(sources, name, longest, scheme)
        truth = truth if truth.shape[1:] == size else None
    return Picture(name, images, pred, truth)


def read_prediction(tiles: Tiles, name: str, longest: int) -> np.ndarray:
    """The masks of one tile, (D, h, w) uint8."""
    return np.stack([read_mask(found[name], longest) for found in tiles.masks])


def read_truth(sources: Sources, name: str, longest: int, scheme: Scheme) -> np.ndarray:
    """The labels of one tile, (D, h, w) uint8, IGNORE_INDEX = not labelled."""
    paths = [found[name] for found in sources.labels]
    if scheme.task != "binary_change":
        return np.stack([read_classes(path, longest, scheme.palette) for path in paths])
    stored = read_mask(paths[0], longest)
    known = (stored == 0) | (stored == sources.changed)
    return np.where(known, stored == sources.changed, IGNORE_INDEX).astype(np.uint8)[None]


def with_coding(sources: Sources) -> Sources:
    """The sources with `changed` set: 1 if any change label contains a 1, else 255."""
    labels = sources.labels[0].values() if sources.labels else ()
    ones = any((read_mask(path, COUNT_PX) == 1).any() for path in labels)
    return sources._replace(changed=1 if ones else IGNORE_INDEX)


def read_images(paths: Sequence[Path], scheme: Scheme, longest: int) -> np.ndarray:
    """The images of a tile for display, (T, h, w, 3) uint8."""
    images = np.stack([read_bounded(path, longest, smooth=True) for path in paths])
    if images.dtype.kind == "u" and images.itemsize > 1:
        images = images.astype(np.float32)
    bands = scheme.bands if len(scheme.bands) == images.shape[1] else ()
    return tile_images(torch.from_numpy(images), bands)


def _bins(pred: np.ndarray, scheme: Scheme, states: int) -> np.ndarray:
    masks = torch.from_numpy(pred.astype(np.int64))[None]
    if scheme.task == "semantic_change":
        values = transition_states(masks, scheme.num_classes)
    else:
        values = masks[:, 0]
    values = values[(values >= 0) & (values < states)]
    return torch.bincount(values, minlength=states).numpy()
