"""Label the unchanged pixels of the training tiles by an ensemble of trained networks.

`python label.py` lets every checkpoint of outdir/models vote; `train.py --use-pseudo-label` trains
on the outcome.
"""

from commands.label import parse_args
from utils.cli import run

if __name__ == "__main__":
    run(parse_args)  # --help and mistakes are answered here: what follows takes seconds to import

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets import DATASETS, build_dataset, check_dataset, find_scheme
from datasets.layout import parse_folders
from datasets.loader import eval_loader
from models.checkpoints import find_checkpoints, load_ensemble
from models.published import described
from utils import distributed
from utils.files import write_json
from utils.inference import Predictor, mean_probs, most_probable, to_device
from utils.labelling import LabelRecord, done_tiles, start_or_continue
from utils.metrics import to_json
from utils.overlap import HostCopy, one_behind
from utils.precision import pick_amp
from utils.pseudo_labels import VoteCounter, count_tiles, mean_rule, statistics
from utils.results import true_masks
from utils.structures import Sample, Scheme
from utils.writers import BackgroundWriter


def main(argv: list[str] | None = None) -> None:
    """Labels every training tile that is not labelled yet, then sums up."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        label(args, device)


def label(args: argparse.Namespace, device: torch.device) -> None:
    """The whole of labelling."""
    scheme = find_scheme(args.dataset, args.data_root)
    where = {"root": args.data_root, "folders": parse_folders(args.folders)}
    paths = [Path(path) for path in args.checkpoints or find_checkpoints(args.outdir)]
    folder = Path(args.outdir, "masks", "train")
    if distributed.is_main():
        print("teachers:", *paths, sep="\n  ")
        check_dataset(args.dataset, ["train"], seen=Path(args.outdir, "data_check.json"), **where)
    published = described(
        args.model, args.backbone, args.lightweight, len(paths), args.output_stride
    )
    members = load_ensemble(paths, device, scheme, published, args.compile)
    predictor = Predictor(members, device, pick_amp(args.amp, device), args.tta)
    tiles = build_dataset(
        args.dataset, "train", split=args.split or DATASETS[args.dataset].split, **where
    )
    if distributed.is_main():  # once nothing more can be wrong
        start_or_continue(folder, settings(args, paths), args.overwrite)
    distributed.barrier()
    done = done_tiles(folder)
    # a share of all tiles first: what the others finish meanwhile must not move it
    share = range(distributed.rank(), len(tiles), distributed.world())
    indices = [i for i in share if tiles.names[i] not in done]
    batches = eval_loader(
        tiles,
        -(-args.val_batch_size // distributed.world()),
        indices=indices,
        num_workers=args.num_workers,
    )
    if distributed.is_main() and done:
        print(f"{len(done)} tiles are labelled already; going on")
    record = LabelRecord(folder, distributed.rank(), scheme.palette)
    bar = tqdm(total=len(indices), unit="pair", disable=not distributed.is_main())  # this share
    labelled = label_batches(args, predictor, batches, scheme, tiles.dense_labels)
    with BackgroundWriter() as writer:
        for names, copy in one_behind(labelled):
            found = copy.arrays()
            masks, counts = found["masks"], found["counts"].tolist()
            for name, mask, count in zip(names, masks, counts, strict=True):
                writer.submit(record.write_tile, folder / name, mask, count)
            bar.update(len(names))
    bar.close()
    distributed.barrier()
    if distributed.is_main():
        summarise(args, tiles.names, folder, scheme)


def settings(args: argparse.Namespace, paths: list[Path]) -> dict:
    """What the masks depend on; a labelling only goes on under the same."""
    written = [time.strftime("%F %T", time.localtime(path.stat().st_mtime)) for path in paths]
    return {
        "checkpoints": [f"{p.resolve()} of {t}" for p, t in zip(paths, written, strict=True)],
        "dataset": args.dataset,
        "data_root": str(Path(args.data_root or DATASETS[args.dataset].root).resolve()),
        "folders": parse_folders(args.folders),
        "split": args.split or DATASETS[args.dataset].split,
        "rule": args.rule,
        "min_confidence": args.min_confidence,
        "tta": args.tta,
    }


def label_batches(
    args: argparse.Namespace,
    predictor: Predictor,
    batches: Iterable[Sample],
    scheme: Scheme,
    dense_labels: Callable[[str], np.ndarray | None],
) -> Iterator[tuple[list[str], HostCopy]]:
    """Names of each batch, its `masks` and, compared with the true classes if known, `counts`."""
    for batch in batches:
        batch = to_device(batch, predictor.device)
        truth = true_masks(batch)
        masks, unanimous = pseudo_labels(args, predictor, batch.images, truth, scheme)
        dense = [dense_labels(name) for name in batch.name]
        counts = count_tiles(masks, truth, unanimous, scheme.num_classes, stacked(dense, masks))
        yield batch.name, HostCopy(masks=masks, counts=counts)


def pseudo_labels(
    args: argparse.Namespace, predictor: Predictor, images: Tensor, truth: Tensor, scheme: Scheme
) -> tuple[Tensor, Tensor]:
    """Masks (B, T, H, W) uint8 with the unchanged pixels filled in, and where all teachers agree.

    Args:
        args: --rule and --min-confidence.
        predictor: the teachers.
        images: (B, T, C, H, W).
        truth: (B, T, H, W), 0 = unchanged.
        scheme: of the data set.
    """
    votes = VoteCounter(scheme.num_classes)
    each = []
    for member in predictor.members:
        probs = predictor.predict_one(member, images)
        votes.add(most_probable(probs.semantic, dim=2))
        if args.rule == "mean":
            each.append(probs)
    if args.rule == "vote":
        return votes.result(truth), votes.unanimous()
    return mean_rule(mean_probs(each).semantic, truth, args.min_confidence), votes.unanimous()


def stacked(dense: list[np.ndarray | None], masks: Tensor) -> Tensor | None:
    """Classes of every pixel, 0 = unknown, as `masks` (B, T, H, W); None if no tile has them."""
    if all(one is None for one in dense):
        return None
    unknown = np.zeros(masks.shape[1:], np.uint8)
    return torch.from_numpy(np.stack([unknown if d is None else d for d in dense])).to(masks)


def summarise(args: argparse.Namespace, names: list[str], folder: Path, scheme: Scheme) -> None:
    """Writes metrics/pseudo_labels.json and says the main numbers."""
    done = done_tiles(folder)
    missing = [name for name in names if name not in done]
    if missing:
        raise ValueError(
            f"{len(missing)} tile(s) are still without pseudo labels ({', '.join(missing[:10])}); "
            "another process failed. Run the same command again: it goes on."
        )
    result = statistics(torch.tensor([done[name] for name in names]).sum(0))
    rule = {"rule": args.rule, "min_confidence": args.min_confidence, "tta": args.tta}
    result = {"tiles": len(names), **rule, **result}
    path = Path(args.outdir, "metrics", "pseudo_labels.json")
    write_json(path, to_json(result))
    line = f"{len(names)} tiles, {result['share_labelled']:.1%} of the unchanged pixels labelled"
    if result["accuracy"] == result["accuracy"]:
        line += f", {result['accuracy']:.1%} of those right"
    print(f"{line}\nmasks in {folder}, numbers in {path}")


if __name__ == "__main__":
    run(main, "(the same command goes on where this stopped)")
