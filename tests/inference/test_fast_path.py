"""The fast path against the plain one in float32, on real tiles and a network that has learned."""

import functools
from pathlib import Path

import pytest
import torch

from benchmarks import plain
from datasets.transforms import Augment
from helpers.arithmetic import CPU, assert_equal_but_for_rounding, needs_bf16
from helpers.data_sets import second
from helpers.steps import forward_backward
from inference.decide import to_masks
from inference.predictor import Member, Predictor
from models.build import build_network
from models.normalise import Normalise
from training.losses import Loss
from training.optim import build_optimizer
from utils.precision import autocast, pick_amp
from utils.schemes import SECOND
from utils.speed import for_prediction
from utils.structures import Probs

TILES = Path(__file__).resolve().parents[3] / "shared" / "data" / "eurosat_scd"
AMP = pick_amp("auto", CPU)
STEPS, BATCH = 80, 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TILES.is_dir(), reason=f"no tiles in {TILES}"),
]


@functools.cache
def trained() -> torch.nn.Module:
    """A network after some steps on the tiles, at which its decisions are no longer chance."""
    torch.manual_seed(0)
    network = build_network("pspnet", "hrnet_w18_v1", num_classes=6, lightweight=True).train()
    network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, "adam", lr=1e-3, weight_decay=1e-4)
    tiles = second(TILES, "train", augment=Augment(crop_size=64))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for step in range(STEPS):
        samples = [tiles[(step * BATCH + i) % len(tiles)] for i in range(BATCH)]
        names, *tensors, _ = zip(*samples, strict=True)
        batch = samples[0]._replace(
            name=list(names),
            **dict(zip(samples[0]._fields[1:4], map(torch.stack, tensors), strict=True)),
        )
        forward_backward(network, Normalise.of(SECOND), batch, Loss(), 1, scaler, AMP)
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


@functools.cache
def both_paths(tta: str, amp: torch.dtype | None) -> tuple[Probs, Probs]:
    """Probabilities of four test tiles: plain in float32, and as the scripts predict."""
    network, tiles = trained(), second(TILES, "test")
    images = torch.stack([tiles[i].images for i in range(4)])
    predict = plain.predict if tta == "none" else plain.predict_tta
    with torch.no_grad():
        pixels = plain.normalise(images)
        out1, out2, change = predict(plain.PlainNetwork(network), pixels[:, 0], pixels[:, 1])
    member = Member(for_prediction(network), Normalise.of(SECOND))
    return Probs(torch.stack([out1, out2], dim=1), change), Predictor([member], CPU, amp, tta)(
        images
    )


@pytest.mark.parametrize("tta", ["none", "flip_rot"])
def test_float32_gives_the_plain_probabilities(tta):
    want, got = both_paths(tta, None)
    assert want.change.std() > 0.02 and want.semantic.std() > 0.1  # it tells pixels apart
    assert_equal_but_for_rounding(got[:2], want[:2])
    assert float((to_masks(got) == to_masks(want)).float().mean()) > 0.9999


@needs_bf16
@pytest.mark.parametrize("tta", ["none", "flip_rot"])
def test_bfloat16_gives_the_plain_masks(tta):
    want, got = both_paths(tta, torch.bfloat16)
    errors = [(a - b).abs().flatten() for a, b in zip(got[:2], want[:2], strict=True)]
    for error in errors:
        assert float(error.mean()) < 0.005
        # the mean of six views, as the scripts predict by default, is nearer than any one of them
        assert float((error < 0.02).float().mean()) >= (1.0 if tta == "flip_rot" else 0.995)
    assert float((to_masks(got) == to_masks(want)).float().mean()) >= 0.995


@needs_bf16
def test_autocast_is_what_made_the_difference():
    """That the comparison above can fail: a bfloat16 pass does differ."""
    want, got = both_paths("none", torch.bfloat16)
    assert not torch.equal(want.change, got.change)
    with autocast(CPU, torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
