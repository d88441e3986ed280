"""Predicting a whole data set, counting as it goes."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.distributed import sum_over_ranks
from utils.figures import for_tensorboard
from utils.inference import Predictor, to_device, to_masks
from utils.metrics import confusion_for, metrics_for
from utils.structures import IGNORE_INDEX, Probs, Sample, Scheme
from utils.writers import BackgroundWriter, write_mask

BEST_BY = {"semantic_change": "score", "binary_change": "iou_change", "land_cover": "miou"}

OnBatch = Callable[[Sample, Probs, Tensor], None]  # the batch, probabilities, masks (B, T, H, W)


def true_masks(batch: Sample) -> Tensor:
    """The targets of a batch as masks (B, T, H, W) uint8, as `to_masks` gives them.

    0 = unchanged, 1..K = class, IGNORE_INDEX where not known.
    """
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
    return metrics_for(scheme.task, sum_over_ranks(confusion.counts), scheme.num_classes)


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
    """One tile's images (T, C, H, W) as read -> (T, H, W, 3) uint8 to look at."""
    return images[:, :3].permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


def example_picture(batch: Sample, masks: np.ndarray, i: int, scheme: Scheme) -> np.ndarray:
    """Images, prediction and truth of tile i as one picture (3, H, W) uint8."""
    truth = true_masks(batch)[i].cpu().numpy()
    return for_tensorboard(tile_images(batch.images[i]), masks[i], truth, scheme, batch.name[i])


def describe(metrics: dict[str, float]) -> str:
    """Metrics in 0..1 as one line in per cent."""
    return "[%] " + "  ".join(f"{key} {100 * value:.2f}" for key, value in metrics.items())
