"""Which speed-ups the doors apply, by device and options; test_gpu.py shows that they work."""

import pytest
import torch
from torch import nn

from models.build import build_network
from utils import distributed, speed
from utils.speed.batch_norm import WideBatchNorm2d
from utils.speed.fusion import FusedConv

USUAL = {"compiled": False, "recomputed": False, "replayed": True, "sync_bn": True}


@pytest.fixture
def applied_to(monkeypatch):
    """applied_to(device, world, backbone, **options) -> what was done to the network, in order."""

    def applied(device="cuda", world=1, backbone="resnet18", **options) -> list[str]:
        done = []
        monkeypatch.setattr(distributed, "world", lambda: world)
        monkeypatch.setattr(speed, "pad_channels", lambda *_: done.append("padded"))
        monkeypatch.setattr(speed, "Graphed", lambda *_: done.append("replayed"))
        monkeypatch.setattr(torch, "compile", lambda network: done.append("all compiled"))
        monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: done.append("blocks compiled"))
        network = build_network("fcn", backbone, num_classes=6)
        monkeypatch.setattr(speed, "device_of", lambda network: torch.device(device))
        speed.for_training(network, lambda: torch.zeros(1), None, **USUAL | options)
        if any(type(module) is WideBatchNorm2d for module in network.modules()):
            done.append("widened")
        return list(dict.fromkeys(done))

    return applied


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["padded", "replayed", "widened"]),
        ({"replayed": False}, ["widened"]),
        ({"recomputed": True}, ["widened"]),
        ({"compiled": True}, ["padded", "blocks compiled", "replayed"]),
        ({"compiled": True, "replayed": False}, ["padded", "blocks compiled"]),
        ({"compiled": True, "backbone": "mobilenetv3_large_100"}, ["padded", "all compiled"]),
        ({"world": 2}, ["widened"]),
        ({"world": 2, "compiled": True}, ["blocks compiled"]),
        ({"world": 2, "compiled": True, "sync_bn": False}, ["padded", "blocks compiled"]),
        ({"device": "cpu"}, ["widened"]),
        ({"device": "cpu", "compiled": True}, ["blocks compiled"]),
    ],
)
def test_what_is_done_fits_the_device_and_the_options(applied_to, options, expected):
    assert applied_to(**options) == expected


def test_a_network_that_predicts_is_fused_unless_an_exporter_traces_it():
    network = build_network("fcn", "resnet18", num_classes=6)

    def kinds(**options) -> set[type]:
        return {type(module) for module in speed.for_prediction(network, **options).modules()}

    assert FusedConv in kinds() and nn.BatchNorm2d not in kinds()
    assert FusedConv not in kinds(fused=False) and nn.BatchNorm2d not in kinds(fused=False)
    assert network.training and nn.BatchNorm2d in {type(module) for module in network.modules()}
