"""Runs scripts in separate processes and reads their logs."""

import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import torch

import label
import test as script_test

ROOT = Path(__file__).resolve().parents[2]


# processes start as copies of one that has imported what takes seconds to import
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["torch", "torchvision", "timm", "torch._dynamo"])


def two_processes(script, *words, timeout=300) -> None:
    """Runs a script as two ranks on the CPU, as torchrun does but without its start-up."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [str(ROOT / script), *map(str, words)]
    ranks = [FORKING.Process(target=run_rank, args=(rank, port, words)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0, 0], (codes, words)


def run_rank(rank: int, port: int, words: list[str]) -> None:
    """A script of a rank, in this process."""
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in world.items()})
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def torchrun(*words, timeout=300) -> subprocess.CompletedProcess:
    """Runs a script in two processes on the CPU."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    done = subprocess.run(
        [sys.executable, *launch, *map(str, words)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def log_of(outdir) -> list[dict]:
    text = (outdir / "runs" / "run" / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def run_alone(script, *words):
    {"label.py": label.main, "test.py": script_test.main}[script]([str(word) for word in words])
