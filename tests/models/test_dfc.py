"""The networks of the DFC2020 baseline: their parts against plain ones, their sizes and start."""

import pytest
import torch
from torch import nn

from helpers.plain_land_cover import PlainLandCover, dfc_plan, published_dfc_unet
from helpers.plain_reference import noise, random_weights
from models.backbones import build_backbone
from models.build import build_network, default_output_stride
from models.dfc import DFCASPP, Decoder, DFCDeepLabV3Plus
from models.plain_unet import PlainUNet, Up
from training.optim import build_optimizer, set_lr

K = 8


def on_meta(name, backbone=None, **options):
    options = {"num_classes": K, "task": "land_cover", "in_channels": 12, **options}
    with torch.device("meta"):
        return build_network(name, backbone, **options)


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


# ------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("name", "millions", "entries"), [("dfc_deeplabv3plus", 59.37, 680), ("plain_unet", 13.40, 128)]
)
def test_networks_are_as_large_as_the_published_ones(name, millions, entries):
    network = on_meta(name)
    assert round(parameters(network) / 1e6, 2) == millions
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize("bands", [2, 10, 15])
@pytest.mark.parametrize("name", ["dfc_deeplabv3plus", "plain_unet"])
def test_only_the_first_convolution_depends_on_the_bands(name, bands):
    states = [on_meta(name, in_channels=n).state_dict() for n in (bands, 12)]
    differing = [k for k, v in states[0].items() if v.shape != states[1][k].shape]
    first = {"dfc_deeplabv3plus": "backbone.body.conv1", "plain_unet": "inc.double_conv.0"}[name]
    assert differing == [f"{first}.weight"] and states[0][differing[0]].shape[1] == bands


# ------------------------------------------------------------------- DeepLabV3+


def dilations(backbone, layer: str) -> list[int]:
    return [block.conv2.dilation[0] for block in getattr(backbone.body, layer)]


@pytest.mark.parametrize("stride", [None, 8, 16])
def test_every_block_of_a_stage_is_dilated_alike_and_the_last_stage_by_a_multigrid(stride):
    backbone = on_meta("dfc_deeplabv3plus", output_stride=stride).backbone
    assert backbone.strides == ([2, 4, 8, 8, 8] if stride == 8 else [2, 4, 8, 16, 16])
    plan = dfc_plan(stride or 16)
    assert plan[3][1] == ([4, 8, 16] if stride == 8 else [2, 4, 8])  # spec, 4.2
    for i, (strides, expected) in enumerate(plan, start=1):
        layer = getattr(backbone.body, f"layer{i}")
        assert dilations(backbone, f"layer{i}") == expected
        assert all(b.conv2.padding == b.conv2.dilation for b in layer)
        assert [b.conv2.stride[0] for b in layer] == strides


def test_small_resnets_get_the_multigrid_and_other_backbones_stay_as_they_are():
    body = on_meta("dfc_deeplabv3plus", "resnet18").backbone.body
    assert [b.conv1.dilation[0] for b in body.layer4] == [2, 4]
    assert {b.conv2.dilation for b in body.layer4} == {(1, 1)}
    for name in ("hrnet_w18_v1", "convnext_tiny", "mobilenetv3_large_100"):
        stride = default_output_stride("dfc_deeplabv3plus", name)
        with torch.device("meta"):
            usual = build_backbone(name, output_stride=stride)
        own = on_meta("dfc_deeplabv3plus", name).backbone
        for one, other in zip(own.modules(), usual.modules(), strict=True):
            assert getattr(one, "dilation", None) == getattr(other, "dilation", None)


def test_the_output_stride_is_16_where_timm_has_it():
    strides = {
        name: default_output_stride("dfc_deeplabv3plus", name)
        for name in ("resnet101", "resnet18", "convnext_tiny", "hrnet_w18", "swin_tiny")
    }
    expected = {"resnet101": 16, "resnet18": 16, "convnext_tiny": 16}
    assert strides == {**expected, "hrnet_w18": None, "swin_tiny": None}


@torch.no_grad()
@pytest.mark.parametrize("stride", [8, 16])
def test_the_pyramid_computes_what_a_plain_one_does(stride):
    rates = {16: (6, 12, 18), 8: (12, 24, 36)}[stride]
    module, x = random_weights(DFCASPP(32, rates)), noise(2, 32, 20, 22)
    expected = PlainLandCover.of(module, "aspp").dfc_aspp(x, stride)
    torch.testing.assert_close(module(x), expected)
    assert expected.shape == (2, 256, 20, 22) and expected.std() > 0.05


@torch.no_grad()
def test_the_decoder_computes_what_a_plain_one_does():
    module, deep, fine = (
        random_weights(Decoder(16, K)),
        noise(2, 256, 5, 6),
        noise(2, 16, 18, 23),
    )
    expected = PlainLandCover.of(module, "decoder").dfc_decoder(deep, fine)
    torch.testing.assert_close(module(deep, fine), expected)
    assert expected.shape == (2, K, 18, 23) and expected.std() > 0.05


@pytest.mark.parametrize(("stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18))])
def test_the_rates_follow_the_output_stride(stride, rates):
    aspp = on_meta("dfc_deeplabv3plus", output_stride=stride).aspp
    branches = (aspp.aspp2, aspp.aspp3, aspp.aspp4)
    assert tuple(b.atrous_conv.dilation[0] for b in branches) == rates


def test_the_decoder_reads_layer_1():
    state = on_meta("dfc_deeplabv3plus").state_dict()
    assert state["decoder.conv1.weight"].shape == (48, 256, 1, 1)
    assert state["decoder.last_conv.0.weight"].shape == (256, 304, 3, 3)


def test_the_published_dropouts():
    network = on_meta("dfc_deeplabv3plus")
    assert network.aspp.dropout.p == 0.5
    kinds = [(i, m.p) for i, m in enumerate(network.decoder.last_conv) if hasattr(m, "p")]
    assert kinds == [(3, 0.5), (7, 0.1)]


def test_the_published_start():
    torch.manual_seed(0)
    network = build_network(
        "dfc_deeplabv3plus", "resnet18", num_classes=K, task="land_cover", in_channels=12
    )
    for part, fan in ((network.aspp, 0), (network.decoder, 0), (network.backbone, 1)):
        for conv in [m for m in part.modules() if isinstance(m, nn.Conv2d)]:
            out, inputs, side, _ = conv.weight.shape  # Kaiming: fan in below, fan out in the trunk
            expected = (2 / ((out if fan else inputs) * side * side)) ** 0.5
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
        norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms) and norms


# ------------------------------------------------------------------- U-Net


@torch.no_grad()
@pytest.mark.parametrize("size", [(12, 16), (13, 17), (14, 15)])
def test_up_pads_to_the_skip_map(size):
    module = random_weights(Up(12, 5))
    x, skip = noise(2, 8, size[0] // 2, size[1] // 2), noise(2, 4, *size)
    expected = PlainLandCover.of(module, "up").up(x, skip, "up")
    torch.testing.assert_close(module(x, skip), expected)
    assert expected.shape == (2, 5, *size)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 48), (37, 50)])
def test_the_u_net_computes_what_a_plain_one_does(size):
    network, images = random_weights(PlainUNet(3, K)), noise(2, 3, *size)
    expected = published_dfc_unet(network.state_dict(), images)
    got = network(images.unsqueeze(1)).semantic
    torch.testing.assert_close(got.squeeze(1), expected, rtol=1e-4, atol=1e-4)
    assert expected.shape == (2, K, *size) and expected.std() > 0.05


def test_the_u_net_has_no_backbone():
    for given, option in (
        ({"pretrained": True}, "--pretrained"),
        ({"output_stride": 16}, "--output-stride"),
    ):
        with pytest.raises(ValueError, match=f"plain_unet has no backbone, to which {option}"):
            on_meta("plain_unet", **given)
    with pytest.raises(ValueError, match="plain_unet has no backbone, got --backbone='resnet18'"):
        on_meta("plain_unet", "resnet18")


def test_an_optimiser_of_backbone_and_heads_takes_the_u_net():
    torch.manual_seed(0)
    network = PlainUNet(2, K)
    optimizer = build_optimizer(network, "rmsprop", lr=1e-3, weight_decay=0, head_lr_factor=10)
    (group,) = optimizer.param_groups
    assert group["lr"] == 1e-3 and len(group["params"]) == len(list(network.parameters()))
    before = network.outc.conv.weight.clone()
    network(noise(1, 1, 2, 32, 32)).semantic.sum().backward()
    set_lr(optimizer, 1e-2)
    optimizer.step()
    assert not torch.equal(network.outc.conv.weight, before)


@pytest.mark.parametrize("kind", [DFCDeepLabV3Plus, PlainUNet])
def test_classes_and_only_classes(kind):
    first = 3
    if kind is DFCDeepLabV3Plus:
        with torch.device("meta"):
            first = build_backbone("resnet18")
    for options in ({"num_classes": 0}, {"num_classes": K, "with_change": True}):
        with pytest.raises(ValueError, match=f"{kind.__name__} has a semantic head only"):
            kind(first, **options)
