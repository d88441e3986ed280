import json
import os
import sys
from pathlib import Path

import pytest
import torch

import train
from helpers.networks import make_teachers
from helpers.processes import log_of, run_alone, torchrun, two_processes
from helpers.tiny_data import make_second
from utils import distributed
from utils.state_files import read_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("test_resnet", ("--ema", "--grad-checkpointing")),
        ("mobilenetv3_small_050", ("--accumulate", "2")),  # batch norms with an activation inside
    ],
)
def test_two_processes_train_and_validate_as_one_does(tmp_path, backbone, options):
    data = make_second(tmp_path / "data", train=31, size=32)  # 4 validate: 2 and 2
    words = ["--data-root", data, "--model", "fcn", "--backbone", backbone, "--lightweight"]
    words += ["--batch-size", "8", "--max-steps", "6", "--val-every", "2", "--log-every", "1"]
    words += ["--dropout", "0", "--amp", "fp32", "--device", "cpu", "--num-workers", "0"]
    # a small rate: Adam's first steps turn rounding of tiny gradients into whole steps
    words += ["--val-batch-size", "2", "--name", "run", "--lr", "1e-5", *options]
    two_processes("train.py", *words, "--outdir", tmp_path / "two")
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "one"]])
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [(a["kind"], a["step"]) for a in one] == [(b["kind"], b["step"]) for b in two]
    assert sum(a["kind"] == "train" for a in one) == 6
    for a, b in zip(one, two, strict=True):
        if a["kind"] == "train":
            for key in ("total", "semantic", "change", "lr"):
                tolerance = 1e-5 if a["step"] == 1 else 1e-4
                assert b[key] == pytest.approx(a[key], rel=tolerance), (key, a["step"])
        else:  # counts of pixels, a few of which may tip over on rounding
            for key in ("score", "miou", "sek", "oa"):
                assert b[key] == pytest.approx(a[key], abs=2e-3), (key, a["step"])
    models = [sorted(p.name for p in (tmp_path / d / "models").iterdir()) for d in ("one", "two")]
    assert len(models[0]) == len(models[1]) == 1
    first, second = (
        read_file(tmp_path / d / "runs" / "run" / "last.pth")["model"] for d in ("one", "two")
    )
    assert first.keys() == second.keys()  # nothing of the wrapping is saved


@pytest.mark.slow
def test_the_same_checkpoint_scores_the_same_in_one_process_and_in_two(tmp_path):
    data = make_second(tmp_path / "data", train=21, size=32)  # 3 validate: 2 and 1
    words = ["--data-root", data, "--model", "fcn", "--backbone", "test_resnet", "--lightweight"]
    words += ["--amp", "fp32", "--device", "cpu", "--num-workers", "0", "--name", "run"]
    short = ["--batch-size", "4", "--max-steps", "2", "--outdir", tmp_path / "first"]
    train.main([str(word) for word in [*words, *short]])
    (path,) = (tmp_path / "first" / "models").iterdir()
    words += ["--load-from", path, "--val-batch-size", "2", "--tta", "--save-mask"]
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "one"]])
    two_processes("train.py", *words, "--outdir", tmp_path / "two")
    one, two = (
        json.loads((tmp_path / d / "metrics" / "val.json").read_text()) for d in ("one", "two")
    )
    assert sum(map(sum, one["confusion"])) == sum(map(sum, two["confusion"])) == 3 * 2 * 32 * 32
    assert two["score"] == pytest.approx(one["score"], abs=1e-4)
    masks = {d: sorted((tmp_path / d / "masks" / "val" / "im1").iterdir()) for d in ("one", "two")}
    assert [p.name for p in masks["one"]] == [p.name for p in masks["two"]]
    assert len(masks["one"]) == 3


@pytest.mark.slow
def test_two_processes_label_and_test_as_one_does(tmp_path):
    data = make_second(tmp_path / "data", train=9, test=5, size=32)  # 8 to label: 4 and 4; 3 and 2
    teachers = make_teachers(tmp_path / "teachers")
    words = ["--data-root", data, "--checkpoints", *teachers, "--amp", "fp32", "--device", "cpu"]
    words += ["--num-workers", "0", "--tta", "none"]
    outputs = {}
    for name, run in (("one", run_alone), ("two", two_processes)):
        run("label.py", *words, "--outdir", tmp_path / name, "--val-batch-size", "2")
        run("test.py", *words, "--outdir", tmp_path / name, "--test-batch-size", "2", "--score")
        outputs[name] = {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.suffix == ".png" or path.name in ("test.json", "pseudo_labels.json")
        }
    assert len(outputs["one"]) == 8 * 2 + 5 * 2 + 2
    assert outputs["one"] == outputs["two"]


PARTS = """
import sys

import torch
from torch import nn
from utils import distributed
from timm.layers import BatchNormAct2d
from utils.cli import run


def main():
    with distributed.session("cpu") as device:
        rank, world = distributed.rank(), distributed.world()
        assert world == 2 and distributed.is_main() == (rank == 0)
        total = distributed.sum_over_ranks(torch.tensor([1.0, rank]))
        assert total.tolist() == [2, 1]

        def build():
            torch.manual_seed(0)
            layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
            return nn.Sequential(*layers, nn.Conv2d(4, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 1, 1))

        x = torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(1))
        alone, shared = build(), build()
        alone(x).square().sum().backward()
        parallel = distributed.wrap(shared)
        # ranks hold different numbers of tiles: 4 and 2
        part = x[:4] if rank == 0 else x[4:]
        for i, piece in enumerate((part, part)):  # the first without exchange, as accumulation does
            with distributed.gradients_synced(parallel, i == 1):
                (parallel(piece).square().sum() * world / 2).backward()
        for one, two in zip(alone.parameters(), shared.parameters()):
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-3)
        for (name, one), two in zip(alone.named_buffers(), shared.buffers()):
            if name.endswith("running_var"):  # two updates against one
                torch.testing.assert_close((two - 0.81) / 1.9, one - 0.9, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shared.eval()(x), alone.load_state_dict(
            shared.state_dict()) and alone.eval()(x), rtol=1e-4, atol=1e-5)
        distributed.barrier()
        open(f"{sys.argv[1]}/{rank}", "w").close()


run(main)
"""


@pytest.mark.slow
def test_batch_norm_and_gradients_over_two_processes_are_those_of_one(tmp_path):
    path = tmp_path / "parts.py"
    path.write_text(PARTS)
    torchrun(path, tmp_path)
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()


# ------------------------------------------------------------------- a single process


def test_everything_works_in_a_single_process_without_set_up():
    value = torch.tensor([1.0])
    assert (distributed.rank(), distributed.world(), distributed.is_main()) == (0, 1, True)
    assert distributed.sum_over_ranks(value) is value
    distributed.barrier()
    network = torch.nn.Linear(1, 1)
    assert distributed.wrap(network) is network
    with distributed.gradients_synced(network, False):
        pass
    with distributed.session("cpu") as device:
        assert device == torch.device("cpu")


def test_no_cuda_device_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.pick_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"--device=cuda.*--device cpu"):
        distributed.pick_device("cuda")


def test_each_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.pick_device("auto") == torch.device("cuda:3")
    assert distributed.pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"cuda:9.*4 GPUs"):
        distributed.pick_device("cuda:9")


@pytest.fixture
def relaunched(monkeypatch):
    """relaunched(device, gpus, **environment) -> the command that would replace this process."""

    def relaunch(device, gpus, **environment):
        calls = []
        monkeypatch.delenv("RANK", raising=False)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(os, "execv", lambda path, words: calls.append((path, words)))
        monkeypatch.setattr(sys, "argv", ["train.py", "--model", "pspnet", "--tta"])
        distributed.relaunch_per_gpu(device)
        return calls

    return relaunch


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_several_gpus_get_a_process_each(relaunched, device):
    ((path, words),) = relaunched(device, 4)
    assert path == words[0] == sys.executable
    assert words[1:3] == ["-m", "torch.distributed.run"] and "--standalone" in words
    assert "--nproc-per-node=4" in words
    assert words[-4:] == ["train.py", "--model", "pspnet", "--tta"]


@pytest.mark.parametrize(
    ("device", "gpus", "environment"),
    [
        ("auto", 1, {}),
        ("auto", 0, {}),
        ("cpu", 4, {}),
        ("cuda:1", 4, {}),
        ("auto", 4, {"RANK": "0"}),
    ],
)
def test_otherwise_this_process_goes_on(relaunched, device, gpus, environment):
    assert relaunched(device, gpus, **environment) == []
