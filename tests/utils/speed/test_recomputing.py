"""Blocks that keep only their input: the numbers of the network as it is, in less memory."""

import copy

import pytest
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from helpers.arithmetic import BF16
from models.build import build_network
from utils.precision import autocast
from utils.speed.batch_norm import widen_batch_norms
from utils.speed.folding import fold_batch_norm
from utils.speed.recomputing import recompute_blocks, statistics_kept

CPU = torch.device("cpu")


def networks(backbone: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    network = build_network("fcn", backbone, num_classes=6, dropout=0).train()
    network = widen_batch_norms(network.to(memory_format=torch.channels_last))
    return network, recompute_blocks(copy.deepcopy(network))


def step(network: nn.Module, images: torch.Tensor, amp: torch.dtype | None = None) -> None:
    """One forward and backward pass."""
    with autocast(CPU, amp):
        logits = network(images)
    (logits.semantic.square().mean() + logits.change.mean()).backward()


def bytes_kept(network: nn.Module, images: torch.Tensor) -> int:
    """Of maps, between the forward and the backward pass: what layers save and blocks get."""
    kept = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    for module in network.modules():
        if isinstance(module, (BasicBlock, Bottleneck)):
            module.register_forward_pre_hook(lambda _, inputs: (keep(inputs[0]),))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        network(images)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "hrnet_w18_v1"])
@pytest.mark.parametrize("amp", [None, BF16])
def test_gradients_and_statistics_are_the_same(backbone, amp):
    plain, recomputed = networks(backbone)
    for seed in range(2):
        torch.manual_seed(seed)
        images = torch.randn(2, 2, 3, 64, 64)
        for network in (plain, recomputed):
            step(network, images, amp)
    for (name, want), got in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=0, atol=0, msg=name)
    for (name, want), got in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0, msg=name)
    counts = [m.num_batches_tracked for m in recomputed.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(count == 2 for count in counts)


@pytest.mark.parametrize(("backbone", "most"), [("resnet50", 0.4), ("hrnet_w18", 0.5)])
def test_less_is_kept(backbone, most):
    plain, recomputed = networks(backbone)
    images = torch.randn(1, 2, 3, 128, 128)
    assert bytes_kept(recomputed, images) < most * bytes_kept(plain, images)


def test_weights_keep_their_names_and_copies_fold():
    plain, recomputed = (network.eval() for network in networks("resnet18"))
    assert list(recomputed.state_dict()) == list(plain.state_dict())
    images = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        want, folded = (
            fold_batch_norm(plain, plain.traced)(images).change,
            fold_batch_norm(recomputed, recomputed.traced),
        )
        torch.testing.assert_close(folded(images).change, want)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_statistics_count_again_afterwards():
    norm = nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 4) + 1
    with pytest.raises(RuntimeError, match="stopped"), statistics_kept(norm):
        norm(x)
        raise RuntimeError("stopped")
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))
    norm(x)
    assert norm.num_batches_tracked == 1


def test_a_network_without_such_blocks_is_refused():
    with pytest.raises(ValueError, match=r"--grad-checkpointing .* leave it out, and"):
        recompute_blocks(build_network("fcn", "mobilenetv3_large_100", num_classes=6))
