"""Convolution, addition and ReLU in one pass."""

import operator

import pytest
import torch
import torch.fx
from torch import nn

from helpers.arithmetic import BF16, SHARE, relative_error
from helpers.networks import random_norms
from models import NETWORKS
from models.build import build_network
from utils.speed.folding import fold_batch_norm
from utils.speed.fusion import FusedConv, fuse


def built(model: str, backbone: str | None, lightweight: bool = True) -> nn.Module:
    torch.manual_seed(0)
    task = NETWORKS[model].tasks()[0]
    network = build_network(model, backbone, num_classes=6, task=task, lightweight=lightweight)
    return random_norms(network)


def fused_copy(network: nn.Module) -> nn.Module:
    folded = fold_batch_norm(network, network.traced).to(memory_format=torch.channels_last)
    return fuse(folded, network.traced)


class Holder(nn.Module):
    """A network with a traced part."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = torch.fx.symbolic_trace(body.eval())

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("lightweight", [False, True])
def test_fusing_changes_no_prediction(model, lightweight):
    network = built(model, "hrnet_w18_v1" if NETWORKS[model].usual_backbone else None, lightweight)
    fused, images = fused_copy(network), torch.randn(1, 2, 3, 64, 96)
    with torch.no_grad():
        for _ in range(2):  # what overwrites its inputs would show the second time
            for got, want in zip(fused(images), network(images), strict=True):
                if want is not None:
                    scale = float(want.abs().max())
                    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("backbone", ["hrnet_w18", "resnet18", "resnet50", "seresnext50"])
@pytest.mark.parametrize("amp", [None, BF16])
def test_fusing_keeps_the_features_of_a_backbone(backbone, amp):
    network = built("fcn", backbone)
    fused, images = fused_copy(network), torch.randn(2, 3, 64, 96)
    images = images.to(memory_format=torch.channels_last)
    assert any(isinstance(module, FusedConv) for module in fused.backbone.modules())
    with torch.no_grad(), torch.autocast("cpu", amp, enabled=amp is not None):
        for got, want in zip(fused.backbone(images), network.backbone(images), strict=True):
            error = (got.float() - want.float()).norm() / want.float().norm()
            assert float(error) < (3e-2 if amp else 1e-5)


def test_no_relu_and_no_addition_of_a_skip_connection_is_left_in_a_resnet():
    body = fused_copy(built("fcn", "resnet50")).backbone.body
    kinds = [type(module) for module in body.modules()]
    assert nn.ReLU not in kinds
    assert operator.add not in {node.target for node in body.graph.nodes}


def test_the_weights_are_shared_not_copied():
    network = built("fcn", "resnet18")
    traced, network = network.traced, fold_batch_norm(network, network.traced)
    before = {p.data_ptr() for p in network.parameters()}
    assert {p.data_ptr() for p in fuse(network, traced).parameters()} <= before


class OwnInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x):
        x = self.first(x)
        return self.relu(self.conv(x) + x)


class ReadLater(OwnInput):
    def forward(self, x):
        x = self.first(x)
        return self.relu(self.conv(x * 2) + x) - x


class ReadByWhatMovesBehind(OwnInput):
    """`late` is computed before the sum, but only joins it afterwards."""

    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.first(x)
        late = self.late(x)
        y = self.relu(self.conv(x * 2) + x)
        return self.relu(late + y)


class PassedOn(OwnInput):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        x = self.first(x)
        kept = self.dropout(x)
        return self.relu(self.conv(x * 2) + kept) * x


class ChangedInPlace(OwnInput):
    """A ReLU that works in place changes the map that is added later, and given back."""

    def __init__(self):
        super().__init__()
        self.in_place = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.first(x)
        h = self.in_place(x)
        return torch.cat([self.conv(h) + x, h])


class ChangedBeforeItMoves(ChangedInPlace):
    def forward(self, x):
        h = self.first(x)
        late = self.conv(h.clone())
        g = self.in_place(h)
        return late + g


class Broadcast(OwnInput):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(1, 3, 1, 1))

    def forward(self, x):
        x = self.first(x)
        pooled = self.conv(x.mean((2, 3), keepdim=True))
        return self.relu(self.conv(x) + pooled) + (self.first(x) + self.scale)


class Input(OwnInput):
    def forward(self, x):
        return self.relu(self.conv(x * 2) + x)


@pytest.mark.parametrize("kind", [OwnInput, ReadLater, ReadByWhatMovesBehind, PassedOn, Input])
def test_maps_that_are_read_again_are_not_overwritten(kind):
    torch.manual_seed(0)
    body, x = kind().eval(), torch.randn(2, 3, 8, 8)
    want, kept = body(x.clone()).detach(), x.clone()
    network = fuse(Holder(body), ["body"])
    with torch.no_grad():
        assert relative_error(network(x), want) < SHARE / 10
    assert torch.equal(x, kept)


def test_a_convolution_that_pads_otherwise_stays():
    body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    assert not any(isinstance(m, FusedConv) for m in fuse(Holder(body), ["body"]).modules())


@pytest.mark.parametrize("amp", [torch.float16, BF16])
def test_types_that_the_processor_may_lack_run_all_the_same(amp):
    network = built("pspnet", "resnet18")
    fused, images = fused_copy(network), torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", amp):
        got, want = fused(images), network(images)
    error = (got.semantic - want.semantic).norm() / want.semantic.norm()
    assert float(error) < 3e-2


def test_double_precision_is_no_limit():
    body, x = OwnInput().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    want = body(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(fuse(Holder(body), ["body"])(x), want)
