"""Runs scripts in separate processes and reads their logs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import label
import test as script_test

ROOT = Path(__file__).resolve().parents[2]


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
