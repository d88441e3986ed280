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
from tqdm import tqdm

from datasets.build import Source
from datasets.layout import parse_folders
from datasets.loader import eval_loader
from datasets.second import SecondDataset
from inference.decide import most_probable, true_masks
from inference.ensemble import Chosen, load_ensemble
from inference.label_record import LabelRecord, done_tiles, finish_labelling, start_or_continue
from inference.overlap import HostCopy, overlap_transfers
from inference.predictor import Predictor
from inference.pseudo_labels import VoteCounter, count_tiles, mean_rule
from options.label import parse_args
from utils import distributed
from utils.background import BackgroundWriter
from utils.cli import run
from utils.precision import pick_amp
from utils.probabilities import mean_probs
from utils.structures import Sample, Scheme, to_device


def main(argv: list[str] | None = None) -> None:
    """Labels every training tile that is not labelled yet, then writes a summary."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        label(args, device)


def label(args: argparse.Namespace, device: torch.device) -> None:
    """Writes pseudo-label masks of the training tiles to OUTDIR/masks/train."""
    data = Source(args.dataset, args.data_root, parse_folders(args.folders), outdir=args.outdir)
    scheme, split = data.scheme(), args.split or data.entry.split
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
    tiles = data.build("train", scheme, split=split)
    folder = Path(args.outdir, "masks", "train")
    if distributed.is_main():  # after all checks have passed
        start_or_continue(folder, label_settings(args, data, split, chosen.paths), args.overwrite)
    distributed.barrier()
    batches, left = batches_to_label(tiles, folder, args.val_batch_size, args.num_workers)
    record = LabelRecord(folder, distributed.rank(), scheme.palette)
    bar = tqdm(total=left, unit="pair", disable=not distributed.is_main())  # tiles of this rank
    labelled = label_batches(
        predictor, batches, scheme, tiles.dense_labels, args.rule, args.min_confidence
    )
    with BackgroundWriter() as writer:
        for names, copy in overlap_transfers(labelled):
            found = copy.arrays()
            masks, counts = found["masks"], found["counts"].tolist()
            for name, mask, count in zip(names, masks, counts, strict=True):
                writer.submit(record.write_tile, folder / name, mask, count)
            bar.update(len(names))
    bar.close()
    distributed.barrier()
    if distributed.is_main():
        settings = {"rule": args.rule, "min_confidence": args.min_confidence, "tta": args.tta}
        result_path = Path(args.outdir, "metrics", "pseudo_labels.json")
        finish_labelling(folder, tiles.names, result_path, settings)


def label_batches(
    predictor: Predictor,
    batches: Iterable[Sample],
    scheme: Scheme,
    dense_labels: Callable[[str], np.ndarray | None],
    rule: str = "vote",
    min_confidence: float = 0.0,
) -> Iterator[tuple[list[str], HostCopy]]:
    """Yields tile names, and a HostCopy of `masks` and `counts`, for every batch.

    Args:
        predictor: the teacher networks.
        batches: batches with labels of changed pixels.
        scheme: scheme of the data set.
        dense_labels: tile name -> true classes of all pixels (T, H, W), or None if unknown.
        rule: "vote" or "mean".
        min_confidence: minimum mean probability for the rule "mean", 0..1.
    """
    for batch in batches:
        batch = to_device(batch, predictor.device)
        truth = true_masks(batch)  # (B, T, H, W), 0 = unchanged
        votes, each = VoteCounter(scheme.num_classes), []
        for member in predictor.members:
            probs = predictor.predict_one(member, batch.images)
            votes.add(most_probable(probs.semantic, dim=2))
            if rule == "mean":
                each.append(probs)
        if rule == "vote":
            masks = votes.result(truth)
        else:
            masks = mean_rule(mean_probs(each).semantic, truth, min_confidence)
        dense = stacked([dense_labels(name) for name in batch.name], masks)
        counts = count_tiles(masks, truth, votes.unanimous(), scheme.num_classes, dense)
        yield batch.name, HostCopy(masks=masks, counts=counts)


def batches_to_label(
    tiles: SecondDataset, folder: Path, batch_size: int, num_workers: int
) -> tuple[Iterable[Sample], int]:
    """Batches of this rank with the tiles that are not labelled yet, and the number of tiles."""
    done = done_tiles(folder)
    if distributed.is_main() and done:
        print(f"{len(done)} tiles are labelled already; going on")
    # share all tiles, not the unlabelled ones: the share must not depend on other ranks' progress
    share = range(distributed.rank(), len(tiles), distributed.world())
    indices = [i for i in share if tiles.names[i] not in done]
    size = -(-batch_size // distributed.world())
    return eval_loader(tiles, size, indices=indices, num_workers=num_workers), len(indices)


def label_settings(args: argparse.Namespace, data: Source, split: str, paths: list[Path]) -> dict:
    """Settings that the masks depend on; labelling is only resumed with equal settings."""
    written = [time.strftime("%F %T", time.localtime(path.stat().st_mtime)) for path in paths]
    return {
        "checkpoints": [f"{p.resolve()} of {t}" for p, t in zip(paths, written, strict=True)],
        "dataset": data.dataset,
        "data_root": str(data.root_path.resolve()),
        "folders": data.folders,
        "split": split,
        "rule": args.rule,
        "min_confidence": args.min_confidence,
        "tta": args.tta,
    }


def stacked(dense: list[np.ndarray | None], masks: Tensor) -> Tensor | None:
    """Stacks true classes to (B, T, H, W) like `masks`, 0 = unknown; None if no tile has them."""
    if all(one is None for one in dense):
        return None
    unknown = np.zeros(masks.shape[1:], np.uint8)
    return torch.from_numpy(np.stack([unknown if d is None else d for d in dense])).to(masks)


if __name__ == "__main__":
    run(main, "(the same command goes on where this stopped)")
