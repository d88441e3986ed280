"""What only a CUDA device can show; skipped without one."""

import json
from itertools import count

import pytest
import torch
from tiny_data import make_second

import train
from models import build_network
from utils.inference import Member, Normalise, Predictor
from utils.schemes import SECOND

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_gpu_predicts_what_the_cpu_does():
    torch.manual_seed(0)
    network = build_network("pspnet", "hrnet_w18_v1", num_classes=6, lightweight=True).eval()
    images = torch.randint(256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    probs = []
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        member = Member.fast(network.to(device), Normalise.of(SECOND).to(device))
        probs.append(Predictor([member], device, tta="d4")(images))
    for on_cpu, on_gpu in zip(*probs, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("amp", ["bf16", "fp16", "fp32"])
def test_a_gpu_trains_and_writes_its_run(tmp_path, amp):
    data = make_second(tmp_path / "data", train=20, size=64)
    words = ["--data-root", data, "--model", "fcn", "--backbone", "hrnet_w18_v1", "--lightweight"]
    words += ["--device", "cuda:0", "--amp", amp, "--epochs", "2", "--batch-size", "4", "--ema"]
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "out", "--name", "run"]])
    lines = (tmp_path / "out/runs/run/log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["total"] for line in lines if '"train"' in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("amp", ["bf16", "fp32"])
def test_the_loop_never_waits_for_the_device(tmp_path, amp, monkeypatch):
    """Between the first two steps, which try out convolutions, and the last, which writes."""
    steps, endless = 8, train.endless

    def watched(*args, **kwargs):
        try:
            for step, batch in zip(count(1), endless(*args, **kwargs), strict=False):
                torch.cuda.set_sync_debug_mode("error" if 2 < step < steps else "default")
                yield batch
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(train, "endless", watched)
    data = make_second(tmp_path / "data", train=44, size=64)
    words = ["--data-root", data, "--model", "pspnet", "--backbone", "hrnet_w18_v1", "--ema"]
    words += ["--lightweight", "--device", "cuda:0", "--amp", amp, "--batch-size", "4"]
    words += ["--accumulate", "2", "--max-steps", steps, "--log-every", "100"]
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "out", "--name", "run"]])
    assert (tmp_path / "out/runs/run/last.pth").exists()
