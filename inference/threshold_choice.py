"""The threshold of P(changed) with the best F1 on validation scenes (--threshold auto)."""

import math
from collections.abc import Sequence
from pathlib import Path

from datasets.scenes import SceneDataset
from inference.predictor import Predictor
from inference.strips import predict_together, true_rows
from utils import distributed
from utils.figures.curves import precision_recall_picture
from utils.files import save_image, write_json
from utils.metrics import to_json
from utils.thresholds import ThresholdSweep, result


def choose_threshold(
    groups: Sequence[tuple[Predictor, SceneDataset]],
    split: str,
    outdir: Path,
    batch_size: int,
    num_workers: int = 0,
) -> float:
    """The best threshold; writes its curve to `metrics/threshold.json` and `.png`.

    Args:
        groups: networks, and the validation scenes as they read them.
        split: by which these were chosen, in words.
        outdir: of the files.
        batch_size: windows at a time.
        num_workers: processes that read, for each group.

    Raises:
        ValueError: nothing changed in the validation scenes.
    """
    found = sweep_thresholds(groups, batch_size, num_workers)
    if math.isnan(found["threshold"]):
        raise ValueError(
            "--threshold auto: no pixel of the validation scenes changed, so none is better than "
            "another; pass a number, or choose other scenes with --val-split"
        )
    if distributed.is_main():
        path = outdir / "metrics" / "threshold.json"
        write_json(path, to_json(found))
        save_image(path.with_suffix(".png"), precision_recall_picture(found))
        print(
            f"threshold {found['threshold']:.3f}: F1 {found['f1']:.2%} on "
            f"{len(groups[0][1].names)} validation scene(s) of --val-split {split}; its curve in "
            f"{path.with_suffix('.png')}"
        )
    return found["threshold"]


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
