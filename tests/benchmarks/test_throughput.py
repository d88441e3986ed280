"""The table of speed: its bounds by hand, and that both sides of a row do the same."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import jobs, plain, throughput
from benchmarks.machine import Rates, Work, forward_work, measure_rates
from utils import speed
from utils.metrics import ChangeConfusion, stack_dates

CPU = torch.device("cpu")


def options(root: Path) -> argparse.Namespace:
    words = ["--quick", "--model", "fcn", "--amp", "fp32", "--device", "cpu"]
    args = throughput.parse_args([*words, "--num-workers", "0"])
    args.root = str(root)
    return args


def test_the_work_of_a_convolution_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 4, kernel_size=3, padding=1, bias=False))
    work = forward_work(network, torch.zeros(2, 3, 5, 6), itemsize=2)
    assert work.flops == 2 * (2 * 4 * 5 * 6) * (3 * 3 * 3)  # a product and a sum for each weight
    assert work.nbytes == 2 * (2 * 3 * 5 * 6 + 2 * 4 * 5 * 6 + 4 * 3 * 3 * 3)  # in, out, weights
    assert work.times(3) == Work(3 * work.flops, 3 * work.nbytes)


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    rates = Rates(flops_per_s=100.0, bytes_per_s=10.0)
    assert rates.seconds(Work(flops=200.0, nbytes=10.0)) == 2.0
    assert rates.seconds(Work(flops=100.0, nbytes=50.0)) == 5.0


def test_rates_are_of_this_machine():
    rates = measure_rates(CPU, None)
    assert 1e8 < rates.flops_per_s < 1e16 and 1e8 < rates.bytes_per_s < 1e14


def test_both_sides_count_the_same_pixels():
    args = argparse.Namespace(size=16, device="cpu")
    theirs, ours = plain.PlainConfusion(7), ChangeConfusion(6)
    pred, true = next(jobs.random_masks(args))
    pred = torch.where(((pred == 0) != (true == 0)), 1 + pred % 6, pred)  # changed elsewhere too
    pred = torch.where((pred == 0).any(1, keepdim=True), 0, pred)
    theirs.update(pred, true)
    ours.update(pred, true)
    assert np.array_equal(theirs.counts, stack_dates(ours.counts, 6).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("script", ["label", "test"])
def test_both_sides_of_a_program_write_the_same_masks(tmp_path, script):
    args = options(tmp_path)
    jobs.make_program_inputs(args)
    plain_side, our_side, folders = {
        "label": (jobs.plain_label, jobs.our_label, ("plain_labels", "out/masks/train")),
        "test": (jobs.plain_test, jobs.our_test, ("plain_masks", "out/masks/test")),
    }[script]
    plain_side(args)()
    our_side(args)()
    theirs, ours = (sorted((tmp_path / folder).rglob("*.png")) for folder in folders)
    assert len(ours) == 2 * args.pairs
    assert [p.name for p in ours] == [p.name for p in theirs]
    same = [np.mean(np.array(Image.open(a)) == np.array(Image.open(b))) for a, b in
            zip(ours, theirs, strict=True)]  # fmt: skip
    assert np.mean(same) > 0.999


@pytest.mark.slow
def test_rows_are_measured_and_written(tmp_path, capsys):
    words = ["--quick", "--model", "fcn", "--device", "cpu"]
    words += ["--num-workers", "0", "--rows", "inference", "data pipeline"]
    throughput.main([*words, "--out", str(tmp_path / "a.json")])
    result = json.loads((tmp_path / "a.json").read_text())
    assert list(result["rows"]) == ["inference", "data pipeline"]
    for row in result["rows"].values():
        assert row["ratio"] > 0 and row["plain_s"] > 0 and row["of_bound"] > 0
    assert result["rates"]["flops_per_s"] > 0
    assert "\ninference " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("job", "limit", "turns"), [("test.py", 1e9, 2), ("test.py", -1, 1), ("inference", -1, 7)]
)
def test_a_program_that_takes_long_is_run_once(tmp_path, monkeypatch, job, limit, turns):
    runs = []

    class Side:
        def __init__(self, args, job, side):
            self.side = side

        def start(self):
            pass

        close = start

        def answer(self):
            return {"seconds": 0.0, "peak_bytes": 0}

        def run(self):
            runs.append(self.side)
            return {"seconds": {"plain": 6.0, "ours": 2.0}[self.side], "peak_bytes": 2**20}

    monkeypatch.setattr(throughput, "Side", Side)
    monkeypatch.setattr(throughput, "PROGRAM_SECONDS", limit)
    args = options(tmp_path)
    args.repeats = 5
    row = throughput.compare(args, job, Rates(flops_per_s=1e12, bytes_per_s=1e10))
    assert runs == ["plain", "ours"] * turns
    pairs = jobs.JOBS[job].pairs(args)
    assert row["ratio"] == row["lowest_ratio"] == 3 and row["plain_pairs_per_s"] == pairs / 6


def test_options_of_the_training_row_are_those_of_train_py(tmp_path, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(speed, "recompute_blocks", lambda network: done.append("recomputed"))
    args = options(tmp_path)
    jobs.our_training(args)
    assert not done
    args.grad_checkpointing = True
    jobs.our_training(args)
    assert done == ["recomputed"]
    assert throughput.flags(args) == ["grad-checkpointing"]
    assert throughput.parse_args(["--quick", "--backbone", "resnet18"]).backbone == "resnet18"
    with pytest.raises(SystemExit):
        throughput.parse_args(["--compile", "--grad-checkpointing"])
    assert "exclude each other" in capsys.readouterr().err
