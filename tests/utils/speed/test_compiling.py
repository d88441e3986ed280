"""Blocks compiled one shape at a time: the numbers of the network as it is."""

import copy

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn
from torch._dynamo.testing import CompileCounter

from helpers.arithmetic import SHARE, relative_error
from models.build import build_network
from utils.speed.compiling import compile_blocks
from utils.speed.folding import fold_batch_norm


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_blocks_of_one_shape_are_compiled_once():
    torch.manual_seed(0)
    network = build_network("fcn", "hrnet_w18_v1", num_classes=6, dropout=0).train()
    compiled, counter = copy.deepcopy(network), CompileCounter()
    assert compile_blocks(compiled, backend=counter)
    images = torch.randn(2, 2, 3, 64, 64)
    for _ in range(2):
        want, got = network(images), compiled(images)
        torch.testing.assert_close(got.semantic, want.semantic)
        torch.testing.assert_close(got.change, want.change)
    got.semantic.mean().backward()
    # 19 blocks: bottlenecks with and without a convolution beside, basic ones of four widths
    assert 4 <= counter.frame_count <= 7


def test_a_network_of_many_shapes_is_compiled_to_the_last(monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    widths = range(8, 20)
    network, counter = (
        nn.Sequential(*(BasicBlock(width, width) for width in widths)),
        CompileCounter(),
    )
    assert compile_blocks(network, backend=counter)
    for block, width in zip(network, widths, strict=True):
        for side in (8, 12):  # each size by itself, too
            block(torch.randn(2, width, side, side))
    assert counter.frame_count == 2 * len(widths)


def test_weights_keep_their_names_and_copies_are_plain():
    network = build_network("fcn", "resnet18", num_classes=6).eval()
    compiled = copy.deepcopy(network)
    assert compile_blocks(compiled, backend="eager")
    assert list(compiled.state_dict()) == list(network.state_dict())
    images = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        folded = fold_batch_norm(compiled, compiled.traced)
        assert relative_error(folded(images).change, network(images).change) < SHARE


def test_other_networks_have_no_blocks():
    assert not compile_blocks(build_network("fcn", "mobilenetv3_large_100", num_classes=6))
