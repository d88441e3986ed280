"""Maps of more channels than a network has: the numbers of the network as it is."""

import copy

import pytest
import torch
from torch import nn

from helpers.arithmetic import needs_bf16
from models.build import build_network
from utils.speed import channel_padding, fusion
from utils.speed.channel_padding import PaddedBatchNorm2d, PaddedConv2d, pad_channels
from utils.speed.folding import fold_batch_norm
from utils.speed.fusion import fuse
from utils.structures import Logits


def small_hrnet(head: str = "fcn") -> nn.Module:
    torch.manual_seed(0)
    return build_network(head, "hrnet_w18_v2", num_classes=6, lightweight=True, dropout=0)


def padded_hrnet() -> nn.Module:
    network = small_hrnet()
    return pad_channels(network, network.padded)


@pytest.fixture
def always(monkeypatch):
    """Pads whatever the type, so that it can be compared in float64."""

    def channels_after(weight: torch.Tensor, x: torch.Tensor) -> int:
        return -(-len(weight) // 8) * 8

    monkeypatch.setattr(channel_padding, "channels_after", channels_after)
    monkeypatch.setattr(fusion, "channels_after", channels_after)


def trained_once(network: nn.Module, images: torch.Tensor) -> Logits:
    logits = network(images)
    (logits.semantic.square().mean() + logits.change.square().mean()).backward()
    return logits


def test_training_is_the_same(always):
    plain = small_hrnet().double().train()
    padded = pad_channels(copy.deepcopy(plain), plain.padded)
    images = torch.randn(1, 2, 3, 64, 64, dtype=torch.float64)
    want, got = trained_once(plain, images), trained_once(padded, images)
    torch.testing.assert_close(got.semantic, want.semantic, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.change, want.change, rtol=1e-4, atol=1e-5)
    names = [name for name, value in plain.named_parameters() if value.grad is not None]
    assert names == [name for name, value in padded.named_parameters() if value.grad is not None]
    for name in names:
        a, b = plain.get_parameter(name).grad, padded.get_parameter(name).grad
        assert float((a - b).norm()) <= 1e-6 * float(a.norm()) + 1e-9, name
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(padded.state_dict()[name], value, msg=name)


@needs_bf16
def test_what_is_added_is_zero():
    network, seen = padded_hrnet().train(), []
    for module in network.modules():
        if isinstance(module, PaddedBatchNorm2d) and module.num_features in (18, 36):
            module.register_forward_hook(lambda module, x, y: seen.append((module, y)))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 2, 3, 64, 64))
    assert len(seen) > 60
    for module, y in seen:
        assert y.shape[1] == {18: 24, 36: 40}[module.num_features]
        assert not y[:, module.num_features :].any()
        assert y[:, : module.num_features].any()


def test_in_float32_maps_stay_as_they_are():
    network = padded_hrnet().eval()
    images, shapes = torch.randn(1, 2, 3, 64, 64), set()
    for module in network.modules():
        if isinstance(module, PaddedConv2d):
            module.register_forward_hook(lambda _, x, y: shapes.add(y.shape[1]))
    network(images)
    assert {18, 36} <= shapes and not {24, 40} & shapes


@pytest.mark.parametrize("head", ["fcn", "pspnet", "deeplabv3plus"])
def test_predictions_folded_and_fused_are_the_same(always, head):
    network = small_hrnet(head)
    with torch.no_grad():
        for module in network.modules():  # statistics and factors as of a trained network
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    images = torch.randn(1, 2, 3, 96, 64)
    with torch.no_grad():
        want = network.eval()(images)
        padded = pad_channels(copy.deepcopy(network), network.padded)
        folded = pad_channels(fold_batch_norm(padded, padded.traced), network.padded)
        for changed in (padded, folded, fuse(folded, network.traced, network.padded)):
            got = changed(images)
            for a, b in zip(got[:2], want[:2], strict=True):
                assert float((a - b).norm() / b.norm()) < 1e-3


def test_a_folded_copy_knows_nothing_of_it():
    network = padded_hrnet()
    folded = fold_batch_norm(network, network.traced)
    assert not any(isinstance(m, (PaddedConv2d, PaddedBatchNorm2d)) for m in folded.modules())


@pytest.mark.parametrize("backbone", ["resnet18", "hrnet_w18_v1"])
def test_networks_that_need_none_stay_as_they_are(backbone):
    network = build_network("fcn", backbone, num_classes=6)
    pad_channels(network, network.padded)
    assert not any(isinstance(m, (PaddedConv2d, PaddedBatchNorm2d)) for m in network.modules())
