"""Batch norm folded into convolutions."""

import pytest
import torch
from torch import nn

from helpers.arithmetic import SHARE, relative_error
from helpers.networks import random_norms
from models import NETWORKS
from models.build import build_network
from utils.distributed import CpuSyncBatchNorm
from utils.speed.folding import fold_batch_norm


def batch_norms_run(network: nn.Module, images: torch.Tensor) -> int:
    """How many batch norms one forward pass goes through."""
    ran = []
    hooks = [
        module.register_forward_hook(lambda *_: ran.append(1))
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return len(ran)


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("lightweight", [False, True])
def test_folding_changes_no_prediction(model, lightweight):
    torch.manual_seed(0)
    entry = NETWORKS[model]
    backbone = "hrnet_w18_v1" if entry.usual_backbone else None
    network = build_network(
        model, backbone, num_classes=6, task=entry.tasks()[0], lightweight=lightweight
    )
    network = random_norms(network)
    folded, images = fold_batch_norm(network, network.traced), torch.randn(1, 2, 3, 64, 96)
    with torch.inference_mode():
        for got, want in zip(folded(images), network(images), strict=True):
            if want is None:
                assert got is None
                continue
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@pytest.mark.parametrize("backbone", ["hrnet_w18_v1", "resnet18", "mobilenetv3_large_100"])
def test_no_batch_norm_is_left_to_run(backbone):
    network = random_norms(build_network("pspnet", backbone, num_classes=6, lightweight=True))
    images = torch.randn(1, 2, 3, 64, 64)
    depthwise = 2  # one inside each separable convolution, folded too
    assert batch_norms_run(network, images) > depthwise
    assert batch_norms_run(fold_batch_norm(network, network.traced), images) == 0


@pytest.mark.parametrize(
    ("model", "left"), [("plain_unet", 0), ("dfc_deeplabv3plus", 2), ("mmseg_deeplabv3plus", 0)]
)
@pytest.mark.parametrize("lightweight", [False, True])
def test_batch_norms_under_published_names_are_folded_too(model, left, lightweight):
    backbone = "resnet18" if NETWORKS[model].usual_backbone else None
    network = build_network(
        model, backbone, num_classes=6, task="land_cover", lightweight=lightweight
    )
    images = torch.randn(1, 1, 3, 64, 64)
    assert batch_norms_run(random_norms(network), images) > 15
    assert batch_norms_run(fold_batch_norm(network, network.traced), images) == left


def test_batch_norms_of_several_processes_are_folded_too():
    network = random_norms(build_network("fcn", "resnet18", num_classes=6))
    images = torch.randn(1, 2, 3, 64, 64)
    with torch.inference_mode():
        want = network(images)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = CpuSyncBatchNorm
        folded = fold_batch_norm(network, network.traced)
        assert relative_error(folded(images).change, want.change) < SHARE
    assert batch_norms_run(folded, images) == 0


def test_a_backbone_that_cannot_be_traced_still_predicts_the_same():
    network = random_norms(build_network("fcn", "swin_tiny", num_classes=6))
    images = torch.randn(1, 2, 3, 64, 64)
    with torch.inference_mode():
        want, got = network(images), fold_batch_norm(network, network.traced)(images)
    assert relative_error(got.semantic, want.semantic) < SHARE


def test_the_original_network_is_left_alone_and_may_be_training():
    network = build_network("fcn", "resnet18", num_classes=6).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    folded = fold_batch_norm(network, network.traced)
    assert network.training and not folded.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_folding_takes_any_size_afterwards():
    network = random_norms(build_network("unet", "hrnet_w18_v1", num_classes=6))
    folded = fold_batch_norm(network, network.traced)
    for size in ((64, 64), (72, 100)):
        images = torch.randn(1, 2, 3, *size)
        with torch.inference_mode():
            assert folded(images).change.shape == (1, *size)


class Twice(nn.Module):
    """A convolution that two read, its batch norm and an addition."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class Again(nn.Module):
    """A convolution that is run twice, each time with a batch norm of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn2(self.conv(self.bn1(self.conv(x))))


@pytest.mark.parametrize("body", [Twice, Again])
def test_a_convolution_read_or_run_twice_keeps_its_batch_norm(body):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body()

        def forward(self, x):
            return self.body(x)

    network, x = random_norms(Network()), torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(fold_batch_norm(network, ["body"])(x), network(x))


def test_what_is_done_to_the_copy_does_not_reach_the_original():
    network = random_norms(build_network("pspnet", "hrnet_w18_v1", num_classes=6, lightweight=True))
    before = {k: (v.data_ptr(), v.stride(), v.clone()) for k, v in network.state_dict().items()}
    folded = fold_batch_norm(network, network.traced)
    classifier = "change_head.conv5.5.weight"  # without a batch norm, so not copied
    assert folded.get_parameter(classifier).data_ptr() == before[classifier][0]
    folded.to(memory_format=torch.channels_last)
    after = network.state_dict()
    for name, (place, stride, value) in before.items():
        assert (after[name].data_ptr(), after[name].stride()) == (place, stride), name
        assert torch.equal(after[name], value), name
    assert not {id(p) for p in folded.parameters()} & {id(p) for p in network.parameters()}


def test_a_backbone_whose_features_come_by_hooks_keeps_them():
    network = random_norms(build_network("fcn", "xception41", num_classes=6))
    images = torch.randn(1, 2, 3, 64, 64)
    with torch.inference_mode():
        want, got = network(images), fold_batch_norm(network, network.traced)(images)
    assert relative_error(got.semantic, want.semantic) < SHARE
