"""Two processes on the CPU as torchrun starts them, forked after the imports.

Each process of a plain torchrun imports torch and timm anew, which takes longer than the test.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def two_ranks(script: str, *words) -> subprocess.CompletedProcess:
    """`torchrun --nproc-per-node 2 SCRIPT WORDS`; fails as soon as one of the two does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__, script, *map(str, words)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def main(script: str, *words: str) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    entry = importlib.import_module(script.removesuffix(".py")).main
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="two_ranks",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, entry)(list(words))


if __name__ == "__main__":
    main(*sys.argv[1:])
