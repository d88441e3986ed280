"""Compares speed and memory with a plain implementation of the published algorithm.

`python -m benchmarks.throughput` prints a table and writes JSON. Both sides have the same weights
and tiles, and run alternately in separate processes; ratios are those of medians. The bound follows
from the machine's peak rates (see benchmarks.machine). Memory is the peak of a side's process minus
its memory after set-up (which includes cached tiles); on a GPU, all GPU memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.jobs import JOBS, device_of
from benchmarks.machine import Rates, machine, measure_rates, wait
from options.shared import AMP_CHOICES
from utils import distributed
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.precision import pick_amp

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("plain", "ours")
WARM_UP = 2  # uncounted runs of each side
PROGRAM_REPEATS = 2  # maximum number of runs of whole programs, without warm-up
PROGRAM_SECONDS = 300  # of both sides together, after which programs are not repeated
QUICK = {"backbone": "hrnet_w18_v1", "size": 64, "repeats": 1, "pairs": 2, "load_pairs": 16}
# options passed to the processes of the sides
FORWARDED = ("model", "backbone", "size", "batch_size", "pairs", "load_pairs")
FORWARDED += ("amp", "device", "num_workers", "root")
FLAGS = ("compile", "grad-checkpointing")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Measure speed and memory.", prog="python -m benchmarks.throughput")
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="pspnet", help="as for train.py")
    group.add_argument("--backbone", default="hrnet_w18", help="as for train.py")
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--rows",
        nargs="+",
        choices=list(JOBS),
        default=list(JOBS),
        metavar="ROW",
        help=f"which of: {'; '.join(JOBS)} (default: all); quote names of several words",
    )
    group.add_argument("--size", type=positive_int, default=512, help="tile side in px")
    group.add_argument("--batch-size", type=positive_int, default=2, help="pairs at a time")
    group.add_argument("--pairs", type=positive_int, default=16, help="that programs are run on")
    group.add_argument(
        "--load-pairs", type=positive_int, default=512, help="in the data set that is only loaded"
    )
    group.add_argument("--repeats", type=positive_int, default=5, help="timed runs of each side")
    group.add_argument("--amp", choices=AMP_CHOICES, default="auto", help="arithmetic of our side")
    group.add_argument("--compile", action="store_true", help="torch.compile our side")
    group.add_argument(
        "--grad-checkpointing", action="store_true", help="as for train.py, in its row"
    )
    group.add_argument("--device", default="auto", help="auto, cpu or cuda")
    group.add_argument(
        "--num-workers", type=int, default=os.cpu_count(), help="processes that read tiles"
    )
    group.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    group.add_argument("--out", default="outdir/benchmarks/throughput.json", help="JSON to write")
    group.add_argument("--root", help=argparse.SUPPRESS)
    group.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    group.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.compile and args.grad_checkpointing:
        parser.error("--compile and --grad-checkpointing exclude each other; leave one out")
    if args.quick:
        given = parser.given(argv)
        vars(args).update({key: value for key, value in QUICK.items() if key not in given})
    return args


def flags(args: argparse.Namespace) -> list[str]:
    """The switches of FLAGS that are on."""
    return [flag for flag in FLAGS if getattr(args, flag.replace("-", "_"))]


def main(argv: list[str] | None = None) -> None:
    """Measures everything; in a process started by `Side`, serves one side."""
    args = parse_args(argv)
    if args.side:
        serve(args)
        return
    device = device_of(args)
    rates = measure_rates(device, pick_amp(args.amp, device))
    print(
        f"{args.model} {args.backbone} lightweight{''.join(f', --{x}' for x in flags(args))}, "
        f"{args.size} px, batch {args.batch_size}, "
        f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, "
        f"{torch.get_num_threads()} threads; at best {rates.flops_per_s / 1e12:.2f} TFLOP/s, "
        f"{rates.bytes_per_s / 1e9:.1f} GB/s\n{HEADING}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as args.root:
        for make in {JOBS[job].inputs for job in args.rows} - {None}:
            make(args)
        rows = {}
        for job in args.rows:
            rows[job] = compare(args, job, rates)
            print(line(job, rows[job]), flush=True)
    result = {"machine": machine(device), "rates": rates._asdict(), "options": vars(args)}
    write_json(args.out, {**result, "rows": rows})
    if args.quick:
        print("(far too little to compare anything by: it only shows that all runs)")
    print(f"written to {args.out}")


class Side:
    """A process that runs one job of one side on request."""

    def __init__(self, args: argparse.Namespace, job: str, side: str):
        words = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in FORWARDED]
        words += [f"--{flag}" for flag in flags(args)]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.throughput",
                *words,
                f"--job={job}",
                f"--side={side}",
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> dict[str, float]:
        """Runs the job once: its `seconds`, and the `peak_bytes` of the process so far."""
        self.start()
        return self.answer()

    def start(self) -> None:
        """Requests a run of the job; the first request builds it."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """Waits for the answer of the process."""
        answer = self.process.stdout.readline()
        if not answer:
            raise ValueError("a measuring process ended early; its message is above")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(args: argparse.Namespace, job: str, rates: Rates) -> dict[str, float]:
    """Runs both sides alternately, each in a process of its own.

    Returns:
        Medians in seconds and pairs per second, and the bound's; ratios (> 1: ours is faster);
        peak memory in MiB, all of the process and above what it held before the first run.
    """
    sides = {side: Side(args, job, side) for side in SIDES}
    for process in sides.values():
        process.start()  # builds, runs nothing
    base = {side: process.answer() for side, process in sides.items()}
    answers = {side: [] for side in SIDES}
    warm_up, repeats = WARM_UP, args.repeats
    if JOBS[job].is_program:
        warm_up, repeats = 0, min(repeats, PROGRAM_REPEATS)
    start = time.perf_counter()
    for _ in range(warm_up + repeats):
        for side, process in sides.items():
            answers[side].append(process.run())
        if JOBS[job].is_program and time.perf_counter() - start > PROGRAM_SECONDS:
            break
    row, pairs = {}, JOBS[job].pairs(args)
    for side, process in sides.items():
        process.close()
        row[f"{side}_s"] = statistics.median(a["seconds"] for a in answers[side][warm_up:])
        row[f"{side}_pairs_per_s"] = pairs / row[f"{side}_s"]
        row[f"{side}_process_mib"] = answers[side][-1]["peak_bytes"] / 2**20
        row[f"{side}_mib"] = row[f"{side}_process_mib"] - base[side]["peak_bytes"] / 2**20
    turns = zip(*(answers[side][warm_up:] for side in SIDES), strict=True)
    ratios = [plain_["seconds"] / ours["seconds"] for plain_, ours in turns]
    row["ratio"] = row["plain_s"] / row["ours_s"]
    row["lowest_ratio"], row["highest_ratio"] = min(ratios), max(ratios)
    row["memory_ratio"] = row["ours_mib"] / max(row["plain_mib"], 1.0)
    work = JOBS[job].work(args)
    row.update(gflop=work.flops / 1e9, gigabytes=work.nbytes / 1e9)
    row["bound_pairs_per_s"] = pairs / rates.seconds(work)
    row["of_bound"] = row["ours_pairs_per_s"] / row["bound_pairs_per_s"]
    return row


def serve(args: argparse.Namespace) -> None:
    """One side: builds its job on the first line of standard input, runs it on each further one."""
    device = device_of(args)
    torch.backends.cudnn.benchmark = True  # as published
    if args.side == "ours":
        with distributed.session(args.device):  # the same set-up as in the scripts
            pass
    sys.stdin.readline()
    job = getattr(JOBS[args.job], args.side)(args)
    # on a GPU, count all memory: graphs are recorded while building
    base = 0 if device.type == "cuda" else peak_bytes(device)
    print(json.dumps({"seconds": 0.0, "peak_bytes": base}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        job()
        wait(device)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(device)}), flush=True)


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process, on the GPU or on a CPU.

    getrusage is not used, because its peak includes that of the parent process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024  # given in KiB


HEADING = (
    f"{'':22}{'pairs a second':^41}{'at best':^19}{'peak MiB':^25}\n"
    f"{'':22}{'plain':>10}{'ours':>10}{'ratio':>7}{'spread':>14}"
    f"{'pairs/s':>11}{'share':>8}{'plain':>9}{'ours':>8}{'ratio':>8}"
)


def line(name: str, row: dict[str, float]) -> str:
    """A row as text."""
    speeds = "".join(f"{row[f'{side}_pairs_per_s']:>10.4g}" for side in SIDES)
    spread = f"{row['lowest_ratio']:.2f}..{row['highest_ratio']:.2f}"
    memory = f"{row['plain_mib']:>9.0f}{row['ours_mib']:>8.0f}{row['memory_ratio']:>8.2f}"
    return (
        f"{name:22}{speeds}{row['ratio']:>7.2f}{spread:>14}{row['bound_pairs_per_s']:>11.4g}"
        f"{row['of_bound']:>8.1%}{memory}"
    )


if __name__ == "__main__":
    run(main)
