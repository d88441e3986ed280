"""What only a CUDA device can show; skipped without one."""

import copy
import json
from itertools import count

import pytest
import torch
from torch import nn

import train
from datasets.loader import collate, eval_loader
from helpers.data_sets import second
from helpers.tiny_data import make_second
from inference.predictor import Member, Predictor
from models import NETWORKS
from models.build import build_network
from models.normalise import Normalise
from models.resampling import region_means, resize
from utils import distributed
from utils.schemes import SECOND
from utils.speed import for_prediction
from utils.speed.channel_padding import pad_channels
from utils.speed.cuda_graphs import Graphed
from utils.speed.folding import fold_batch_norm
from utils.speed.fusion import fuse
from utils.structures import to_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_gpu_predicts_what_the_cpu_does():
    torch.manual_seed(0)
    network = build_network("pspnet", "hrnet_w18_v1", num_classes=6, lightweight=True).eval()
    with distributed.session("cuda"):  # which turns TF32 off
        pass
    images = torch.randint(256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    probs = []
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        member = Member(for_prediction(network.to(device)), Normalise.of(SECOND).to(device))
        probs.append(Predictor([member], device, tta="d4")(images))
    for on_cpu, on_gpu in list(zip(*probs, strict=True))[:2]:  # there is no gate
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cache", [None, "ram"])
def test_batches_are_pinned_and_arrive_whole(tmp_path, cache):
    tiles = second(make_second(tmp_path, train=6, size=64), cache=cache)
    for k, batch in enumerate(eval_loader(tiles, 2, num_workers=2)):
        assert all(tensor.is_pinned() for tensor in batch[1:])
        batch = to_device(batch, torch.device("cuda"))
        expected = collate([tiles[2 * k], tiles[2 * k + 1]])
        for found, alone in zip(batch[1:], expected[1:], strict=True):
            assert found.is_cuda and found.dtype == alone.dtype
            assert torch.equal(found.cpu(), alone)


@pytest.mark.parametrize("align_corners", [True, False])
def test_maps_are_resized_as_on_the_cpu(align_corners):
    x = torch.randn(2, 5, 8, 12, requires_grad=True)
    want = resize(x, (32, 48), align_corners)
    y = x.detach().cuda().bfloat16().requires_grad_()
    got = resize(y, (32, 48), align_corners)
    torch.testing.assert_close(got.float().cpu(), want, rtol=2e-2, atol=2e-2)
    gradient = torch.randn_like(want)
    want.backward(gradient)
    got.backward(gradient.to(got))
    torch.testing.assert_close(y.grad.float().cpu(), x.grad, rtol=2e-2, atol=1e-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_over_regions_are_those_of_the_cpu(dtype):
    x = torch.randn(2, 5, 128, 131) + 5
    for got, want in zip(
        region_means(x.cuda().to(dtype), (1, 2, 6)), region_means(x, (1, 2, 6)), strict=True
    ):
        torch.testing.assert_close(got.float().cpu(), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", ["hrnet_w18_v1", "hrnet_w18_v2"])  # not padded, padded
def test_a_fused_network_predicts_what_it_did_before(backbone, amp):
    torch.manual_seed(0)
    network = build_network("pspnet", backbone, num_classes=6, lightweight=True).eval()
    folded = fold_batch_norm(network.cuda(), network.traced).to(memory_format=torch.channels_last)
    images = torch.randn(2, 2, 3, 64, 64, device="cuda")
    with torch.no_grad():
        exact = folded(images)
        with torch.autocast("cuda", amp):
            before = folded(images)
            after = fuse(folded, network.traced, network.padded)(images)
    for want, unfused, fused in zip(exact[:2], before[:2], after[:2], strict=True):
        error = float((unfused - want).norm())
        assert float((fused - want).norm()) < 1.5 * error + 1e-3 * float(want.norm())


def losses_of(tmp_path, name: str, *words: object) -> list[float]:
    """The losses of a short training run."""
    words = ["--data-root", tmp_path / "data", "--model", "pspnet", "--lightweight", *words]
    words += ["--backbone", "hrnet_w18_v2", "--device", "cuda:0", "--batch-size", "4"]
    words += ["--epochs", "2", "--log-every", "1", "--outdir", tmp_path / "out", "--name", name]
    train.main([str(word) for word in words])
    lines = (tmp_path / "out/runs" / name / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["total"] for line in lines if '"train"' in line]


@pytest.mark.parametrize("amp", [torch.bfloat16, None])
@pytest.mark.parametrize("model", NETWORKS)
def test_a_cuda_graph_gives_what_every_network_gives_without_it(model, amp):
    torch.manual_seed(0)
    entry = NETWORKS[model]
    backbone = "hrnet_w18_v2" if entry.usual_backbone else None
    task = entry.tasks()[0]
    network = build_network(model, backbone, num_classes=6, task=task, lightweight=True)
    for module in network.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    network = network.cuda().to(memory_format=torch.channels_last).train()
    pad_channels(network, network.padded)
    eager = copy.deepcopy(network)
    images = torch.randn(2, 1 if task == "land_cover" else 2, 3, 128, 128, device="cuda")
    replayed = Graphed(network, images, amp)
    found = []
    for each in (eager, replayed):
        with torch.autocast("cuda", amp, enabled=amp is not None):
            logits = [x for x in each(images * 0.9 + 0.1) if x is not None]
        sum(x.square().mean() for x in logits).backward()
        found.append(logits)
    for want, got in zip(*found, strict=True):
        assert float((got - want).norm() / want.norm()) < (1e-3 if amp is None else 0.05)
    norms = [
        float(torch.stack([p.grad.norm() for p in each.parameters() if p.grad is not None]).norm())
        for each in (eager, network)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=0.01 if amp is None else 0.1)


@pytest.mark.parametrize("amp", ["bf16", "fp32"])
def test_a_cuda_graph_trains_as_kernels_started_one_by_one(tmp_path, amp):
    make_second(tmp_path / "data", train=20, size=64)
    replayed = losses_of(tmp_path, "replayed", "--amp", amp)
    eager = losses_of(tmp_path, "eager", "--amp", amp, "--no-cuda-graphs")
    assert len(replayed) == 8
    assert replayed == pytest.approx(eager, rel=0.05 if amp == "bf16" else 5e-3)


def test_a_compiled_network_trains_as_one_that_is_not(tmp_path):
    make_second(tmp_path / "data", train=20, size=64)
    compiled = losses_of(tmp_path, "compiled", "--amp", "bf16", "--compile")
    eager = losses_of(tmp_path, "eager", "--amp", "bf16", "--no-cuda-graphs")
    assert compiled == pytest.approx(eager, rel=0.05)


def test_maps_computed_again_train_as_those_that_are_kept(tmp_path):
    make_second(tmp_path / "data", train=20, size=64)
    recomputed = losses_of(tmp_path, "recomputed", "--amp", "fp32", "--grad-checkpointing")
    kept = losses_of(tmp_path, "kept", "--amp", "fp32", "--no-cuda-graphs")
    assert recomputed == pytest.approx(kept, rel=5e-3)


@pytest.mark.parametrize("amp", ["bf16", "fp16", "fp32"])
def test_a_gpu_trains_and_writes_its_run(tmp_path, amp):
    data = make_second(tmp_path / "data", train=20, size=64)
    words = ["--data-root", data, "--model", "fcn", "--backbone", "hrnet_w18_v1", "--lightweight"]
    words += ["--device", "cuda:0", "--amp", amp, "--epochs", "2", "--batch-size", "4", "--ema"]
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "out", "--name", "run"]])
    lines = (tmp_path / "out/runs/run/log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["total"] for line in lines if '"train"' in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("amp", "parts"), [("bf16", 1), ("bf16", 2), ("fp32", 1)])
def test_the_loop_never_waits_for_the_device(tmp_path, amp, parts, monkeypatch):
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
    words += ["--accumulate", parts, "--max-steps", steps, "--log-every", "100"]
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "out", "--name", "run"]])
    assert (tmp_path / "out/runs/run/last.pth").exists()
