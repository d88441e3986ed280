"""Predict the test tiles: masks to submit, and scores and figures where wanted.

`python test.py` averages every checkpoint of outdir/models over the six published views.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import DATASETS, build_dataset, check_dataset
from datasets.layout import parse_folders
from datasets.loader import eval_loader
from models import BACKBONES, NETWORKS
from models.checkpoints import find_checkpoints, load_ensemble
from models.published import described
from utils import distributed, options
from utils.cli import Parser, positive_float, positive_int, run
from utils.evaluation import describe, submit_masks, tile_images, true_masks
from utils.figures import comparison
from utils.files import save_image, write_json
from utils.inference import Predictor, to_device, to_masks
from utils.labelling import RECORD
from utils.metrics import confusion_for, metrics_for, to_json
from utils.precision import pick_amp
from utils.structures import Probs, Sample
from utils.time_budget import TimeBudget, process_start_s
from utils.writers import BackgroundWriter, write_probs, zip_masks

SPARE_S = 20.0  # of a time limit, as published; for small limits a twentieth of it


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Predict tiles: change and land cover of both dates.", prog="test.py")
    data = options.add_data_options(parser, DATASETS)
    data.add_argument(
        "--split",
        metavar="NAME",
        help="folder to predict (default: test/ where there is one, else val/)",
    )
    options.add_ensemble_options(parser, NETWORKS, BACKBONES)
    group = parser.add_argument_group("prediction")
    options.add_tta_option(group, "flip_rot")
    group.add_argument(
        "--time-limit",
        type=positive_float,
        metavar="S",
        help="seconds for everything; views are dropped when time runs short",
    )
    group.add_argument("--test-batch-size", type=positive_int, default=16, help="pairs at a time")
    group = parser.add_argument_group("outputs (masks always go to OUTDIR/masks/SPLIT/im1|im2)")
    group.add_argument("--score", action="store_true", help="score against the labels")
    group.add_argument(
        "--save-probs",
        nargs="?",
        const="",
        metavar="DIR",
        help="one ID.npz a tile with probabilities (bare: OUTDIR/probs/SPLIT)",
    )
    group.add_argument(
        "--zip",
        nargs="?",
        const="",
        metavar="FILE",
        help="pack the masks for submission (bare: OUTDIR/masks/SPLIT.zip)",
    )
    group.add_argument(
        "--figures", type=int, default=0, metavar="N", help="pictures of N tiles, evenly chosen"
    )
    options.add_runtime_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Predicts every tile once."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        test(args, device)


def test(args: argparse.Namespace, device: torch.device) -> None:
    """The whole of testing."""
    scheme = DATASETS[args.dataset].scheme
    where = {"root": args.data_root, "folders": parse_folders(args.folders)}
    part = args.split or "test"
    paths = [Path(path) for path in args.checkpoints or find_checkpoints(args.outdir)]
    folder = Path(args.outdir, "masks", part)
    tiles = build_dataset(args.dataset, part, **where)
    if args.score and not tiles.labelled:
        raise ValueError(f"--score: {tiles.path} has no labels; leave out --score")
    if (folder / RECORD).exists():
        raise ValueError(
            f"{folder} holds pseudo labels, which these masks would replace; pass another --outdir"
        )
    if distributed.is_main():
        print("networks:", *paths, sep="\n  ")
        check_dataset(
            args.dataset, [tiles.part], seen=Path(args.outdir, "data_check.json"), **where
        )
        print(f"{len(tiles)} tiles of {tiles.path}")
    distributed.barrier()
    published = described(args.model, args.backbone, args.lightweight)
    members = load_ensemble(paths, device, scheme, published, args.compile)
    predictor = Predictor(members, device, pick_amp(args.amp, device), args.tta)
    batches = eval_loader(
        tiles,
        args.test_batch_size,
        rank=distributed.rank(),
        world=distributed.world(),
        num_workers=args.num_workers,
    )
    if distributed.is_main() and any(folder.glob("im1/*.png")):
        print(f"replacing masks of an earlier test in {folder}")
    drawn = evenly(tiles.names, args.figures)
    probs_folder = Path(args.save_probs or Path(args.outdir, "probs", part))
    confusion = confusion_for(scheme.task, scheme.num_classes, device)
    bar = tqdm(total=len(tiles), unit="pair", disable=not distributed.is_main())
    with BackgroundWriter() as writer:
        for batch, probs in predictions(args, predictor, batches):
            masks = to_masks(probs)
            if args.score:
                confusion.update(masks, true_masks(to_device(batch, device)))
            masks = masks.cpu().numpy()
            submit_masks(writer, folder, batch.name, masks, scheme)
            if args.save_probs is not None:
                submit_probs(writer, probs_folder, batch.name, probs)
            for i, name in enumerate(batch.name):
                if name in drawn:
                    truth = true_masks(batch)[i].numpy() if tiles.labelled else None
                    picture = (tile_images(batch.images[i]), masks[i], truth, scheme, name)
                    writer.submit(draw, Path(args.outdir, "figures", part, f"{name}.png"), *picture)
            bar.update(len(batch.name) * distributed.world())
    bar.close()
    counts = distributed.sum_over_ranks(confusion.counts)
    distributed.barrier()
    if distributed.is_main():
        metrics = metrics_for(scheme.task, counts, scheme.num_classes) if args.score else None
        finish(args, part, folder, tiles.names, metrics)


def predictions(
    args: argparse.Namespace, predictor: Predictor, batches: DataLoader
) -> Iterator[tuple[Sample, Probs]]:
    """Each batch with its probabilities; views as --tta and --time-limit say."""
    if args.time_limit is None:
        yield from ((batch, predictor(batch.images)) for batch in batches)
        return
    limit_s = args.time_limit - min(SPARE_S, args.time_limit / 20)
    budget = TimeBudget(limit_s, len(batches), process_start_s())
    augmented = 0
    for k, batch in enumerate(batches):
        plan = budget.begin(k)
        if plan == "both":
            plain_s, _ = timed(predictor, batch.images, "none")
            augmented_s, probs = timed(predictor, batch.images, args.tta)
            budget.compared(plain_s, augmented_s)
        else:
            probs = predictor(batch.images, "none" if plan == "none" else args.tta)
        augmented += plan != "none"
        yield batch, probs
        budget.end(k)
    if distributed.is_main():
        told = f"{augmented} of {len(batches)} batches with TTA"
        took_s = time.monotonic() - budget.start_s
        over = "; too short even without views" if took_s > args.time_limit else ""
        tqdm.write(f"--time-limit {args.time_limit:g} s: {told}, {took_s:.0f} s so far{over}")


def timed(predictor: Predictor, images: Tensor, tta: str) -> tuple[float, Probs]:
    """Seconds until the probabilities are there, and they."""
    start_s = time.monotonic()
    probs = predictor(images, tta)
    predictor.wait()
    return time.monotonic() - start_s, probs


def evenly(names: list[str], count: int) -> set[str]:
    """`count` of the names (or all), at equal distances."""
    count = min(max(count, 0), len(names))
    return {names[i * len(names) // count] for i in range(count)}


def submit_probs(writer: BackgroundWriter, folder: Path, names: list[str], probs: Probs) -> None:
    """Hands a batch's probabilities to the writer as float16: `folder/<id>.npz`."""
    halves = [None if p is None else p.half().cpu().numpy() for p in probs]
    for i, name in enumerate(names):
        one = [None if p is None else p[i] for p in halves]
        writer.submit(write_probs, folder / f"{name}.npz", *one)


def draw(path: Path, *picture: np.ndarray) -> None:
    """Draws and writes one figure (in a writer's thread)."""
    save_image(path, comparison(*picture))


def finish(
    args: argparse.Namespace, part: str, folder: Path, names: list[str], metrics: dict | None
) -> None:
    """Scores and the archive, and where everything lies."""
    print(f"{len(names)} tiles: masks in {folder}")
    if args.save_probs is not None:
        print(f"probabilities in {args.save_probs or Path(args.outdir, 'probs', part)}")
    if args.figures:
        print(f"figures in {Path(args.outdir, 'figures', part)}")
    if args.zip is not None:
        path = Path(args.zip or folder.with_suffix(".zip"))
        print(f"{zip_masks(path, folder, names)} masks packed in {path}")
    if metrics is not None:
        path = Path(args.outdir, "metrics", f"{part}.json")
        write_json(path, to_json(metrics))
        print(describe({k: v for k, v in metrics.items() if isinstance(v, float)}))
        print(f"scores in {path}")


if __name__ == "__main__":
    run(main)
