"""Validation: predicts a data set and scores it against its labels."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.entry import LabelFiles
from datasets.samples import SceneSamples
from inference.decide import to_masks, true_masks
from inference.destinations import Destinations
from inference.outputs import Outputs
from inference.overlap import HostCopy, overlap_transfers
from inference.prediction import Area, finished_areas, predict_batches
from inference.predictor import Predictor
from training.log import RunLog
from utils import distributed
from utils.background import BackgroundWriter
from utils.figures.panels import for_tensorboard
from utils.figures.tiles import tile_images
from utils.files import write_json
from utils.metrics import ConfusionMatrix, confusion_for, in_per_cent, metrics_for, to_json
from utils.rasters.windows import Window
from utils.structures import Scheme

NUM_PICTURES = 4  # validation tiles drawn for TensorBoard
BEST_BY = {"semantic_change": "score", "binary_change": "iou_change", "land_cover": "miou"}


OnArea = Callable[[Area, HostCopy], None]  # a finished area and its `masks` (B, T, h, w)


def evaluate(
    predictor: Predictor,
    batches: DataLoader,
    on_area: OnArea,
    absent_is_zero: bool = False,
) -> dict:
    """Predicts this rank's scenes and scores the predictions of all ranks together.

    Args:
        predictor: of the network.
        batches: of labelled scenes, made by `inference.prediction.scene_loader`.
        on_area: called with finished areas and their masks, for example to write them.
        absent_is_zero: see `utils.metrics.land_cover_metrics`.

    Returns:
        The task's metrics (see utils.metrics), the same on every rank.
    """
    scheme: Scheme = batches.dataset.scheme
    confusion = confusion_for(scheme.task, scheme.num_classes, predictor.device)
    predicted = _predict(predictor, batches, confusion, scheme.same_class_change)
    for area, copy in overlap_transfers(predicted):
        on_area(area, copy)
    counts = distributed.sum_over_ranks(confusion.counts)
    if not counts.any():
        raise ValueError(
            "no pixel of the validation labels has a class, so nothing can be scored; look at the "
            "values of the labels, and at what is said to be not labelled (255, --folders)"
        )
    return metrics_for(scheme.task, counts, scheme.num_classes, absent_is_zero)


def _predict(
    predictor: Predictor, batches: DataLoader, confusion: ConfusionMatrix, same_class_change: bool
) -> Iterator[tuple[Area, HostCopy]]:
    """Yields finished areas with their predicted masks, after updating `confusion`."""
    for area in finished_areas(predict_batches(predictor, batches), batches):
        masks = to_masks(area.probs, same_class_change=same_class_change, valid=area.batch.valid)
        confusion.update(masks, true_masks(area.batch).to(masks.device))
        yield area, HostCopy(masks=masks)


def validate(
    predictor: Predictor,
    batches: DataLoader,
    log: RunLog,
    step: int,
    outdir: Path | str,
    save_mask: bool = False,
    labels: LabelFiles | None = None,
    absent_is_zero: bool = False,
) -> dict:
    """Scores the validation scenes; logs, draws some, writes metrics/val.json; returns the metrics.

    Args:
        predictor: of the network.
        batches: see `evaluate`.
        log: receives numbers and pictures.
        step: training steps so far.
        outdir: for `metrics/val.json`.
        save_mask: also write masks to `masks/val`, as test.py does.
        labels: see `inference.outputs.Outputs`.
        absent_is_zero: see `utils.metrics.land_cover_metrics`.
    """
    pictures = 0 if log.folder else NUM_PICTURES  # drawn so far
    data: SceneSamples = batches.dataset
    masks_only = Destinations.masks_only(Path(outdir), "val")
    with (
        BackgroundWriter() as writer,
        Outputs(writer, data, data.scheme, masks_only, labels) as outputs,
    ):

        def on_area(area: Area, copy: HostCopy) -> None:
            nonlocal pictures
            if save_mask:
                outputs.write(area, copy)
            for i in range(min(len(area.scenes), NUM_PICTURES - pictures)):
                pictures += 1
                picture = example_picture(area, copy.arrays()["masks"], i, data)
                log.picture(area.batch.name[i], step, picture)

        metrics = evaluate(predictor, batches, on_area, absent_is_zero)
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
    log.write("val", step, **to_json(numbers))
    if distributed.is_main():
        write_json(
            Path(outdir, "metrics", "val.json"),
            to_json({**metrics, "classes": data.scheme.classes}),
        )
        tqdm.write(f"step {step}: {in_per_cent(numbers)}")
    return metrics


def example_picture(area: Area, masks: np.ndarray, i: int, data: SceneSamples) -> np.ndarray:
    """Images, prediction and truth of scene i, or of an area of it, as one (3, H, W) uint8."""
    if area.is_whole:
        images = area.batch.images[i]
    else:
        scene, size = area.scenes[i], masks.shape[-2:]
        window = Window(data.reader.in_use(scene).top + area.top, area.left, *size)
        images = torch.from_numpy(data.reader.read(scene, window)[0])
    truth = true_masks(area.batch)[i].numpy()
    images = tile_images(images, data.scheme.bands, masks.shape[-2:])
    return for_tensorboard(images, masks[i], truth, data.scheme, area.batch.name[i])
