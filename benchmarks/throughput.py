"""Our speed and memory against a plain reading of the published algorithm, in one run.

`python -m benchmarks.throughput` prints a table and writes JSON. Both sides have the same weights
and tiles, run in processes of their own and take turns; the ratio is of their medians. Memory is
the peak above what the process holds once everything is built.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import plain
from models import build_network
from utils.allocator import keep_freed_memory
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.inference import Member, Normalise, Predictor
from utils.losses import SENSEEARTH_CLASS_WEIGHTS, Objective
from utils.optim import build_optimizer
from utils.options import AMP_CHOICES
from utils.precision import pick_amp
from utils.schemes import SECOND
from utils.structures import IGNORE_INDEX, Sample
from utils.training import forward_backward

CPU = torch.device("cpu")
SIDES = ("plain", "ours")
WARM_UP = 2  # runs of each side that are not counted
FORWARDED = {"model", "backbone", "size", "batch_size", "amp"}  # options of the sides


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Measure speed and memory on the CPU.", prog="python -m benchmarks.throughput")
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="pspnet", help="as for train.py")
    group.add_argument("--backbone", default="hrnet_w18", help="as for train.py")
    group = parser.add_argument_group("measurement")
    group.add_argument("--size", type=positive_int, default=512, help="tile side in px")
    group.add_argument("--batch-size", type=positive_int, default=2, help="pairs at a time")
    group.add_argument("--repeats", type=positive_int, default=5, help="timed runs of each side")
    group.add_argument("--amp", choices=AMP_CHOICES, default="auto", help="arithmetic of our side")
    group.add_argument("--out", default="outdir/benchmarks/throughput.json", help="JSON to write")
    group.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    group.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measures everything, or (started by itself) does what one side is told to."""
    args = parse_args(argv)
    if args.side:
        serve(args)
        return
    rows = {job: compare(args, job) for job in JOBS}
    print(table(args, rows))
    write_json(args.out, {"machine": machine(), "options": vars(args), "rows": rows})
    print(f"written to {args.out}")


class Side:
    """A process that runs one job of one side whenever it is told to."""

    def __init__(self, args: argparse.Namespace, job: str, side: str):
        words = [f"--{k.replace('_', '-')}={v}" for k, v in vars(args).items() if k in FORWARDED]
        command = [sys.executable, "-m", "benchmarks.throughput", *words]
        self.process = subprocess.Popen(
            [*command, f"--job={job}", f"--side={side}"],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> dict[str, float]:
        """Runs the job once: its `seconds`, and the `peak_bytes` of the process so far."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise ValueError("a measuring process ended early; its message is above")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(args: argparse.Namespace, job: str) -> dict[str, float]:
    """Both sides in turns, each in a process of its own.

    Returns:
        Medians in seconds and pairs per second; ratios (> 1: ours is faster); peak memory in MiB,
        all of the process and above what it held before the first run.
    """
    sides = {side: Side(args, job, side) for side in SIDES}
    base = {side: process.run() for side, process in sides.items()}  # builds, runs nothing
    answers = {side: [] for side in SIDES}
    for _ in range(WARM_UP + args.repeats):
        for side, process in sides.items():
            answers[side].append(process.run())
    row = {}
    for side, process in sides.items():
        process.close()
        row[f"{side}_s"] = statistics.median(a["seconds"] for a in answers[side][WARM_UP:])
        row[f"{side}_pairs_per_s"] = args.batch_size / row[f"{side}_s"]
        row[f"{side}_process_mib"] = answers[side][-1]["peak_bytes"] / 2**20
        row[f"{side}_mib"] = row[f"{side}_process_mib"] - base[side]["peak_bytes"] / 2**20
    turns = zip(*(answers[side][WARM_UP:] for side in SIDES), strict=True)
    ratios = [plain_["seconds"] / ours["seconds"] for plain_, ours in turns]
    row["ratio"] = row["plain_s"] / row["ours_s"]
    row["lowest_ratio"], row["highest_ratio"] = min(ratios), max(ratios)
    row["memory_ratio"] = row["ours_mib"] / row["plain_mib"]
    row["process_memory_ratio"] = row["ours_process_mib"] / row["plain_process_mib"]
    return row


def serve(args: argparse.Namespace) -> None:
    """One side: builds its job on the first line of standard input, runs it on each further one."""
    if args.side == "ours":
        keep_freed_memory()  # as the scripts do
    sys.stdin.readline()
    job = JOBS[args.job][SIDES.index(args.side)](args)
    print(json.dumps({"seconds": 0.0, "peak_bytes": peak_bytes()}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        job()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}), flush=True)


def peak_bytes() -> int:
    """Peak resident bytes of this process.

    Not getrusage: its peak includes that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024  # given in KiB


def fresh_network(args: argparse.Namespace) -> torch.nn.Module:
    """The same weights at every call."""
    torch.manual_seed(0)
    return build_network(args.model, args.backbone, num_classes=6, lightweight=True)


def random_batch(args: argparse.Namespace) -> Sample:
    """Noise with labels on about a fifth of the pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, 2, args.size, args.size)

    def draw(high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=generator)

    images = draw(256, shape[0], 2, 3, *shape[2:]).to(torch.uint8)
    change = (draw(5, shape[0], *shape[2:]) == 0).long()
    semantic = torch.where(change[:, None] == 1, draw(6, *shape), IGNORE_INDEX)
    return Sample(["noise"] * args.batch_size, images, semantic, change)


def plain_inference(args: argparse.Namespace, tta: str) -> Callable:
    """From uint8 tiles to probabilities as published."""
    network, images = plain.PlainNetwork(fresh_network(args).eval()), random_batch(args).images
    predict = plain.predict if tta == "none" else plain.predict_tta

    @torch.no_grad()
    def predict_batch() -> None:
        normalised = plain.normalise(images)
        predict(network, normalised[:, 0], normalised[:, 1])

    return predict_batch


def our_inference(args: argparse.Namespace, tta: str) -> Callable:
    """From uint8 tiles to probabilities as label.py and test.py do it."""
    member = Member.fast(fresh_network(args).eval(), Normalise.of(SECOND))
    predictor = Predictor([member], CPU, pick_amp(args.amp, CPU), tta)
    images = random_batch(args).images
    return lambda: predictor(images)


def plain_training(args: argparse.Namespace) -> Callable:
    """A step of the published code."""
    network, batch = plain.PlainNetwork(fresh_network(args)).train(), random_batch(args)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4)
    return lambda: plain.training_step(
        network, optimizer, batch.images, batch.semantic, batch.change
    )


def our_training(args: argparse.Namespace) -> Callable:
    """A step of train.py."""
    network, batch = fresh_network(args).train(), random_batch(args)
    network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, "adam", lr=1e-4, weight_decay=1e-4)
    normalise, weights = Normalise.of(SECOND), torch.tensor(SENSEEARTH_CLASS_WEIGHTS)
    amp = pick_amp(args.amp, CPU)
    scaler = torch.amp.GradScaler("cpu", enabled=amp == torch.float16)

    def step() -> None:
        forward_backward(network, normalise, batch, Objective(weights), 1, scaler, amp)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


JOBS = {  # name: plain side, our side
    "inference": (partial(plain_inference, tta="none"), partial(our_inference, tta="none")),
    "inference, six views": (
        partial(plain_inference, tta="flip_rot"),
        partial(our_inference, tta="flip_rot"),
    ),
    "training step": (plain_training, our_training),
}


def machine() -> dict[str, str | int]:
    """What the numbers depend on."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "arithmetic": str(pick_amp("auto", CPU) or torch.float32),
    }


def table(args: argparse.Namespace, rows: dict[str, dict]) -> str:
    """The rows as text."""
    title = f"{args.model} {args.backbone} lightweight, {args.size} px, batch {args.batch_size}"
    lines = [
        f"{title}, {torch.get_num_threads()} threads",
        f"{'':22}{'plain':>14}{'ours':>14}{'ratio':>7}{'spread':>13}"
        f"{'plain':>11}{'ours':>10}{'ratio':>7}",
    ]
    for name, row in rows.items():
        speeds = "".join(f"{row[f'{side}_pairs_per_s']:>6.2f} pairs/s" for side in SIDES)
        spread = f"{row['lowest_ratio']:.2f}..{row['highest_ratio']:.2f}"
        memory = "".join(f"{row[f'{side}_mib']:>6.0f} MiB" for side in SIDES)
        lines.append(
            f"{name:22}{speeds}{row['ratio']:>7.2f}{spread:>13} {memory}{row['memory_ratio']:>7.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
