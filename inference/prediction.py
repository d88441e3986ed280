"""The engine of prediction: whole scenes, and windows of large ones blended into rows.

test.py, label.py, predict.py and validation use it. Memory does not depend on the height of a
scene.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
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
    """Finished predictions: whole scenes of one size, or a rectangle of one that was divided."""

    scenes: list[int]  # B indices
    top: int  # first row, counted from the first row in use
    left: int
    probs: Probs  # (B, ..., h, w)
    batch: Sample  # of this area; images only of whole scenes, else None
    is_whole: bool
    is_last: bool  # the scenes are finished with this area


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
    # one open file and one process serve all windows of a large scene
    threads = any(count > 1 for count in counts.values())
    return eval_loader(data, share, indices=indices, num_workers=num_workers, threads=threads)


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
    """Yields predictions as soon as they are finished: whole scenes, and one rectangle a window.

    Rectangles come from left to right and from top to bottom.

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
        groups = groupby(range(len(keys)), [scene in divided for scene, _ in windows].__getitem__)
        for is_divided, numbers in groups:
            numbers = list(numbers)
            if not is_divided:
                some = slice(numbers[0], numbers[-1] + 1)
                scenes = [scene for scene, _ in windows[some]]
                yield Area(scenes, 0, 0, _some(probs, some), items(batch, some), True, True)
                continue
            for i in numbers:
                scene, window = windows[i]
                if blended is None or blended.scene != scene:
                    blended = _BlendedScene(data, scene)
                valid = None if batch.valid is None else batch.valid[i]
                yield blended.add(window, _some(probs, slice(i, i + 1)), valid)


def predict_together(groups: Sequence[Iterator[Area]], weights: Sequence[int]) -> Iterator[Area]:
    """The means of several predictions of the same scenes, made by networks that read other bands.

    Args:
        groups: finished areas of each group of networks.
        weights: numbers of networks.
    """
    if len(groups) == 1:
        yield from groups[0]
        return
    for each in zip(*groups, strict=True):
        fields = zip(*(area.probs for area in each), strict=True)
        probs = (None if None in field else _mean(field, weights) for field in map(list, fields))
        yield each[0]._replace(probs=Probs(*probs))


def _mean(values: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return total / sum(weights)


def _some(probs: Probs, some: slice) -> Probs:
    """Probabilities of some items of a batch."""
    return Probs(*(None if p is None else p[some] for p in probs))


class _BlendedScene:
    """Blends the windows of one scene."""

    def __init__(self, data: SceneSamples, scene: int):
        self.data, self.scene = data, scene
        self.in_use = data.reader.in_use(scene)
        full = data.padding == "constant"
        height, width = self.in_use.height, self.in_use.width
        self.blender = Blender(height, width, data.tile_px, data.overlap_px, full)

    def add(self, window: Window, probs: Probs, valid: Tensor | None) -> Area:
        """Adds the next window, (1, ..., h, w), and where it has data, (h, w) bool."""
        placed = window._replace(top=window.top - self.in_use.top)
        top, left, values = self.blender.add(placed, stack_probs(probs)[0])
        height, width = values.shape[-2:]
        area = Window(self.in_use.top + top, left, height, width)
        *dates, change = torch.from_numpy(self.data.reader.labels(self.scene, area))
        semantic = torch.stack(dates) if dates else change.new_zeros(0, *change.shape)
        valid = None if valid is None else valid[None, :height, :width]
        name = self.data.names[self.scene]
        labels = Sample([name], None, semantic[None], change[None], valid)
        end = self.in_use.height, self.in_use.width
        is_last = (top + height, left + width) == end
        return Area(
            [self.scene], top, left, _unstacked(values[None], probs), labels, False, is_last
        )


def _unstacked(values: Tensor, like: Probs) -> Probs:
    """The inverse of `stack_probs` for the shapes of `like`; without a gate."""
    semantic = None
    if like.semantic is not None:
        dates, classes = like.semantic.shape[1:3]
        semantic = values[:, : dates * classes].unflatten(1, (dates, classes))
    return Probs(semantic, None if like.change is None else values[:, -1])
