"""Label the unchanged pixels of the training tiles by an ensemble of trained networks.

By default every checkpoint in outdir/models votes; `train.py --use-pseudo-label` trains on the
result.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.build import Source, window_options
from datasets.samples import SceneSamples
from inference.decide import most_probable
from inference.ensemble import Chosen, load_ensemble
from inference.label_record import LabelRecord, done_tiles, record_labelling, start_or_continue
from inference.overlap import HostCopy, overlap_transfers
from inference.prediction import Area, finished_areas, scene_loader
from inference.predictor import Predictor
from inference.pseudo_labels import VoteCounter, count_tiles, known_masks, mean_rule
from options.label import parse_args
from options.shared import source_of
from utils import distributed
from utils.background import BackgroundWriter
from utils.cli import run
from utils.precision import pick_amp
from utils.probabilities import mean_probs
from utils.structures import Probs, Sample, Scheme, to_device


def main(argv: list[str] | None = None) -> None:
    """Labels every training tile that is not labelled yet, then writes a summary."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        label(args, device)


def label(args: argparse.Namespace, device: torch.device) -> None:
    """Writes pseudo-label masks of the training tiles to OUTDIR/masks/train."""
    data = source_of(args)
    scheme, split_rule = data.scheme(args.bands), args.split or data.entry.split_rule
    chosen = Chosen.of(
        args.checkpoints,
        args.outdir,
        args.model,
        args.backbone,
        args.lightweight,
        args.output_stride,
    )
    if distributed.is_main():
        print("teachers:", *chosen.paths, sep="\n  ")
    data.check(["train"], scheme)
    members = load_ensemble(chosen.paths, device, scheme, chosen.published, args.compile)
    predictor = Predictor(members, device, pick_amp(args.amp, device), args.tta)
    tiles = data.build("train", scheme, split_rule=split_rule, **window_options(data.entry))
    folder = Path(args.outdir, "masks", "train")
    if distributed.is_main():  # after all checks have passed
        start_or_continue(
            folder, label_settings(args, data, split_rule, chosen.paths), args.overwrite
        )
    distributed.barrier()
    batches, left = batches_to_label(tiles, folder, args.val_batch_size, args.num_workers)
    record = LabelRecord(folder, distributed.rank(), scheme.palette)
    bar = tqdm(total=left, unit="pair", disable=not distributed.is_main())  # tiles of this rank
    areas = finished_areas(predict_each(predictor, batches), batches)
    labelled = label_areas(
        areas, len(members), scheme, tiles.dense_labels, args.rule, args.min_confidence
    )
    with BackgroundWriter() as writer:
        for found, copy in overlap_transfers(labelled):
            arrays = copy.arrays()
            for path, masks, counts in record.gather(found, arrays["masks"], arrays["counts"]):
                masks = tiles.whole_masks(path.name, masks)
                writer.submit(record.write_tile, path, masks, counts)
                bar.update()
    bar.close()
    distributed.barrier()
    if distributed.is_main():
        settings = {"rule": args.rule, "min_confidence": args.min_confidence, "tta": args.tta}
        result_path = Path(args.outdir, "metrics", "pseudo_labels.json")
        record_labelling(folder, tiles.names, result_path, settings)


def predict_each(predictor: Predictor, batches: Iterable[Sample]) -> Iterator[tuple[Sample, Probs]]:
    """Yields each batch, and the classes of all teachers: semantic (B, M * T, K, H, W)."""
    for batch in batches:
        each = [
            predictor.predict_one(member, batch.images).semantic for member in predictor.members
        ]
        yield batch, Probs(torch.cat(each, dim=1))


def label_areas(
    areas: Iterable[Area],
    num_teachers: int,
    scheme: Scheme,
    dense_labels: Callable[[str], np.ndarray | None],
    rule: str = "vote",
    min_confidence: float = 0.0,
) -> Iterator[tuple[Area, HostCopy]]:
    """Yields the areas, and a HostCopy of their `masks` and `counts`.

    Args:
        areas: finished areas of `predict_each`, with labels of changed pixels.
        num_teachers: M.
        scheme: scheme of the data set.
        dense_labels: tile name -> true classes of all pixels (T, H, W), or None if unknown.
        rule: "vote" or "mean".
        min_confidence: minimum mean probability for the rule "mean", 0..1.
    """
    for found in areas:
        teachers = found.probs.semantic.chunk(num_teachers, dim=1)  # each (B, T, K, h, W)
        truth = known_masks(to_device(found.batch._replace(images=teachers[0]), teachers[0].device))
        votes = VoteCounter(scheme.num_classes)
        for semantic in teachers:
            votes.add(most_probable(semantic, dim=2))
        if rule == "vote":
            masks = votes.result(truth)
        else:
            mean = mean_probs([Probs(semantic) for semantic in teachers]).semantic
            masks = mean_rule(mean, truth, min_confidence)
        dense = stacked(
            [dense_labels(name) for name in found.batch.name], masks, found.top, found.left
        )
        if found.batch.valid is not None:  # what has no data gets no label and does not count
            missing = ~found.batch.valid.to(masks.device)[:, None]
            masks, truth = masks.masked_fill(missing, 0), truth.masked_fill(missing, 1)
        counts = count_tiles(masks, truth, votes.unanimous(), scheme.num_classes, dense)
        yield found, HostCopy(masks=masks, counts=counts)


def batches_to_label(
    tiles: SceneSamples, folder: Path, batch_size: int, num_workers: int
) -> tuple[DataLoader, int]:
    """Batches of this rank with the tiles that are not labelled yet, and the number of tiles."""
    done = done_tiles(folder)
    if distributed.is_main() and done:
        print(f"{len(done)} tiles are labelled already; going on")
    # share all tiles, not the unlabelled ones: the share must not depend on other ranks' progress
    rank, world = distributed.rank(), distributed.world()
    left = [i for i in range(rank, len(tiles.names), world) if tiles.names[i] not in done]
    chosen = set(left)
    indices = [k for k, (scene, _) in enumerate(tiles.windows) if scene in chosen]
    return scene_loader(tiles, batch_size, num_workers, indices), len(left)


def label_settings(
    args: argparse.Namespace, data: Source, split_rule: str, paths: list[Path]
) -> dict:
    """Settings that the masks depend on; labelling is only resumed with equal settings."""
    written = [time.strftime("%F %T", time.localtime(path.stat().st_mtime)) for path in paths]
    return {
        "checkpoints": [f"{p.resolve()} of {t}" for p, t in zip(paths, written, strict=True)],
        "dataset": data.dataset,
        "data_root": str(data.root_path.resolve()),
        "folders": data.folders | data.suffixes,
        "split": split_rule,
        "rule": args.rule,
        "min_confidence": args.min_confidence,
        "tta": args.tta,
    }


def stacked(
    dense: list[np.ndarray | None], masks: Tensor, top: int = 0, left: int = 0
) -> Tensor | None:
    """An area of true classes, (B, T, h, w) like `masks`; None if no tile has them."""
    if all(one is None for one in dense):
        return None
    bottom, right = top + masks.shape[2], left + masks.shape[3]
    dense = [None if d is None else d[:, top:bottom, left:right] for d in dense]
    unknown = np.zeros(masks.shape[1:], np.uint8)
    return torch.from_numpy(np.stack([unknown if d is None else d for d in dense])).to(masks)


if __name__ == "__main__":
    run(main, "(the same command goes on where this stopped)")
