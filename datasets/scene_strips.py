"""Whole scenes from a network, strip by strip, and the truth beside them."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from datasets.loader import eval_loader
from datasets.scenes import SceneDataset
from utils import distributed
from utils.inference import Predictor
from utils.scenes import predict_scenes
from utils.thresholds import ThresholdSweep, result
from utils.windows import Strip, Window


def predict_strips(
    predictor: Predictor, scenes: SceneDataset, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[int, Iterator[Strip]]]:
    """This rank's scenes, every world-th: index and strips of rows, see utils.scenes.

    Args:
        predictor: the networks.
        scenes: in windows.
        batch_size: windows at a time.
        num_workers: processes that read; 0 reads here.
    """
    rank, world = distributed.rank(), distributed.world()
    mine = [k for k, (i, _) in enumerate(scenes.windows) if i % world == rank]
    scenes.reader.measure(
        i
        for i, count in Counter(i for i, _ in scenes.windows).items()
        if count > 1 and i % world == rank
    )
    batches = eval_loader(scenes, batch_size, indices=mine, num_workers=num_workers)
    windows = []  # in pixels of what is used of a scene, as `shapes`
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
    """As `predict_strips`, the mean over networks that read the same scenes in several ways.

    Args:
        groups: networks, and the scenes as they read them; each network counts alike.
        batch_size: windows at a time.
        num_workers: processes that read, for each group; 0 reads here.
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
    """(h, W) uint8 of the label where a strip is: 1 = changed, 0 = unchanged, or IGNORE_INDEX."""
    _, height, width = strip.values.shape
    window = Window(scenes.reader.rows(index)[0] + strip.top, 0, height, width)
    return torch.from_numpy(scenes.reader.change(index, window)).to(strip.values.device)


def sweep_thresholds(
    groups: Sequence[tuple[Predictor, SceneDataset]], batch_size: int, num_workers: int = 0
) -> dict:
    """How good every threshold is on labelled scenes, all ranks' together; see utils.thresholds.

    Args:
        groups: see `predict_together`.
        batch_size: windows at a time.
        num_workers: processes that read, for each group.
    """
    predictor, scenes = groups[0]
    sweep = ThresholdSweep(predictor.device)
    for i, strips in predict_together(groups, batch_size, num_workers):
        for strip in strips:
            sweep.update(strip.values[-1:], true_rows(scenes, i, strip)[None])
    return result(distributed.sum_over_ranks(sweep.counts))
