"""What only a CUDA device can show; skipped without one."""

import json

import pytest
import torch
from tiny_data import make_second

import train
from datasets.loader import collate, eval_loader
from datasets.second import SecondDataset
from models import build_network
from utils.inference import Member, Normalise, Predictor, to_device
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


@pytest.mark.parametrize("cache", [None, "ram"])
def test_batches_are_pinned_and_arrive_whole(tmp_path, cache):
    tiles = SecondDataset(make_second(tmp_path, train=6, size=64), cache=cache)
    for k, batch in enumerate(eval_loader(tiles, 2, num_workers=2)):
        assert all(tensor.is_pinned() for tensor in batch[1:])
        batch = to_device(batch, torch.device("cuda"))
        expected = collate([tiles[2 * k], tiles[2 * k + 1]])
        for found, alone in zip(batch[1:], expected[1:], strict=True):
            assert found.is_cuda and found.dtype == alone.dtype
            assert torch.equal(found.cpu(), alone)


@pytest.mark.parametrize("amp", ["bf16", "fp16", "fp32"])
def test_a_gpu_trains_and_writes_its_run(tmp_path, amp):
    data = make_second(tmp_path / "data", train=20, size=64)
    words = ["--data-root", data, "--model", "fcn", "--backbone", "hrnet_w18_v1", "--lightweight"]
    words += ["--device", "cuda:0", "--amp", amp, "--epochs", "2", "--batch-size", "4", "--ema"]
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "out", "--name", "run"]])
    lines = (tmp_path / "out/runs/run/log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["total"] for line in lines if '"train"' in line]
    assert losses[-1] < losses[0]
