"""Validation: predicts a data set and scores it against its labels."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from inference.decide import to_masks, true_masks
from inference.outputs import submit_masks
from inference.overlap import HostCopy, overlap_transfers
from inference.predictor import Predictor
from training.log import RunLog
from utils import distributed
from utils.background import BackgroundWriter
from utils.figures.panels import for_tensorboard
from utils.figures.tiles import tile_images
from utils.files import write_json
from utils.metrics import ConfusionMatrix, confusion_for, in_per_cent, metrics_for, to_json
from utils.structures import Sample, Scheme, label_size, to_device

NUM_PICTURES = 4  # validation tiles drawn for TensorBoard
BEST_BY = {"semantic_change": "score", "binary_change": "iou_change", "land_cover": "miou"}

OnBatch = Callable[[Sample, HostCopy], None]  # the batch and its `masks` (B, T, H, W)


def evaluate(
    predictor: Predictor,
    batches: Iterable[Sample],
    scheme: Scheme,
    on_batch: OnBatch,
    absent_is_zero: bool = False,
) -> dict:
    """Predicts this rank's batches and scores the predictions of all ranks together.

    Args:
        predictor: called with each batch's images.
        batches: labelled; each rank has its own share.
        scheme: of the data set.
        on_batch: called with each batch and its masks, for example to write them.
        absent_is_zero: see `utils.metrics.land_cover_metrics`.

    Returns:
        The task's metrics (see utils.metrics), the same on every rank.
    """
    confusion = confusion_for(scheme.task, scheme.num_classes, predictor.device)
    predicted = _predict(predictor, batches, confusion, scheme.same_class_change)
    for batch, copy in overlap_transfers(predicted):
        on_batch(batch, copy)
    counts = distributed.sum_over_ranks(confusion.counts)
    if not counts.any():
        raise ValueError(
            "no pixel of the validation labels has a class, so nothing can be scored; look at the "
            "values of the labels, and at what is said to be not labelled (255, --folders)"
        )
    return metrics_for(scheme.task, counts, scheme.num_classes, absent_is_zero)


def _predict(
    predictor: Predictor,
    batches: Iterable[Sample],
    confusion: ConfusionMatrix,
    same_class_change: bool,
) -> Iterator[tuple[Sample, HostCopy]]:
    """Yields each batch with its predicted masks, after updating `confusion`."""
    for batch in batches:
        batch = to_device(batch, predictor.device)
        probs = predictor(batch.images, size=label_size(batch))
        masks = to_masks(probs, same_class_change=same_class_change)
        confusion.update(masks, true_masks(batch))
        yield batch, HostCopy(masks=masks)


def validate(
    predictor: Predictor,
    batches: Iterable[Sample],
    scheme: Scheme,
    log: RunLog,
    step: int,
    outdir: Path | str,
    save_mask: bool = False,
    absent_is_zero: bool = False,
) -> dict:
    """Scores the validation tiles; logs, draws some, writes metrics/val.json; returns the metrics.

    Args:
        predictor: of the network.
        batches: labelled tiles; each rank has its own share.
        scheme: of the data set.
        log: receives numbers and pictures.
        step: training steps so far.
        outdir: for `metrics/val.json`.
        save_mask: also write masks to `masks/val`.
        absent_is_zero: see `utils.metrics.land_cover_metrics`.
    """
    pictures = 0 if log.folder else NUM_PICTURES  # drawn so far
    with BackgroundWriter() as writer:

        def on_batch(batch: Sample, copy: HostCopy) -> None:
            nonlocal pictures
            if not save_mask and pictures == NUM_PICTURES:
                return
            masks = copy.arrays()["masks"]
            if save_mask:
                submit_masks(writer, Path(outdir, "masks", "val"), batch.name, masks, scheme)
            for i in range(min(len(masks), NUM_PICTURES - pictures)):
                pictures += 1
                log.picture(batch.name[i], step, example_picture(batch, masks, i, scheme))

        metrics = evaluate(predictor, batches, scheme, on_batch, absent_is_zero)
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
    log.write("val", step, **to_json(numbers))
    if distributed.is_main():
        write_json(
            Path(outdir, "metrics", "val.json"), to_json({**metrics, "classes": scheme.classes})
        )
        tqdm.write(f"step {step}: {in_per_cent(numbers)}")
    return metrics


def example_picture(batch: Sample, masks: np.ndarray, i: int, scheme: Scheme) -> np.ndarray:
    """Images, prediction and truth of tile i as one picture (3, H, W) uint8."""
    truth = true_masks(batch)[i].cpu().numpy()
    images = tile_images(batch.images[i], scheme.bands, masks.shape[-2:])
    return for_tensorboard(images, masks[i], truth, scheme, batch.name[i])
