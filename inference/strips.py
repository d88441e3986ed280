"""Predicts whole scenes in windows and blends these into strips of rows, in bounded memory."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from datasets.loader import eval_loader
from datasets.scenes import SceneDataset
from inference.blending import Blender, Strip, join_rows
from inference.predictor import Predictor
from utils import distributed
from utils.probabilities import stack_probs
from utils.rasters.windows import Window
from utils.structures import Sample


def predict_scenes(
    predictor: Predictor,
    batches: Iterable[Sample],
    windows: Iterable[tuple[int, Window]],
    shapes: Sequence[tuple[int, int]],
    grid: tuple[int, int, bool],
) -> Iterator[tuple[int, Iterator[Strip]]]:
    """Yields each scene's index and its strips of rows, from top to bottom.

    A strip's values are (C, h, W): the probabilities in the order of `stack_probs`. The caller must
    consume all strips of a scene before it takes the next scene.

    Args:
        predictor: called with each batch's images.
        batches: the images of the windows.
        windows: (scene, window) of every image, in the batches' order, scene by scene.
        shapes: (height, width) of every scene, pixels.
        grid: arguments tile_px, overlap_px and full of `utils.rasters.windows.grid`.
    """
    predicted = (values for batch in batches for values in stack_probs(predictor(batch.images)))
    placed = zip(windows, predicted, strict=True)
    for scene, group in itertools.groupby(placed, key=lambda item: item[0][0]):
        blender = Blender(*shapes[scene], *grid)
        pieces = (blender.add(window, values) for (_, window), values in group)
        yield scene, join_rows(pieces, shapes[scene][1])


def predict_strips(
    predictor: Predictor, scenes: SceneDataset, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[int, Iterator[Strip]]]:
    """Predicts this rank's scenes (every world-th); yields index and strips of rows.

    Args:
        predictor: of the networks.
        scenes: read in windows.
        batch_size: windows per batch.
        num_workers: reading processes; 0 reads in this one.
    """
    rank, world = distributed.rank(), distributed.world()
    mine = [k for k, (i, _) in enumerate(scenes.windows) if i % world == rank]
    scenes.reader.measure(
        i
        for i, count in Counter(i for i, _ in scenes.windows).items()
        if count > 1 and i % world == rank
    )
    batches = eval_loader(scenes, batch_size, indices=mine, num_workers=num_workers)
    windows = []  # relative to the used rows of a scene, as `shapes` are
    for i, window in (scenes.windows[k] for k in mine):
        windows.append((i, window._replace(top=window.top - scenes.reader.rows(i)[0])))
    return predict_scenes(
        predictor,
        tqdm(batches, unit="batch", disable=not distributed.is_main()),
        windows,
        scenes.reader.shapes,
        (scenes.tile_px, scenes.overlap_px, scenes.padding == "constant"),
    )


def predict_together(
    groups: Sequence[tuple[Predictor, SceneDataset]], batch_size: int, num_workers: int = 0
) -> Iterator[tuple[int, Iterator[Strip]]]:
    """As `predict_strips`, averaged over networks that read the same scenes differently.

    Args:
        groups: networks, and the scenes as they read them; each network has the same weight.
        batch_size: windows per batch.
        num_workers: reading processes of each group; 0 reads in this one.
    """
    counts = [len(predictor.members) for predictor, _ in groups]
    each = [predict_strips(*group, batch_size, num_workers) for group in groups]
    for found in zip(*each, strict=True):
        yield found[0][0], _means([strips for _, strips in found], counts)


def _means(each: Sequence[Iterator[Strip]], counts: Sequence[int]) -> Iterator[Strip]:
    if len(each) == 1:
        yield from each[0]
        return
    for strips in zip(*each, strict=True):
        pairs = zip(strips, counts, strict=True)
        total = sum(strip.values * count for strip, count in pairs)
        yield Strip(strips[0].top, total / sum(counts))


def true_rows(scenes: SceneDataset, index: int, strip: Strip) -> Tensor:
    """(h, W) uint8 label of a strip's rows: 1 = changed, 0 = unchanged, or IGNORE_INDEX."""
    _, height, width = strip.values.shape
    window = Window(scenes.reader.rows(index)[0] + strip.top, 0, height, width)
    return torch.from_numpy(scenes.reader.change(index, window)).to(strip.values.device)
