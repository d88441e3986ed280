"""What a run leaves on disk, and in which order."""

import argparse
import os

import pytest
import torch
from torch import nn

from training.optim import build_optimizer
from training.run import Run
from training.run_folders import resume_hint
from utils.state_files import read_file, save_checkpoint


def new_run(folder, **more) -> Run:
    return Run(
        folder, "run", recipe={"model": "net", "backbone": None}, options={"seed": 0}, **more
    )


def parts():
    network = nn.Sequential(nn.Linear(2, 1))
    optimizer = build_optimizer(network, "adam", 1e-3, 0.0)
    return network, optimizer, torch.amp.GradScaler("cpu", enabled=False)


def names(folder) -> list[str]:
    return sorted(path.name for path in (folder / "models").iterdir())


def test_an_older_best_checkpoint_stays_until_last_pth_knows_the_newer(tmp_path):
    network, optimizer, scaler = parts()
    run = new_run(tmp_path)
    run.restore(network, optimizer, scaler, None)
    run.keep_best(network, 0.25)
    run.save_last(network, optimizer, scaler, None, 1)
    run.keep_best(network, 0.5)
    assert names(tmp_path) == ["net_25.00.pth", "net_50.00.pth"]  # a kill here loses neither
    last = tmp_path / "runs" / "run" / "last.pth"
    assert read_file(last)["best_path"].endswith("net_25.00.pth")
    run.save_last(network, optimizer, scaler, None, 2)
    assert names(tmp_path) == ["net_50.00.pth"]
    assert read_file(last)["best_path"].endswith("net_50.00.pth")


def test_a_lower_score_is_not_kept_and_one_of_another_run_is_not_replaced(tmp_path):
    network, optimizer, scaler = parts()
    run = new_run(tmp_path)
    run.restore(network, optimizer, scaler, None)
    run.keep_best(network, 0.5)
    run.keep_best(network, 0.25)
    run.save_last(network, optimizer, scaler, None, 1)
    other = Run(tmp_path, "other", recipe={"model": "net", "backbone": None}, options={"seed": 0})
    other.restore(network, optimizer, scaler, None)
    other.keep_best(network, 0.5)
    assert names(tmp_path) == ["net_50.00-2.pth", "net_50.00.pth"]


def test_a_run_without_a_score_keeps_its_latest_weights(tmp_path):
    network, optimizer, scaler = parts()
    run = new_run(tmp_path)
    run.restore(network, optimizer, scaler, None)
    for step in (1, 2):
        run.keep_best(network, float("nan"))
        run.save_last(network, optimizer, scaler, None, step)
    assert names(tmp_path) == ["net_nan.pth"]


def test_an_interrupted_run_is_named_only_once_it_has_saved_something(tmp_path):
    args = argparse.Namespace(outdir=tmp_path, name=None)
    assert resume_hint(args.outdir, args.name) == "(before anything was saved)"
    older, newer = tmp_path / "runs" / "older", tmp_path / "runs" / "newer"
    for seconds, folder in enumerate((older, newer)):
        folder.mkdir(parents=True)
        os.utime(folder, (seconds, seconds))
    (older / "last.pth").touch()
    os.utime(older, (0, 0))
    assert resume_hint(args.outdir, args.name) == "(before anything was saved)"  # not the other run
    args.name = "older"
    assert str(older / "last.pth") in resume_hint(args.outdir, args.name)


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("basic_ios::clear: iostream error\nmore of it")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"could not write .*a.pth .*disk full"):
        save_checkpoint(tmp_path / "a.pth", {}, {})
    assert not (tmp_path / "a.pth").exists()
