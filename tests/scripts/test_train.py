import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import train
from datasets import DATASETS
from helpers.arithmetic import needs_bf16
from helpers.steps import forward_backward
from helpers.tiny_data import make_second, write_label
from models.build import build_network
from models.checkpoints import load_network, make_recipe, network_of
from models.normalise import Normalise
from options.train import build_parser
from training.losses import Loss
from training.monitor import LossMonitor
from training.schedule import learning_rate
from utils import speed
from utils.schemes import SECOND
from utils.speed.blocks import residual_blocks
from utils.speed.recomputing import recompute_blocks
from utils.state_files import read_file
from utils.structures import IGNORE_INDEX, Sample

ROOT = Path(__file__).resolve().parents[2]
BACKBONE = "test_resnet"
STEPS_PER_EPOCH, EPOCHS = 2, 3  # 13 tiles: 2 validate, 11 train in batches of 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_second(tmp_path_factory.mktemp("tiny"), train=13, size=32)


def words(data, outdir, *more) -> list[str]:
    """A small run on the CPU; later words win."""
    usual = {
        "--data-root": data,
        "--outdir": outdir,
        "--model": "fcn",
        "--backbone": BACKBONE,
        "--batch-size": 4,
        "--val-batch-size": 4,
        "--epochs": EPOCHS,
        "--log-every": 1,
        "--num-workers": 0,
        "--device": "cpu",
        "--amp": "fp32",
        "--name": "run",
    }
    flat = [str(word) for pair in usual.items() for word in pair]
    return [*flat, "--lightweight", *map(str, more)]


def train_on(data, outdir, *more) -> Path:
    """Trains; returns the run's folder."""
    train.main(words(data, outdir, *more))
    return Path(outdir, "runs", "run")


def log_of(folder, kind=None) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["kind"])]


def assert_same_run(one: Path, other: Path):
    """The same losses, scores, weights and optimiser, to the last bit."""
    assert log_of(one) == log_of(other)
    first, second = (read_file(folder / "last.pth") for folder in (one, other))
    for key in ("model", "optimizer", "ema", "step", "best_score"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """An uninterrupted run's output folder, its run folder inside."""
    outdir = tmp_path_factory.mktemp("finished")
    train_on(data, outdir)
    return outdir


# ------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_its_best_network_its_state_its_options_and_its_log(finished):
    folder = finished / "runs" / "run"
    names = {path.name for path in folder.iterdir()}
    assert {"args.json", "log.jsonl", "last.pth"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    best = max(line["score"] for line in log_of(folder, "val"))
    assert [p.name for p in (finished / "models").iterdir()] == [
        f"fcn_{BACKBONE}_{100 * best:.2f}.pth"
    ]
    left = [path for path in finished.rglob(".*")]
    assert left == []  # no temporary files


def test_the_log_has_losses_rates_and_scores(finished):
    folder = finished / "runs" / "run"
    steps, scores = log_of(folder, "train"), log_of(folder, "val")
    total = STEPS_PER_EPOCH * EPOCHS
    assert [line["step"] for line in steps] == list(range(1, total + 1))
    assert [line["step"] for line in scores] == [2, 4, 6]
    for i, line in enumerate(steps):
        assert line["total"] == pytest.approx(2 * line["change"] + line["semantic"], rel=1e-5)
        assert line["lr"] == pytest.approx(learning_rate("poly", 1.5e-4, i, total, 1), rel=1e-6)
    for line in scores:
        assert line["score"] == pytest.approx(0.3 * line["miou"] + 0.7 * line["sek"], abs=1e-6)
    written = json.loads((finished / "metrics" / "val.json").read_text())
    assert written["score"] == scores[-1]["score"] and len(written["confusion"]) == 7


def test_training_learns(data, tmp_path):
    options = ("--epochs", 20, "--lr", 0.02, "--val-every", 100)
    steps = log_of(train_on(data, tmp_path, *options), "train")
    assert sum(s["total"] for s in steps[-3:]) < 0.9 * sum(s["total"] for s in steps[:3])


def test_the_options_are_written_with_versions(finished, data):
    saved = json.loads((finished / "runs" / "run" / "args.json").read_text())
    options = saved["options"]
    assert options["data_root"] == str(data) and options["seed"] == 0 and options["lr"] == 0.00015
    assert set(options) >= set(build_parser().given(words(data, finished)))
    assert saved["versions"]["torch"] and saved["versions"]["timm"] and "git_commit" in saved


def test_checkpoints_of_a_run_rebuild_their_network(finished):
    (best,) = (finished / "models").iterdir()
    network, recipe = load_network(best)
    assert recipe["model"] == "fcn" and recipe["backbone"] == BACKBONE and recipe["lightweight"]
    last, _ = load_network(finished / "runs" / "run" / "last.pth")
    assert last.state_dict().keys() == network.state_dict().keys()


def test_load_from_validates_a_checkpoint_and_trains_nothing(finished, data, tmp_path):
    best = max(line["score"] for line in log_of(finished / "runs" / "run", "val"))
    (path,) = (finished / "models").iterdir()
    train.main(words(data, tmp_path, "--load-from", path, "--save-mask"))
    metrics = json.loads((tmp_path / "metrics" / "val.json").read_text())
    assert metrics["score"] == pytest.approx(best, abs=1e-6)
    assert not (tmp_path / "models").exists() and not (tmp_path / "runs").exists()
    for date in ("im1", "im2"):
        masks = sorted((tmp_path / "masks" / "val" / date).iterdir())
        assert [p.name for p in masks] == ["00000.png", "00010.png"]
        with Image.open(masks[0]) as image:
            assert image.mode == "P" and image.size == (32, 32) and np.array(image).max() <= 6


@pytest.mark.parametrize(
    ("described", "error"),
    [
        ((), None),
        (("--lightweight",), None),
        (("--backbone", BACKBONE), None),
        (("--model", "fcn"), None),
        (("--model", "pspnet"), "--model pspnet: .* is fcn on test_resnet; leave it out"),
        (("--backbone", "resnet18"), "--backbone resnet18: .* is fcn on test_resnet; leave"),
        (("--output-stride", 16), "--output-stride 16: .* is fcn on test_resnet with 8; leave"),
    ],
)
def test_only_what_is_given_beside_load_from_can_contradict_the_file(
    finished, data, tmp_path, described, error
):
    (path,) = (finished / "models").iterdir()
    given = ["--data-root", data, "--outdir", tmp_path, "--load-from", path, "--num-workers", 0]
    given = [str(word) for word in (*given, *described)]
    if error:
        with pytest.raises(ValueError, match=error):
            train.main(given)
    else:
        train.main(given)
    assert (tmp_path / "metrics" / "val.json").exists() == (error is None)


# ------------------------------------------------------------------- repeatable, resumable


def test_two_runs_with_one_seed_are_the_same_and_with_another_are_not(finished, data, tmp_path):
    again = train_on(data, tmp_path / "again")
    assert_same_run(finished / "runs" / "run", again)
    other = train_on(data, tmp_path / "other", "--seed", 1, "--epochs", 1)
    assert log_of(other, "train")[0]["total"] != log_of(again, "train")[0]["total"]


def test_workers_and_the_memory_cache_change_no_number(finished, data, tmp_path):
    again = train_on(data, tmp_path, "--num-workers", 2, "--cache", "ram")
    assert_same_run(finished / "runs" / "run", again)


def test_maps_computed_again_change_no_number(finished, data, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        speed, "recompute_blocks", lambda network: done.append(recompute_blocks(network))
    )
    again = train_on(data, tmp_path, "--grad-checkpointing")
    assert_same_run(finished / "runs" / "run", again)
    assert len(done) == 1 and not residual_blocks(done[0])  # they are of another class now


def test_maps_computed_again_and_compiled_are_refused_together(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.parse_args(["--grad-checkpointing", "--compile"])
    assert stopped.value.code == 2
    assert "--grad-checkpointing and --compile" in capsys.readouterr().err


def test_a_resumed_run_computes_maps_again_or_keeps_them_as_it_is_told_now(data, tmp_path):
    train_on(data, tmp_path, "--grad-checkpointing", "--epochs", 1)
    resume = ["--outdir", str(tmp_path), "--resume"]
    assert train.parse_args(resume).grad_checkpointing
    assert not train.parse_args([*resume, "--no-grad-checkpointing"]).grad_checkpointing
    args = train.parse_args([*resume, "--no-grad-checkpointing", "--compile"])
    assert args.compile and not args.grad_checkpointing
    with pytest.raises(SystemExit):
        train.parse_args([*resume, "--compile"])
    with pytest.raises(SystemExit):  # which would be another network
        train.parse_args([*resume, "--no-lightweight"])


def interrupt_at(step: int, monkeypatch):
    """Training stops dead after `step` steps."""
    add = LossMonitor.add

    def interrupted(self, now, tiles, terms):
        if now == step:
            raise KeyboardInterrupt
        add(self, now, tiles, terms)

    monkeypatch.setattr(LossMonitor, "add", interrupted)


@pytest.mark.parametrize(
    ("stop", "options"),
    [
        (4, ()),  # in the middle of epoch 2: goes on from the end of epoch 1
        (6, ("--save-every", 3, "--log-every", 2, "--ema", 0.9, "--swap-dates")),  # from step 3
        (5, ("--accumulate", 2, "--val-every", 3, "--jitter", 0.2, "--dropout", 0.5)),
        (4, ("--optimizer", "sgd", "--lr-min", 1e-5, "--loss-mean-over", "all")),
        (4, ("--optimizer", "rmsprop", "--momentum", 0.5, "--lr-policy", "constant")),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, monkeypatch, stop, options):
    whole = train_on(data, tmp_path / "whole", *options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(stop, patch)
        train_on(data, tmp_path / "parts", *options)
    parts = tmp_path / "parts" / "runs" / "run"
    assert read_file(parts / "last.pth")["step"] < stop
    train.main(["--outdir", str(tmp_path / "parts"), "--resume"])
    assert_same_run(whole, parts)
    names = [
        sorted(p.name for p in (tmp_path / d / "models").iterdir()) for d in ("whole", "parts")
    ]
    assert names[0] == names[1] and len(names[0]) == 1


@pytest.mark.slow
def test_a_killed_run_resumed_equals_an_uninterrupted_one(data, tmp_path):
    options = ("--epochs", 12, "--save-every", 3)
    command = [sys.executable, "train.py", *words(data, tmp_path / "killed", *options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    log = tmp_path / "killed" / "runs" / "run" / "log.jsonl"
    with subprocess.Popen(command, cwd=ROOT, env=environment, **quiet) as process:
        deadline = time.monotonic() + 300
        while not (log.exists() and '"step": 8' in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    left = read_file(log.parent / "last.pth")["step"]
    assert 6 <= left < 24
    train.main(["--resume", str(log.parent / "last.pth")])
    whole = train_on(data, tmp_path / "whole", *options)
    assert_same_run(whole, log.parent)


def test_resume_with_another_option_is_an_error_that_names_it(finished, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--outdir", str(finished), "--resume", "--lr", "0.001"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "--lr 0.001" in message and "0.00015" in message


def test_resume_takes_the_same_option_and_those_that_change_no_number(finished):
    args = train.parse_args(
        ["--outdir", str(finished), "--resume", "--lr", "0.00015", "--num_workers", "5"]
    )
    assert args.num_workers == 5 and args.model == "fcn" and args.epochs == EPOCHS
    assert args.log_every == 1 and args.device == "cpu"  # the interrupted run's, not the defaults
    words = ["--outdir", str(finished), "--resume", "--cache", "disk", "--cache-dir", "elsewhere"]
    args = train.parse_args(words)
    assert (args.cache, args.cache_dir, args.model) == ("disk", "elsewhere", "fcn")


def test_resume_without_a_run_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--resume.*last\.pth.*without --resume"):
        train.main(["--outdir", str(tmp_path), "--resume"])


def test_a_moved_run_goes_on_where_it_is_and_leaves_its_old_place_alone(data, tmp_path):
    train_on(data, tmp_path / "old", "--epochs", 2, "--save-every", 3, "--max-steps", 3)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    before = {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    options = tmp_path / "new" / "runs" / "run" / "args.json"
    options.write_text(options.read_text().replace('"max_steps": 3', '"max_steps": 6'))
    train.main(["--resume", str(options.parent / "last.pth"), "--outdir", "elsewhere"])
    assert before == {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    assert len(list((tmp_path / "new" / "models").iterdir())) == 1
    assert read_file(options.parent / "last.pth")["step"] == 6


def test_a_run_s_folder_by_itself_is_not_gone_on_with(finished, tmp_path):
    shutil.copytree(finished / "runs" / "run", tmp_path / "run")
    with pytest.raises(ValueError, match=r"OUTDIR/runs/NAME.*lies elsewhere, move it back"):
        train.main(["--resume", str(tmp_path / "run")])


def test_resume_of_a_complete_run_says_so(finished):
    with pytest.raises(ValueError, match="complete"):
        train.main(["--outdir", str(finished), "--resume"])
    assert len(log_of(finished / "runs" / "run", "train")) == STEPS_PER_EPOCH * EPOCHS


def test_a_finished_run_is_lengthened_at_its_last_rate_and_then_by_a_new_schedule(
    data, tmp_path, finished, capsys
):
    shutil.copytree(finished, tmp_path / "out")
    folder = tmp_path / "out" / "runs" / "run"
    total, words = STEPS_PER_EPOCH * EPOCHS, ["--outdir", str(tmp_path / "out"), "--resume"]
    train.main([*words, "--epochs", str(EPOCHS + 1)])
    assert "the learning rate is what it was before" in capsys.readouterr().out
    train.main([*words, "--epochs", str(EPOCHS + 3), "--lr-policy", "linear", "--lr", "0.01"])
    lines = log_of(folder, "train")
    assert [line["step"] for line in lines] == list(range(1, total + 3 * STEPS_PER_EPOCH + 1))
    rates = [line["lr"] for line in lines]
    assert rates[:total] == [line["lr"] for line in log_of(finished / "runs" / "run", "train")]
    assert rates[total : total + STEPS_PER_EPOCH] == [rates[total - 1]] * STEPS_PER_EPOCH
    new = [learning_rate("linear", 0.01, i, 2 * STEPS_PER_EPOCH, STEPS_PER_EPOCH)
           for i in range(2 * STEPS_PER_EPOCH)]  # fmt: skip
    assert rates[total + STEPS_PER_EPOCH :] == pytest.approx(new)
    assert read_file(folder / "last.pth")["step"] == len(lines)
    options = json.loads((folder / "args.json").read_text())["options"]
    assert options["epochs"] == EPOCHS + 3 and options["lr"] == 0.00015
    with pytest.raises(ValueError, match=r"is complete after.*lengthen it"):
        train.main(words)


def test_a_rate_of_added_steps_needs_a_schedule(finished, capsys):
    words = ["--outdir", str(finished), "--resume", "--epochs", str(EPOCHS + 1), "--lr", "0.1"]
    with pytest.raises(SystemExit):
        train.main(words)
    assert "--lr: without --lr-policy the added steps keep" in capsys.readouterr().err


def test_a_run_is_refused_before_its_network_is_accelerated(finished, data, monkeypatch):
    def too_late(*args, **kwargs):
        raise AssertionError("recording or compiling a network takes time")

    monkeypatch.setattr(train, "for_training", too_late)
    with pytest.raises(ValueError, match="complete"):
        train.main(["--outdir", str(finished), "--resume"])
    with pytest.raises(ValueError, match=r"--name run.*--resume"):
        train_on(data, finished)


def test_a_name_in_use_is_an_error(finished, data):
    before = (finished / "runs" / "run" / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"--name run.*--resume"):
        train_on(data, finished)
    assert (finished / "runs" / "run" / "log.jsonl").read_bytes() == before


# ------------------------------------------------------------------- options


def test_a_batch_worked_through_in_parts_has_the_same_loss_and_gradients():
    generator = torch.Generator().manual_seed(0)
    semantic = torch.randint(6, (4, 2, 32, 32), generator=generator)
    semantic[0, :, :20] = IGNORE_INDEX  # parts with different numbers of labelled pixels
    batch = Sample(
        list("abcd"),
        torch.randint(256, (4, 2, 3, 32, 32), generator=generator).to(torch.uint8),
        semantic,
        torch.randint(2, (4, 32, 32), generator=generator),
    )
    torch.manual_seed(0)
    # in eval mode, since batch norm sees the parts apart
    network = build_network("fcn", BACKBONE, num_classes=6, lightweight=True).eval()
    losses, gradients = [], []
    for parts in (1, 2, 3):
        network.zero_grad()
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        weights = torch.tensor([2.0, 1, 2, 2, 1, 1])
        terms = forward_backward(
            network, Normalise.of(SECOND), batch, Loss(weights), parts, scaler, None
        )
        losses.append(torch.stack(terms[:3]))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "replayed"),
    [((), True), (("--accumulate", 2), False), (("--no-cuda-graphs",), False)],
)
def test_kernels_are_replayed_only_where_gradients_are_not_accumulated(
    data, tmp_path, flags, replayed, monkeypatch
):
    asked = []

    def watched(network, *args, **options):
        asked.append(options["replayed"])
        return network

    monkeypatch.setattr(train, "for_training", watched)
    train_on(data, tmp_path, "--max-steps", 1, *flags)
    assert asked == [replayed]


@pytest.mark.parametrize("same_root", [False, True])
def test_a_val_dataset_of_the_same_name_validates_with_its_val_part(
    tmp_path, same_root, monkeypatch
):
    root = make_second(tmp_path / "data", train=11, size=32)
    other = make_second(tmp_path / "other", train=3, size=32)
    shutil.copytree(other / "train", root / "val")
    flags = ["--val-dataset", "second", *(["--val-root", root] if same_root else [])]
    if not same_root:  # then both are the data set's own folder
        monkeypatch.setitem(DATASETS, "second", DATASETS["second"]._replace(root=str(root)))
    args = train.parse_args([*words(root, tmp_path / "out"), *map(str, flags)])
    args.data_root = args.data_root if same_root else None
    assert train.split_rule(args) == "official"
    assert len(train.validation_batches(args, SECOND).dataset) == 3
    assert len(train.training_batches(args, SECOND).dataset) == 11


def test_accumulate_trains_on_the_same_first_batch(finished, data, tmp_path):
    folder = train_on(data, tmp_path, "--accumulate", 2, "--max-steps", 1)
    first, whole = (log_of(f, "train")[0] for f in (folder, finished / "runs" / "run"))
    assert first["total"] == pytest.approx(whole["total"], rel=0.1)  # batch norm aside, the same


def test_max_steps_val_every_and_tta(data, tmp_path):
    folder = train_on(data, tmp_path, "--max-steps", 3, "--val-every", 2, "--tta")
    assert [line["step"] for line in log_of(folder, "val")] == [2, 3]
    assert [line["step"] for line in log_of(folder, "train")] == [1, 2, 3]
    assert log_of(folder, "train")[-1]["lr"] == pytest.approx(
        learning_rate("poly", 1.5e-4, 2, 3, 1), rel=1e-6
    )


@needs_bf16
def test_bf16_trains(data, tmp_path):
    folder = train_on(data, tmp_path, "--amp", "bf16", "--max-steps", 2)
    assert all(math.isfinite(line["total"]) for line in log_of(folder, "train"))
    last = read_file(folder / "last.pth")
    assert all(v.dtype != torch.bfloat16 for v in last["model"].values())


def test_a_loss_that_is_not_finite_stops_with_step_tiles_and_remedy(data, tmp_path):
    with pytest.raises(FloatingPointError, match=r"step (\d+).*tiles 000\d\d, .*--lr") as error:
        train_on(data, tmp_path, "--lr", 1e30, "--log-every", 100)
    assert "--amp fp32" in str(error.value)
    folder = tmp_path / "runs" / "run"
    assert not (folder / "log.jsonl").exists() and not (folder / "last.pth").exists()


def test_weights_gone_bad_do_not_replace_the_last_good_ones(data, tmp_path, monkeypatch):
    set_lr = train.set_lr
    explode = iter([False] * 4 + [True] * 99)
    monkeypatch.setattr(train, "set_lr", lambda o, lr: set_lr(o, 1e30 if next(explode) else lr))
    with pytest.raises(FloatingPointError, match=r"step 6:.*last\.pth"):
        train_on(data, tmp_path)
    last = read_file(tmp_path / "runs" / "run" / "last.pth")
    assert last["step"] == 4 and all(v.isfinite().all() for v in last["model"].values())
    assert log_of(tmp_path / "runs" / "run")[-1]["step"] == 5


def test_a_moving_average_is_validated_and_saved(data, tmp_path):
    folder = train_on(data, tmp_path, "--ema", 0.5, "--lr", 0.01, "--epochs", 1)
    last = read_file(folder / "last.pth")
    averaged = last["ema"]["weights"]
    assert last["ema"]["updates"] == STEPS_PER_EPOCH
    (best,) = (tmp_path / "models").iterdir()
    torch.testing.assert_close(load_network(best)[0].state_dict(), averaged, rtol=0, atol=0)
    own = last["model"]["semantic_head.head.4.weight"]
    assert not torch.equal(averaged["semantic_head.head.4.weight"], own)


def write_pseudo_labels(folder, data):
    """Every pixel of every training tile labelled as tree."""
    for image in (data / "train" / "im1").iterdir():
        for date in ("im1", "im2"):
            write_label(folder / date / image.name, np.full((32, 32), 4, np.uint8))
    return folder


@pytest.mark.parametrize("bare", [True, False])
def test_training_on_pseudo_labels_takes_their_classes_and_the_true_change(
    finished, data, tmp_path, bare
):
    folder = tmp_path / "masks" / "train" if bare else tmp_path / "elsewhere"
    write_pseudo_labels(folder, data)
    flag = ["--use-pseudo-label"] if bare else ["--use-pseudo-label", str(folder)]
    run = train_on(data, tmp_path, *flag, "--max-steps", 1)
    first, usual = (log_of(f, "train")[0] for f in (run, finished / "runs" / "run"))
    assert first["change"] == pytest.approx(usual["change"], rel=1e-5)
    assert abs(first["semantic"] - usual["semantic"]) > 1e-3


def test_training_without_its_pseudo_labels_is_an_error_that_names_label_py(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pseudo label.*masks/train.*label\.py"):
        train_on(data, tmp_path, "--use-pseudo-label")


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ((), [2, 1, 2, 2, 1, 1]),
        (("--use-pseudo-label",), None),
        (("--use-pseudo-label", "--class-weights", 1, 2, 3, 4, 5, 6), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_class_weights_are_the_published_ones_unless_told_or_pseudo_labelled(options, weights):
    args = train.parse_args([str(word) for word in options])
    found = train.build_loss(args, SECOND, torch.device("cpu")).class_weights
    assert weights is None if found is None else found.tolist() == weights


# ------------------------------------------------------------------- wrong input


def test_pretrained_without_a_file_or_a_download_is_an_error(data, tmp_path, monkeypatch):
    create_model = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("offline")
        return create_model(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=rf"data/pretrained_models/{BACKBONE}\.pth"):
        train_on(data, tmp_path, "--pretrained")
    assert not (tmp_path / "runs").exists()


def test_pretrained_takes_the_local_file_and_says_so(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path("data", "pretrained_models", f"{BACKBONE}.pth")
    path.parent.mkdir(parents=True)
    torch.save(timm.create_model(BACKBONE).state_dict(), path)
    train_on(data, tmp_path, "--pretrained", "--max-steps", 1)
    assert str(path) in capsys.readouterr().out


def test_a_missing_pretrained_file_is_an_error(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        train_on(data, tmp_path, "--pretrained", tmp_path / "nowhere.pth")


def test_pretrain_from_starts_from_a_run(finished, data, tmp_path, capsys):
    (best,) = (finished / "models").iterdir()
    train_on(data, tmp_path, "--pretrain-from", best, "--max-steps", 1)
    assert f"{best}: loaded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--model", "pspnet", "--batch-size", 2, "--accumulate", 2), "--model pspnet.*at least 2"),
        (("--batch-size", 50), "--batch-size 50.*11"),
        (("--class-weights", 1, 2), "--class-weights has 2.*6 classes"),
        (("--backbone", "mobilenetv3_large_100", "--grad-checkpointing"), "is for ResNets and HRN"),
        (("--backbone", "hrnet_w81"), "--backbone='hrnet_w81'.*hrnet_w18"),
        (("--device", "cuda:7"), "--device"),
        (("--split", "nowhere"), "nowhere"),
        (("--data-root", "/nowhere"), "/nowhere"),
        (("--load-from", "nowhere.pth"), r"nowhere\.pth"),
    ],
)
def test_wrong_input_is_an_error_before_anything_is_written(data, tmp_path, options, error):
    with pytest.raises((ValueError, OSError), match=error):
        train_on(data, tmp_path, *options)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "models").exists()


def test_the_script_ends_with_one_message_and_no_traceback(tmp_path):
    command = [sys.executable, "train.py", "--data-root", str(tmp_path), "--outdir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "train.py: error:" in done.stderr and "Traceback" not in done.stderr


def test_the_table_of_data_sets_feeds_the_flag():
    assert all(name in build_parser().options()["dataset"].help for name in DATASETS)


def test_fine_tuning_is_in_the_recipe_so_that_a_resumed_run_keeps_its_batch_norm_momentum():
    recipe = make_recipe(SECOND, model="fcn", backbone="hrnet_w18_v1", fine_tuned=True)
    for fine_tuned, momentum in ((True, 0.01), (False, 0.1)):
        network = network_of({**recipe, "fine_tuned": fine_tuned})
        norms = [m for m in network.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert {m.momentum for m in norms} == {momentum}


def test_more_parts_than_pairs_is_an_error(data, tmp_path):
    with pytest.raises(ValueError, match=r"--accumulate 4 cuts 2 pairs"):
        train_on(data, tmp_path / "out", "--batch-size", "2", "--accumulate", "4")
