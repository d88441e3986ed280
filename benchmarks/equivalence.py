"""Compares the validation Scores of train.py and of a plain training loop.

`python -m benchmarks.equivalence --data-root DIR` trains one network per seed with train.py and its
defaults, and with the plain loop (float32; it shares only tiles and metric with this project). It
prints the validation Scores with mean and standard deviation, and writes JSON. All runs use the
same tiles in the same order and the same initial weights.

The plain loop runs twice: with one encoder pass per date, as published, and (together) with both
dates in one batch, as in train.py, so that batch norms have the statistics of both dates.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import plain
from datasets.build import Source
from datasets.loader import eval_loader, train_loader
from datasets.transforms import Augment
from inference.decide import true_masks
from models.build import build_network
from training.optim import parameter_groups, set_lr
from training.schedule import learning_rate
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.metrics import ChangeConfusion, semantic_change_metrics
from utils.schemes import SECOND
from utils.structures import to_device

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
LR, WEIGHT_DECAY = 1.5e-4, 1e-4  # as published


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Train on both paths, compare.", prog="python -m benchmarks.equivalence")
    group = parser.add_argument_group("training")
    group.add_argument("--data-root", required=True, metavar="DIR", help="in SECOND layout")
    group.add_argument("--model", default="pspnet", help="as for train.py")
    group.add_argument("--backbone", default="resnet18", help="as for train.py")
    group.add_argument("--crop-size", type=positive_int, default=96, help="side in px")
    group.add_argument("--epochs", type=positive_int, default=8, help="of each training")
    group.add_argument("--batch-size", type=positive_int, default=8, help="pairs a step")
    group.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training each")
    group.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="which")
    group.add_argument("--out", default="outdir/benchmarks/equivalence.json", help="JSON to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trains everything, prints the Scores."""
    args = parse_args(argv)
    scores = {side: [] for side in args.sides}
    for seed in args.seeds:
        for side in args.sides:
            scores[side].append(SIDES[side](args, seed))
            print(f"seed {seed}  {side:8}{100 * scores[side][-1]:7.2f}", flush=True)
    for side, values in scores.items():
        spread = f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{side:14}{100 * statistics.mean(values):7.2f}{spread}")
    write_json(args.out, {"options": vars(args), "scores": scores})
    print(f"written to {args.out}")


def train_py(args: argparse.Namespace, seed: int) -> float:
    """The validation Score of train.py's last epoch, 0..1."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data-root", args.data_root, "--model", args.model, "--lightweight"]
        words += ["--backbone", args.backbone, "--crop-size", args.crop_size, "--seed", seed]
        words += ["--epochs", args.epochs, "--batch-size", args.batch_size]
        words += ["--outdir", folder, "--name", "run", "--device", "cpu"]
        command = [sys.executable, "train.py", *map(str, words)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = Path(folder, "runs", "run", "log.jsonl").read_text().splitlines()
        return [json.loads(line)["score"] for line in lines if '"val"' in line][-1]


def plain_loop(args: argparse.Namespace, seed: int, together: bool = False) -> float:
    """The validation Score of the plain loop; `together`: both dates in one encoder batch."""
    build = partial(Source("second", args.data_root).build, scheme=SECOND, split_rule="every10th")
    tiles = build("train", augment=Augment(crop_size=args.crop_size), seed=seed)
    batches = train_loader(tiles, args.batch_size, seed=seed)
    torch.manual_seed(seed)
    network = build_network(args.model, args.backbone, num_classes=6, lightweight=True).train()
    groups = parameter_groups(network, LR, 10.0)
    optimizer = torch.optim.Adam(groups, weight_decay=WEIGHT_DECAY)
    network = plain.PlainNetwork(network, together)
    steps = {"total_steps": args.epochs * len(batches), "steps_per_epoch": len(batches)}
    for epoch in range(args.epochs):
        batches.batch_sampler.set_epoch(epoch)
        for i, batch in enumerate(batches):
            set_lr(optimizer, learning_rate("poly", LR, epoch * len(batches) + i, **steps))
            batch = to_device(batch, CPU)
            plain.training_step(network, optimizer, batch.images, batch.semantic, batch.change)
    return plain_score(network.eval(), build("val"))


@torch.no_grad()
def plain_score(network: plain.PlainNetwork, tiles: torch.utils.data.Dataset) -> float:
    """The Score on labelled tiles, 0..1."""
    confusion = ChangeConfusion(SECOND.num_classes)
    for batch in eval_loader(tiles, 8):
        batch = to_device(batch, CPU)
        pixels = plain.normalise(batch.images)
        out1, out2, change = plain.predict(network, pixels[:, 0], pixels[:, 1])
        masks = torch.stack([out1.argmax(1) + 1, out2.argmax(1) + 1], dim=1)
        masks[(change <= 0.5)[:, None].expand_as(masks)] = 0
        confusion.update(masks, true_masks(batch))
    return semantic_change_metrics(confusion.counts, SECOND.num_classes)["score"]


SIDES = {"plain": plain_loop, "together": partial(plain_loop, together=True), "ours": train_py}


if __name__ == "__main__":
    run(main)
