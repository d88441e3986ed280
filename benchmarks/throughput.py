"""Our speed and memory against a plain reading of the published algorithm, in one run.

`python -m benchmarks.throughput` prints a table and writes JSON. Both sides have the same weights
and tiles and take turns; the ratio is of their medians. Peak memory is that of a process of its own
which takes a few training steps, over that of one which has only built the network.
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
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import plain
from models import build_network
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.inference import Member, Normalise, Predictor
from utils.losses import SENSEEARTH_CLASS_WEIGHTS
from utils.optim import build_adam
from utils.precision import AMP_CHOICES, pick_amp
from utils.schemes import SECOND
from utils.structures import IGNORE_INDEX, Sample
from utils.training import forward_backward

CPU = torch.device("cpu")
MEMORY_STEPS = 3


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
    group.add_argument("--memory-of", choices=("none", "plain", "ours"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measures everything, or (started by itself) the memory of one side."""
    args = parse_args(argv)
    if args.memory_of:
        print(json.dumps({"peak_bytes": peak_memory(args)}))
        return
    rows = {
        "inference": compare(*inference_sides(args, "none"), args.repeats),
        "inference, six views": compare(*inference_sides(args, "flip_rot"), args.repeats),
        "training step": compare(*training_sides(args), args.repeats),
    }
    for row in rows.values():
        for side in ("plain", "ours"):
            row[f"{side}_pairs_per_s"] = args.batch_size / row[f"{side}_s"]
    memory = {side: memory_in_process(args, side) for side in ("none", "plain", "ours")}
    rows["peak memory of training"] = {
        "plain_mib": (memory["plain"] - memory["none"]) / 2**20,
        "ours_mib": (memory["ours"] - memory["none"]) / 2**20,
        "ratio": (memory["ours"] - memory["none"]) / (memory["plain"] - memory["none"]),
        "built_network_mib": memory["none"] / 2**20,
        "ratio_of_whole_process": memory["ours"] / memory["plain"],
    }
    print(table(args, rows))
    write_json(args.out, {"machine": machine(), "options": vars(args), "rows": rows})
    print(f"written to {args.out}")


def compare(plain_side: Callable, our_side: Callable, repeats: int) -> dict[str, float]:
    """Medians of both in turns, after a run of each to warm up; ratio > 1: ours is faster."""
    times = {"plain": [], "ours": []}
    for i in range(repeats + 1):
        for name, side in (("plain", plain_side), ("ours", our_side)):
            start = time.perf_counter()
            side()
            if i:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "plain_s": medians["plain"],
        "ours_s": medians["ours"],
        "ratio": medians["plain"] / medians["ours"],
        "lowest_ratio": min(p / o for p, o in zip(*times.values(), strict=True)),
        "highest_ratio": max(p / o for p, o in zip(*times.values(), strict=True)),
    }


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


def inference_sides(args: argparse.Namespace, tta: str) -> tuple[Callable, Callable]:
    """Both ways from uint8 tiles to probabilities."""
    network, images = fresh_network(args).eval(), random_batch(args).images
    member = Member.fast(network, Normalise.of(SECOND))
    predictor = Predictor([member], CPU, pick_amp(args.amp, CPU), tta)
    published = plain.PlainNetwork(network)
    predict = plain.predict if tta == "none" else plain.predict_tta

    @torch.no_grad()
    def plain_side() -> None:
        normalised = plain.normalise(images)
        predict(published, normalised[:, 0], normalised[:, 1])

    return plain_side, lambda: predictor(images)


def training_sides(args: argparse.Namespace) -> tuple[Callable, Callable]:
    """One training step either way."""
    return plain_training(args), our_training(args)


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
    optimizer = build_adam(network, lr=1e-4, weight_decay=1e-4)
    normalise, weights = Normalise.of(SECOND), torch.tensor(SENSEEARTH_CLASS_WEIGHTS)
    amp = pick_amp(args.amp, CPU)
    scaler = torch.amp.GradScaler("cpu", enabled=amp == torch.float16)

    def step() -> None:
        forward_backward(network, normalise, batch, weights, 1, scaler, amp)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_memory(args: argparse.Namespace) -> int:
    """Peak resident bytes of this process after a few training steps of one side."""
    make = {"plain": plain_training, "ours": our_training}.get(args.memory_of)
    if make is None:
        fresh_network(args)
    else:
        step = make(args)
        for _ in range(MEMORY_STEPS):
            step()
    # not getrusage: its peak includes that of the process which started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024  # given in KiB


def memory_in_process(args: argparse.Namespace, side: str) -> int:
    """`peak_memory` in a process of its own."""
    words = [f"--{k.replace('_', '-')}={v}" for k, v in vars(args).items() if k in FORWARDED]
    command = [sys.executable, "-m", "benchmarks.throughput", *words, f"--memory-of={side}"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]


FORWARDED = {"model", "backbone", "size", "batch_size", "amp"}


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
        f"{'':26}{'plain':>14}{'ours':>14}{'ratio':>8}   spread",
    ]
    for name, row in rows.items():
        if "plain_s" in row:
            plain_, ours = (f"{row[f'{s}_pairs_per_s']:.2f} pairs/s" for s in ("plain", "ours"))
            spread = f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}"
        else:
            plain_, ours, spread = f"{row['plain_mib']:.0f} MiB", f"{row['ours_mib']:.0f} MiB", ""
        lines.append(f"{name:26}{plain_:>14}{ours:>14}{row['ratio']:>8.2f}   {spread}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
