"""Predicting a whole data set, counting as it goes."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils import distributed
from utils.figures import for_tensorboard
from utils.files import write_json
from utils.inference import Predictor, to_device, to_masks
from utils.log import RunLog
from utils.metrics import confusion_for, metrics_for, to_json
from utils.structures import IGNORE_INDEX, Probs, Sample, Scheme
from utils.writers import BackgroundWriter, write_mask

NUM_PICTURES = 4  # validation tiles drawn for TensorBoard
BEST_BY = {"semantic_change": "score", "binary_change": "iou_change", "land_cover": "miou"}

OnBatch = Callable[[Sample, Probs, Tensor], None]  # the batch, probabilities, masks (B, T, H, W)


def true_masks(batch: Sample) -> Tensor:
    """The targets of a batch as masks (B, T, H, W) uint8, as `to_masks` gives them.

    0 = unchanged, 1..K = class, IGNORE_INDEX where not known; without classes (B, 1, H, W) with
    1 = changed.
    """
    if batch.semantic.shape[1] == 0:
        return batch.change[:, None].to(torch.uint8)
    known = batch.semantic != IGNORE_INDEX
    masks = torch.where(known, batch.semantic + 1, IGNORE_INDEX)
    change = batch.change[:, None]
    masks = torch.where(change == 0, 0, masks)
    return torch.where(change == IGNORE_INDEX, IGNORE_INDEX, masks).to(torch.uint8)


def evaluate(
    predictor: Predictor,
    batches: Iterable[Sample],
    scheme: Scheme,
    on_batch: OnBatch | None = None,
) -> dict:
    """Predicts this rank's batches and scores all ranks' together.

    Args:
        predictor: called with each batch's images.
        batches: labelled; each rank its own share.
        scheme: the data set's.
        on_batch: sees each batch with its predictions, to write them, say.

    Returns:
        The task's metrics (see utils.metrics), the same on every rank.
    """
    confusion = confusion_for(scheme.task, scheme.num_classes, predictor.device)
    for batch in batches:
        batch = to_device(batch, predictor.device)
        probs = predictor(batch.images)
        masks = to_masks(probs)
        confusion.update(masks, true_masks(batch))
        if on_batch is not None:
            on_batch(batch, probs, masks)
    return metrics_for(
        scheme.task, distributed.sum_over_ranks(confusion.counts), scheme.num_classes
    )


def submit_masks(
    writer: BackgroundWriter,
    folder: Path,
    names: Sequence[str],
    masks: np.ndarray,
    scheme: Scheme,
) -> None:
    """Hands a batch of masks (B, T, H, W) to the writer: `folder/im1|im2/<id>.png`."""
    for name, dates in zip(names, masks, strict=True):
        for date, mask in enumerate(dates, start=1):
            writer.submit(write_mask, folder / f"im{date}" / f"{name}.png", mask, scheme.palette)


def tile_images(images: Tensor) -> np.ndarray:
    """One tile's images (T, C, H, W) as read -> (T, H, W, 3) uint8 to look at.

    The first three bands, or the first as grey; what is not 8 bit is stretched, all dates alike,
    from its 2nd to its 98th percentile.
    """
    images = images[:, : 3 if images.shape[1] >= 3 else 1].permute(0, 2, 3, 1).cpu().numpy()
    if images.dtype != np.uint8:
        dark, bright = np.percentile(images, (2, 98))
        images = ((images - dark) / max(bright - dark, 1e-6)).clip(0, 1) * 255
    return np.broadcast_to(images.astype(np.uint8), (*images.shape[:3], 3))


def example_picture(batch: Sample, masks: np.ndarray, i: int, scheme: Scheme) -> np.ndarray:
    """Images, prediction and truth of tile i as one picture (3, H, W) uint8."""
    truth = true_masks(batch)[i].cpu().numpy()
    return for_tensorboard(tile_images(batch.images[i]), masks[i], truth, scheme, batch.name[i])


def validate(
    predictor: Predictor,
    batches: Iterable[Sample],
    scheme: Scheme,
    log: RunLog,
    step: int,
    outdir: Path | str,
    save_mask: bool = False,
) -> dict:
    """Scores the validation tiles; logs, draws some, writes metrics/val.json; returns the metrics.

    Args:
        predictor: the network.
        batches: labelled tiles; each rank its own share.
        scheme: the data set's.
        log: where numbers and pictures go.
        step: of the training.
        outdir: for `metrics/val.json`.
        save_mask: write masks to `masks/val` too.
    """
    pictures = 0 if log.folder else NUM_PICTURES  # drawn so far
    with BackgroundWriter() as writer:

        def on_batch(batch: Sample, probs: Probs, masks: Tensor) -> None:
            nonlocal pictures
            if not save_mask and pictures == NUM_PICTURES:
                return
            masks = masks.cpu().numpy()
            if save_mask:
                submit_masks(writer, Path(outdir, "masks", "val"), batch.name, masks, scheme)
            for i in range(min(len(masks), NUM_PICTURES - pictures)):
                pictures += 1
                log.picture(batch.name[i], step, example_picture(batch, masks, i, scheme))

        metrics = evaluate(predictor, batches, scheme, on_batch)
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
    log.write("val", step, **to_json(numbers))
    if distributed.is_main():
        write_json(Path(outdir, "metrics", "val.json"), to_json(metrics))
        tqdm.write(f"step {step}: {describe(numbers)}")
    return metrics


def describe(metrics: dict[str, float]) -> str:
    """Metrics in 0..1 as one line in per cent."""
    return "[%] " + "  ".join(f"{key} {100 * value:.2f}" for key, value in metrics.items())
