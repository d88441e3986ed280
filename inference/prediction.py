"""The engine of prediction: whole scenes, and windows of large ones blended into rows.

test.py, label.py and validation use it. Memory does not depend on the height of a scene.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.loader import eval_loader
from datasets.samples import SceneSamples
from inference.blending import Blender, Piece
from utils import distributed
from utils.probabilities import stack_probs
from utils.rasters.windows import Window
from utils.structures import Probs, Sample


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


def finished_rows(predicted: Iterable[tuple[Sample, Probs]], batches: DataLoader) -> Iterator[Rows]:
    """Yields predictions as soon as they are finished, scene by scene, from top to bottom.

    Args:
        predicted: each of `batches`, and its probabilities on the device.
        batches: made by `scene_loader`.
    """
    data: SceneSamples = batches.dataset
    in_use = data.reader.in_use
    divided = {s for s, window in data.windows if window is not None and window != in_use(s)}
    keys = (keys for keys in batches.batch_sampler)
    blended: _BlendedScene | None = None
    for (batch, probs), items in zip(predicted, keys, strict=True):
        windows = [data.windows[index] for _, index in items]
        start = 0
        while start < len(windows):
            scene = windows[start][0]
            stop = start + 1
            if scene not in divided:
                while stop < len(windows) and windows[stop][0] not in divided:
                    stop += 1
                scenes = [scene for scene, _ in windows[start:stop]]
                yield Rows(scenes, 0, *_part(probs, batch, start, stop), True, True)
            else:
                if blended is None or blended.scene != scene:
                    blended = _BlendedScene(data, scene)
                yield from blended.add(windows[start][1], _part(probs, batch, start, stop)[0])
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


def _part(probs: Probs, batch: Sample, start: int, stop: int) -> tuple[Probs, Sample]:
    """Some items of a batch."""
    if stop - start == len(batch.name):
        return probs, batch
    some = slice(start, stop)
    return (
        Probs(*(None if p is None else p[some] for p in probs)),
        Sample(*(field[some] for field in batch)),
    )


class _BlendedScene:
    """Blends the windows of one scene."""

    def __init__(self, data: SceneSamples, scene: int):
        self.data, self.scene = data, scene
        self.area = data.reader.in_use(scene)
        full = data.padding == "constant"
        self.blender = Blender(
            self.area.height, self.area.width, data.tile_px, data.overlap_px, full
        )
        self._row: list[Piece] = []

    def add(self, window: Window, probs: Probs) -> Iterator[Rows]:
        """Adds the next window; yields the rows that are finished with it."""
        placed = window._replace(top=window.top - self.area.top)
        self._row.append(self.blender.add(placed, stack_probs(probs)[0]))
        last = self._row[-1]
        if last.left + last.values.shape[-1] < self.area.width:
            return
        values = torch.cat([piece.values for piece in self._row], dim=-1)[None]
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
