"""How fast the data pipeline feeds training: pairs per second from files, memory and a cache file.

`python -m benchmarks.loading` makes pairs in SECOND layout (a few generated scenes under many
names), runs epochs of train.py's loader without a network, once for each choice of --cache, prints
a table and writes JSON. Memory is the sum over all processes of the loader, with shared pages
counted once; it includes pages of a cache file that the system can drop. The bound is the rate at
which as many threads as workers copy pairs from memory to memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.scenes import PeakMemory
from datasets.build import Source
from datasets.demo import write_demo
from datasets.loader import train_loader
from datasets.transforms import Augment
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.schemes import SECOND

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("files", "ram", "disk", "disk, again")
FOLDERS = ("im1", "im2", "label1", "label2")
PIXEL_BYTES = 9  # per pixel of a pair: two images of three bands, two class maps, one change map
BLOCK = 64 * 2**20  # bytes, larger than the processor's caches
COPIES = 20  # copies of a block by each thread
SCENES = 8  # generated; the other pairs are copies


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Measure the data pipeline by itself.", prog="python -m benchmarks.loading")
    group = parser.add_argument_group("measurement")
    group.add_argument("--pairs", type=positive_int, default=3000, help="in the data set")
    group.add_argument("--size", type=positive_int, default=512, help="side of a tile in px")
    group.add_argument("--batch-size", type=positive_int, default=8, help="pairs at a time")
    group.add_argument("--epochs", type=positive_int, default=3, help="the first is timed alone")
    group.add_argument(
        "--num-workers", type=int, default=os.cpu_count(), help="processes that read"
    )
    group.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    group.add_argument("--out", default="outdir/benchmarks/loading.json", help="JSON to write")
    group.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    group.add_argument("--root", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.pairs, args.size = 24, 64
    return args


def main(argv: list[str] | None = None) -> None:
    """Measures every kind, or (started by itself) one."""
    args = parse_args(argv)
    if args.kind:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_pairs(Path(folder, "data"), args.pairs, args.size)
        rows = {kind: in_a_process(args, folder, kind) for kind in KINDS}
    print(table(args, rows))
    write_json(args.out, {"options": vars(args), "rows": rows})
    print(f"written to {args.out}")


def make_pairs(root: Path, pairs: int, size: int) -> None:
    """Pairs with labels in ROOT/train, as PNG."""
    write_demo(root, pairs=SCENES * 5 // 4, size=size, seed=0)
    for folder in FOLDERS:
        drawn = sorted((root / "train" / folder).iterdir())
        for i in range(len(drawn), pairs):
            shutil.copyfile(drawn[i % len(drawn)], root / "train" / folder / f"{i:05d}.png")


def in_a_process(args: argparse.Namespace, folder: str, kind: str) -> dict[str, float]:
    """One row of the table, measured in a new process."""
    words = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in (
        "pairs", "size", "batch_size", "epochs", "num_workers")]  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.loading", *words, "--kind", kind, "--root", folder]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = PeakMemory(process.pid)
    answer = process.communicate()[0]
    if process.returncode:
        raise OSError(f"reading from {kind} failed; see above")
    memory_mib = peak.stop()
    bound = copied_bytes_per_s(max(1, args.num_workers)) / (PIXEL_BYTES * args.size**2)
    return {**json.loads(answer), "bound_pairs_per_s": bound, "memory_mib": memory_mib}


def copied_bytes_per_s(threads: int) -> float:
    """Bytes per second that `threads` threads together copy from memory to memory."""
    blocks = [np.ones((2, BLOCK), np.uint8) for _ in range(threads)]

    def copy(pair: np.ndarray) -> None:
        for _ in range(COPIES):
            np.copyto(*pair)

    with ThreadPoolExecutor(threads) as pool:
        begin_s = time.monotonic()
        list(pool.map(copy, blocks))
        return threads * COPIES * BLOCK / (time.monotonic() - begin_s)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds to start, and pairs per second of the first epoch and of all later ones."""
    begin_s = time.monotonic()
    kind = args.kind.split(",")[0]
    data = Source("second", Path(args.root, "data")).build(
        "train",
        SECOND,
        cache=None if kind == "files" else kind,
        cache_dir=Path(args.root, "cache"),
        augment=Augment(),
    )
    batches = train_loader(data, args.batch_size, num_workers=args.num_workers)
    start_s, seconds = time.monotonic() - begin_s, []
    for epoch in range(args.epochs):
        begin_s = time.monotonic()
        batches.batch_sampler.set_epoch(epoch)
        count = sum(len(batch.name) for batch in batches)
        seconds.append(time.monotonic() - begin_s)
    later = seconds[1:] or seconds
    return {
        "start_s": start_s,
        "first_pairs_per_s": count / seconds[0],
        "later_pairs_per_s": count * len(later) / sum(later),
    }


def table(args: argparse.Namespace, rows: dict[str, dict]) -> str:
    """The rows as text."""
    lines = [
        f"{args.pairs} pairs of {args.size} px, batches of {args.batch_size}, "
        f"{args.num_workers} workers",
        f"{'--cache':12}{'start s':>9}{'first epoch':>15}{'later':>15}{'ratio':>7}{'bound':>15}"
        f"{'of bound':>10}{'peak MiB':>10}",
    ]
    for kind, row in rows.items():
        first, later, bound = (row[f"{key}_pairs_per_s"] for key in ("first", "later", "bound"))
        ratio = later / rows["files"]["later_pairs_per_s"]
        lines.append(
            f"{kind:12}{row['start_s']:9.1f}{first:7.1f} pairs/s{later:7.1f} pairs/s{ratio:7.1f}"
            f"{bound:7.0f} pairs/s{later / bound:10.1%}{row['memory_mib']:10.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
