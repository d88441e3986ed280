"""The threshold of P(changed) with the best F1 on validation scenes (--threshold auto)."""

import math
from collections.abc import Sequence
from pathlib import Path

from datasets.samples import SceneSamples
from inference.prediction import finished_areas, predict_batches, predict_together, scene_loader
from inference.predictor import Predictor
from utils import distributed
from utils.figures.curves import precision_recall_picture
from utils.files import save_image, write_json
from utils.metrics import to_json
from utils.structures import to_device
from utils.thresholds import ThresholdSweep, result


def choose_threshold(
    groups: Sequence[tuple[Predictor, SceneSamples]],
    split_rule: str,
    outdir: Path,
    batch_size: int,
    num_workers: int = 0,
) -> float:
    """The threshold with the best F1; writes its curve to `metrics/threshold.json` and `.png`.

    Args:
        groups: networks, and the validation scenes as they read them.
        split_rule: --val-split, by which the validation scenes were chosen; printed.
        outdir: of the files.
        batch_size: windows per batch.
        num_workers: reading processes of each group.

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
            f"{len(groups[0][1].names)} validation scene(s) of --val-split {split_rule}; its "
            f"curve in {path.with_suffix('.png')}"
        )
    return found["threshold"]


def sweep_thresholds(
    groups: Sequence[tuple[Predictor, SceneSamples]], batch_size: int, num_workers: int = 0
) -> dict:
    """Scores of every threshold on the labelled scenes of all ranks; see `utils.thresholds.result`.

    Args:
        groups: see `predict_together`.
        batch_size: windows per batch.
        num_workers: reading processes of each group.
    """
    predictor = groups[0][0]
    sweep, each = ThresholdSweep(predictor.device), []
    for member, scenes in groups:
        batches = scene_loader(scenes, batch_size, num_workers)
        each.append(finished_areas(predict_batches(member, batches), batches))
    for area in predict_together(each, [len(member.members) for member, _ in groups]):
        change = to_device(area.batch._replace(images=area.probs.change), predictor.device).change
        sweep.update(area.probs.change, change)
    return result(distributed.sum_over_ranks(sweep.counts))
