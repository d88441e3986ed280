"""Seconds per megapixel and memory of test.py by the size of the scene (whole program).

`python -m benchmarks.scenes --task TASK` makes scenes of two sizes (the smaller ones together have
about a tenth of the larger one's area) and a network of random weights; it prints a table and
writes JSON. Binary change reads 8-band composites in Rucode's layout, semantic change two dates in
the layout `pairs`, land cover one date in the layout `folder`, all 8 bit. The start-up time (a run
on one window) is subtracted. Memory is the sum over all processes of the run, with shared pages
counted once.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from datasets.bands import RGB
from models.checkpoints import make_recipe, network_of
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.rasters.writing import open_strips
from utils.schemes import SECOND, change_scheme
from utils.state_files import save_checkpoint
from utils.structures import Scheme

ROOT = Path(__file__).resolve().parents[1]
BANDS = 8  # of a Rucode composite
STRIP_PX = 512
LAYOUTS = {"binary_change": "rucode", "semantic_change": "pairs", "land_cover": "folder"}
FOLDERS = {
    "binary_change": ["Images_composit/Images_composit/8_ch"],
    "semantic_change": ["test/im1", "test/im2"],
    "land_cover": ["test/images"],
}
CLASSES = {"water": (0, 0, 255), "forest": (0, 128, 0), "field": (255, 255, 0), "town": (255, 0, 0)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Measure test.py over scenes of two sizes.", prog="python -m benchmarks.scenes")
    group = parser.add_argument_group("network")
    group.add_argument("--task", choices=list(LAYOUTS), default="binary_change", help="of it")
    group.add_argument("--model", default="unet", help="as for train.py")
    group.add_argument("--backbone", default="resnet18", help="as for train.py")
    group = parser.add_argument_group("measurement")
    group.add_argument("--small", type=positive_int, default=1000, help="side in px")
    group.add_argument("--large", type=positive_int, default=10_000, help="side in px")
    group.add_argument(
        "--test-options", default="--tta none --save-probs --figures 1", help="of test.py"
    )
    group.add_argument("--out", default="outdir/benchmarks/scenes.json", help="JSON to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Makes the scenes, runs test.py over them, prints the table."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_network(Path(folder, "network.pth"), args)
        few = max(args.large**2 // (10 * args.small**2), 1)
        sizes = {"start": (64, 1), "small": (args.small, few), "large": (args.large, 1)}
        runs = {}
        for name, (side, count) in sizes.items():
            root = Path(folder, name)
            make_scenes(args.task, root, side, count)
            runs[name] = {"megapixels": side**2 * count / 1e6, **measure(args, root, checkpoint)}
    rows = [summary(runs["start"], runs[name], sizes[name]) for name in ("small", "large")]
    print(table(rows))
    write_json(args.out, {"options": vars(args), "rows": rows})
    print(f"written to {args.out}")


def make_scenes(task: str, root: Path, side: int, count: int) -> None:
    """Writes scenes to predict in the layout of the task's data set."""
    root.mkdir(parents=True)
    if task == "land_cover":
        lines = (f"  {name}: {list(colour)}" for name, colour in CLASSES.items())
        (root / "classes.yaml").write_text("\n".join(["classes:", *lines, ""]))
    for folder in FOLDERS[task]:
        for i in range(count):
            path = root / folder / f"{i}.tif"
            make_image(path, side, BANDS if task == "binary_change" else 3, seed=i)


def make_image(path: Path, side: int, bands: int, seed: int) -> None:
    """An 8-bit GeoTIFF of smooth fields and noise, written strip by strip."""
    rng = np.random.default_rng(seed)
    columns = np.arange(side)
    with open_strips(path, side, side, np.uint8, bands=bands) as out:
        for top in range(0, side, STRIP_PX):
            rows = np.arange(top, min(top + STRIP_PX, side))[:, None]
            wave = 100 + 50 * np.sin(rows / 97) * np.cos(columns / 61)
            noise = rng.integers(0, 50, (bands, len(rows), side), dtype=np.uint8)
            out.write(top, wave.astype(np.uint8) + noise)


def save_network(path: Path, args: argparse.Namespace) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    white = (255, 255, 255)
    scheme = {
        "binary_change": change_scheme(RGB, "joint"),  # as `rucode` reads them
        "semantic_change": SECOND,
        "land_cover": Scheme("land_cover", tuple(CLASSES), (white, *CLASSES.values())),
    }[args.task]
    recipe = make_recipe(scheme, model=args.model, backbone=args.backbone)
    save_checkpoint(path, network_of(recipe).state_dict(), recipe)
    return path


def measure(args: argparse.Namespace, root: Path, checkpoint: Path) -> dict[str, float]:
    """Seconds and peak memory (MiB) of one test.py."""
    words = [sys.executable, "test.py", *test_words(args, root, checkpoint)]
    start_s = time.monotonic()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = PeakMemory(process.pid)
    if process.wait():
        raise OSError(f"test.py failed with status {process.returncode}; see above")
    return {"seconds": time.monotonic() - start_s, "memory_mib": peak.stop()}


def test_words(args: argparse.Namespace, root: Path, checkpoint: Path) -> list[str]:
    """The command line of test.py."""
    words = ["--dataset", LAYOUTS[args.task], "--data-root", root]
    words += ["--checkpoints", checkpoint, "--outdir", root / "out", *args.test_options.split()]
    if args.task == "binary_change":
        words += ["--rle", root / "out" / "rle.csv"]
    return list(map(str, words))


class PeakMemory:
    """Peak memory of a process and its children together, sampled four times a second."""

    def __init__(self, pid: int):
        self.pid, self.peak_kib = pid, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The peak in MiB."""
        self._over.set()
        self._thread.join()
        return self.peak_kib / 1024

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            family = [self.pid, *children(self.pid)]
            self.peak_kib = max(self.peak_kib, sum(map(proportional_kib, family)))


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the thread has just ended
            continue
    return found


def proportional_kib(pid: int) -> int:
    """Proportional set size (PSS) of a process in KiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def summary(start: dict, measured: dict, size: tuple[int, int]) -> dict[str, float]:
    """One row of the table."""
    seconds = measured["seconds"] - start["seconds"]
    return {
        "side_px": size[0],
        "scenes": size[1],
        "seconds": seconds,
        "megapixels_per_s": measured["megapixels"] / seconds,
        "memory_mib": measured["memory_mib"],
    }


def table(rows: list[dict]) -> str:
    """The rows, and the large one's time per megapixel over the small one's."""
    lines = [f"{'side px':>8}{'scenes':>8}{'seconds':>10}{'MP/s':>8}{'peak MiB':>10}"]
    for row in rows:
        lines.append(
            f"{row['side_px']:8d}{row['scenes']:8d}{row['seconds']:10.1f}"
            f"{row['megapixels_per_s']:8.2f}{row['memory_mib']:10.0f}"
        )
    small, large = (row["megapixels_per_s"] for row in rows)
    return "\n".join([*lines, f"time per megapixel, large over small: {small / large:.2f}"])


if __name__ == "__main__":
    run(main)
