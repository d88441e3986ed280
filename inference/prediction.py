"""The engine of prediction: whole scenes, and windows of large ones blended into rows.

test.py, label.py, predict.py and validation use it. Memory does not depend on the height of a
scene.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.loader import eval_loader
from datasets.samples import SceneSamples
from inference.blending import Blender
from inference.predictor import Predictor
from utils import distributed
from utils.probabilities import stack_probs
from utils.rasters.windows import Window
from utils.structures import Probs, Sample, Scheme, items, label_size

Predicted = Iterable[tuple[Sample, Probs]]  # batches and their probabilities


class Area(NamedTuple):
    """A finished rectangle of one scene."""

    scene: int  # index
    top: int  # first row, counted from the first row in use
    left: int
    values: Tensor  # (C, h, w) probabilities in the order of `stack_probs`
    valid: Tensor | None  # (h, w) bool: all dates have data; None: everywhere


class Rows(NamedTuple):
    """Finished predictions: whole scenes of one size, or rows of one scene that was divided."""

    scenes: list[int]  # B indices
    top: int  # first row, counted from the first row in use
    probs: Probs  # (B, ..., h, W)
    batch: Sample  # names and labels of these rows; images only of whole scenes, else None
    is_whole: bool
    is_last: bool  # the scenes are finished with these rows


def scene_loader(
    data: SceneSamples, batch_size: int, num_workers: int = 0, indices: Sequence[int] | None = None
) -> DataLoader:
    """Batches of this rank's scenes (every world-th), in order; all windows of a scene are here.

    Args:
        data: without augmentation.
        batch_size: items per batch, all ranks together.
        num_workers: reading processes; 0 reads in this one.
        indices: of the items of this rank; None = all of its share.
    """
    if indices is None:
        rank, world = distributed.rank(), distributed.world()
        indices = [k for k, (scene, _) in enumerate(data.windows) if scene % world == rank]
    counts = Counter(data.windows[k][0] for k in indices)
    data.reader.measure(scene for scene, count in counts.items() if count > 1)
    share = -(-batch_size // distributed.world())
    return eval_loader(data, share, indices=indices, num_workers=num_workers)


def predict_batches(predictor: Predictor, batches: DataLoader) -> Iterator[tuple[Sample, Probs]]:
    """Yields each batch with its probabilities on the device; 0 in windows without any data.

    Args:
        predictor: called with the images of the windows that have data.
        batches: made by `scene_loader`.
    """
    for batch in batches:
        with_data = None if batch.valid is None else batch.valid.flatten(1).any(1)
        if with_data is None or with_data.all():
            yield batch, predictor(batch.images, size=label_size(batch))
            continue
        probs = _zeros(batches.dataset.scheme, len(with_data), label_size(batch), predictor.device)
        if with_data.any():
            found = predictor(batch.images[with_data], size=label_size(batch))
            for out, values in zip(probs, found, strict=True):
                if out is not None:
                    out[with_data.to(out.device)] = values
        yield batch, probs


def _zeros(scheme: Scheme, count: int, size: tuple[int, int], device: torch.device) -> Probs:
    """Probabilities 0 of `count` windows; without a gate."""
    semantic, change = (count, scheme.num_dates, scheme.num_classes, *size), (count, *size)
    return Probs(
        torch.zeros(semantic, device=device) if scheme.classes else None,
        None if scheme.task == "land_cover" else torch.zeros(change, device=device),
    )


def finished_areas(predicted: Predicted, batches: DataLoader) -> Iterator[Area]:
    """Yields one rectangle for each window, as soon as no later window touches it.

    Args:
        predicted: each of `batches`, and its probabilities on the device.
        batches: made by `scene_loader`.
    """
    data: SceneSamples = batches.dataset
    blended: _BlendedScene | None = None
    for (batch, probs), keys in zip(predicted, iter(batches.batch_sampler), strict=True):
        for i, (_, index) in enumerate(keys):
            scene, window = data.windows[index]
            if blended is None or blended.scene != scene:
                blended = _BlendedScene(data, scene)
            valid = None if batch.valid is None else batch.valid[i]
            yield blended.add(window, _probs_of(probs, slice(i, i + 1)), valid)


def finished_rows(predicted: Predicted, batches: DataLoader) -> Iterator[Rows]:
    """Yields predictions as soon as they are finished, scene by scene, from top to bottom.

    Args:
        predicted: each of `batches`, and its probabilities on the device.
        batches: made by `scene_loader`.
    """
    data: SceneSamples = batches.dataset
    in_use = data.reader.in_use
    divided = {s for s, window in data.windows if window is not None and window != in_use(s)}
    blended: _BlendedScene | None = None
    for (batch, probs), keys in zip(predicted, iter(batches.batch_sampler), strict=True):
        windows = [data.windows[index] for _, index in keys]
        start = 0
        while start < len(windows):
            scene = windows[start][0]
            stop = start + 1
            if scene not in divided:
                while stop < len(windows) and windows[stop][0] not in divided:
                    stop += 1
                some, scenes = slice(start, stop), [scene for scene, _ in windows[start:stop]]
                yield Rows(scenes, 0, _probs_of(probs, some), items(batch, some), True, True)
            else:
                if blended is None or blended.scene != scene:
                    blended = _BlendedScene(data, scene)
                yield from blended.rows(windows[start][1], _probs_of(probs, slice(start, stop)))
            start = stop


def predict_together(groups: Sequence[Iterator[Rows]], weights: Sequence[int]) -> Iterator[Rows]:
    """The means of several predictions of the same scenes, made by networks that read other bands.

    Args:
        groups: finished rows of each group of networks.
        weights: numbers of networks.
    """
    if len(groups) == 1:
        yield from groups[0]
        return
    for each in zip(*groups, strict=True):
        fields = zip(*(rows.probs for rows in each), strict=True)
        probs = (None if None in field else _mean(field, weights) for field in map(list, fields))
        yield each[0]._replace(probs=Probs(*probs))


def _mean(values: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return total / sum(weights)


def _probs_of(probs: Probs, some: slice) -> Probs:
    """Probabilities of some items of a batch."""
    return Probs(*(None if p is None else p[some] for p in probs))


class _BlendedScene:
    """Blends the windows of one scene."""

    def __init__(self, data: SceneSamples, scene: int):
        self.data, self.scene = data, scene
        self.area = data.reader.in_use(scene)
        full = data.padding == "constant"
        self.blender = Blender(
            self.area.height, self.area.width, data.tile_px, data.overlap_px, full
        )
        self._row: list[Area] = []

    def add(self, window: Window, probs: Probs, valid: Tensor | None = None) -> Area:
        """Adds the next window, probabilities (1, ..., h, w) and its (h, w) bool."""
        placed = window._replace(top=window.top - self.area.top)
        top, left, values = self.blender.add(placed, stack_probs(probs)[0])
        valid = None if valid is None else valid[: values.shape[-2], : values.shape[-1]]
        return Area(self.scene, top, left, values, valid)

    def rows(self, window: Window, probs: Probs) -> Iterator[Rows]:
        """Adds the next window; yields the rows that are finished with it."""
        self._row.append(self.add(window, probs))
        last = self._row[-1]
        if last.left + last.values.shape[-1] < self.area.width:
            return
        values = torch.cat([area.values for area in self._row], dim=-1)[None]
        self._row = []
        height = values.shape[-2]
        strip = Window(self.area.top + last.top, 0, height, self.area.width)
        *dates, change = torch.from_numpy(self.data.reader.labels(self.scene, strip))
        semantic = torch.stack(dates) if dates else change.new_zeros(0, *change.shape)
        labels = Sample([self.data.names[self.scene]], None, semantic[None], change[None])
        done = last.top + height == self.area.height
        yield Rows([self.scene], last.top, _unstacked(values, probs), labels, False, done)


def _unstacked(values: Tensor, like: Probs) -> Probs:
    """The inverse of `stack_probs` for the shapes of `like`; without a gate."""
    semantic = None
    if like.semantic is not None:
        dates, classes = like.semantic.shape[1:3]
        semantic = values[:, : dates * classes].unflatten(1, (dates, classes))
    return Probs(semantic, None if like.change is None else values[:, -1])
