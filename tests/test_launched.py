"""In which way train.py runs its network: decided here, shown to work in test_gpu.py."""

import argparse

import pytest
import torch
from torch import nn

import train
from models import build_network
from utils import distributed
from utils.batch_norm import WideBatchNorm2d

USUAL = {"compile": False, "cuda_graphs": True, "accumulate": 1, "amp": "bf16", "sync_bn": True}
USUAL["grad_checkpointing"] = False


@pytest.fixture
def launch(monkeypatch):
    """launch(device, world, backbone, **options) -> what was done to the network, in order."""

    def launched(device="cuda", world=1, backbone="resnet18", **options) -> list[str]:
        done = []
        monkeypatch.setattr(distributed, "world", lambda: world)
        monkeypatch.setattr(train, "pad_channels", lambda network: done.append("padded"))
        monkeypatch.setattr(train, "pick_amp", lambda *_: None)
        monkeypatch.setattr(train, "Graphed", lambda network, *_: done.append("replayed"))
        monkeypatch.setattr(torch, "compile", lambda network: done.append("all compiled"))
        monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: done.append("blocks compiled"))
        network = build_network("fcn", backbone, num_classes=6)
        args = argparse.Namespace(**USUAL | options)
        train.launched(args, network, lambda: torch.zeros(1), torch.device(device))
        if any(type(module) is WideBatchNorm2d for module in network.modules()):
            done.append("widened")
        return list(dict.fromkeys(done))

    return launched


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["padded", "replayed", "widened"]),
        ({"cuda_graphs": False}, ["widened"]),
        ({"accumulate": 2}, ["widened"]),
        ({"grad_checkpointing": True}, ["widened"]),
        ({"compile": True}, ["padded", "blocks compiled", "replayed"]),
        ({"compile": True, "accumulate": 2}, ["padded", "blocks compiled"]),
        ({"compile": True, "backbone": "mobilenetv3_large_100"}, ["padded", "all compiled"]),
        ({"world": 2}, ["widened"]),
        ({"world": 2, "compile": True}, ["blocks compiled"]),
        ({"world": 2, "compile": True, "sync_bn": False}, ["padded", "blocks compiled"]),
        ({"device": "cpu"}, ["widened"]),
        ({"device": "cpu", "compile": True}, ["blocks compiled"]),
    ],
)
def test_what_is_done_fits_the_device_and_the_options(launch, options, expected):
    assert launch(**options) == expected
