"""Time and memory per tile of test.py and label.py, by the number of tiles (whole programs).

`python -m benchmarks.many_tiles` makes tiles in SECOND layout (a few generated pairs, linked under
many names) and a small network of random weights, and runs both scripts over each number of tiles;
`label, done` is label.py called again when all is labelled. It prints a table and writes JSON.
The first run, over one tile, measures the start-up. Milliseconds per tile are the additional time
of a run over the run before it, divided by the additional tiles. Runs with few tiles are repeated,
and the fastest counts. CPU time and memory are sums over all processes of a run, with shared pages
counted once.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.scenes import ROOT, PeakMemory
from datasets.demo import write_demo
from models.checkpoints import make_recipe, network_of
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.schemes import SECOND
from utils.state_files import save_checkpoint

FOLDERS = ("im1", "im2", "label1", "label2")
PAIRS = 8  # generated; the other tiles are links to them
FEW = 1000  # tiles; runs with fewer are repeated
KINDS = ("test", "label", "label, done")
COSTS = {"seconds": "ms_per_tile", "cpu_seconds": "cpu_ms_per_tile"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        "Measure test.py and label.py by the number of tiles.",
        prog="python -m benchmarks.many_tiles",
    )
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="fcn", help="as for train.py")
    group.add_argument("--backbone", default="test_resnet", help="as for train.py")
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--tiles", type=positive_int, nargs="+", default=[100, 1000, 10_000], help="how many"
    )
    group.add_argument("--size", type=positive_int, default=32, help="side of a tile in px")
    group.add_argument("--batch-size", type=positive_int, default=64, help="pairs at a time")
    group.add_argument(
        "--num-workers",
        type=int,
        default=0,
        help="processes that read; 0 reads in the script's own",
    )
    group.add_argument("--repeats", type=positive_int, default=3, help=f"of runs under {FEW} tiles")
    group.add_argument("--quick", action="store_true", help="few tiles, once, to try it out")
    group.add_argument("--out", default="outdir/benchmarks/many_tiles.json", help="JSON to write")
    args = parser.parse_args(argv)
    if args.quick:
        args.tiles, args.repeats = [20], 1
    return args


def main(argv: list[str] | None = None) -> None:
    """Makes the tiles, runs the scripts over them, prints the table."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_network(Path(folder, "network.pth"), args.model, args.backbone)
        write_demo(Path(folder, "drawn"), pairs=PAIRS * 5 // 4, size=args.size)
        rows = {}
        for count in sorted({1, *args.tiles}):
            rows[count] = measure(args, Path(folder), checkpoint, count)
            print(f"{count} tile(s) measured")
    add_costs(rows)
    print(table(rows))
    write_json(args.out, {"options": vars(args), "rows": rows})
    print(f"written to {args.out}")


def save_network(path: Path, model: str, backbone: str) -> Path:
    """A checkpoint with random weights for SECOND."""
    torch.manual_seed(0)
    recipe = make_recipe(SECOND, model=model, backbone=backbone, lightweight=True)
    save_checkpoint(path, network_of(recipe).state_dict(), recipe)
    return path


def make_tiles(drawn: Path, root: Path, count: int) -> None:
    """ROOT/test and ROOT/train of `count` tiles; train has one more, which ROOT/val.txt names."""
    for field in FOLDERS:
        sources = sorted((drawn / field).iterdir())
        for part, tiles in (("train", count + 1), ("test", count)):
            folder = root / part / field
            folder.mkdir(parents=True)
            for i in range(tiles):
                os.link(sources[i % len(sources)], folder / f"{i:06d}.png")
    Path(root, "val.txt").write_text(f"{count:06d}\n", encoding="utf-8")


def measure(
    args: argparse.Namespace, folder: Path, checkpoint: Path, count: int
) -> dict[str, dict[str, float]]:
    """The fastest repetition of each script over `count` tiles."""
    root, found = folder / f"{count}", {kind: [] for kind in KINDS}
    make_tiles(folder / "drawn" / "train", root, count)
    both = ["--data-root", root, "--checkpoints", checkpoint, "--num-workers", args.num_workers]
    test = ["test.py", *both, "--test-batch-size", args.batch_size]
    label = ["label.py", *both, "--val-batch-size", args.batch_size, "--split", root / "val.txt"]
    commands = dict(zip(KINDS, (test, label, label), strict=True))
    for i in range(args.repeats if count < FEW else 1):
        for kind, words in commands.items():
            once = run_script(*words, "--tta", "none", "--outdir", folder / f"out_{count}_{i}")
            found[kind].append(once)
    return {kind: min(runs, key=lambda one: one["seconds"]) for kind, runs in found.items()}


def run_script(*words: object) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory (MiB) of one script."""
    start_s, before_s = time.monotonic(), cpu_seconds()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = PeakMemory(process.pid)
    stderr_text = process.communicate()[1]
    if process.returncode:
        raise OSError(f"{words[0]} failed with status {process.returncode}: {stderr_text[-2000:]}")
    return {
        "seconds": time.monotonic() - start_s,
        "cpu_seconds": cpu_seconds() - before_s,
        "memory_mib": peak.stop(),
    }


def cpu_seconds() -> float:
    """CPU seconds of all child processes that have ended, including their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def add_costs(rows: dict[int, dict[str, dict[str, float]]]) -> None:
    """Adds to every row but the first the cost per additional tile, relative to the row before."""
    for few, many in pairwise(sorted(rows)):
        for kind in KINDS:
            before, row = rows[few][kind], rows[many][kind]
            for key, cost in COSTS.items():
                row[cost] = 1000 * (row[key] - before[key]) / (many - few)


def table(rows: dict[int, dict[str, dict[str, float]]]) -> str:
    """The rows as text."""
    lines = [f"{'':12}{'tiles':>8}{'seconds':>9}{'ms/tile':>9}{'CPU ms/tile':>13}{'peak MiB':>10}"]
    for kind in KINDS:
        for count, row in ((count, rows[count][kind]) for count in sorted(rows)):
            costs = [f"{row[cost]:.2f}" if cost in row else "" for cost in COSTS.values()]
            lines.append(
                f"{kind:12}{count:8d}{row['seconds']:9.1f}{costs[0]:>9}{costs[1]:>13}"
                f"{row['memory_mib']:10.0f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
