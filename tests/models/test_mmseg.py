"""The networks of mmsegmentation: their parts against plain ones, their trunk, their start."""

import pytest
import torch
from torch import nn

from helpers.plain_land_cover import PlainLandCover, mmseg_layout, mmseg_plan
from helpers.plain_reference import noise, random_state, random_weights
from models.backbones import build_backbone
from models.build import build_network
from models.mmseg import AuxiliaryHead, MMSegPSPHead, MMSegPSPNet, SeparableASPPHead
from models.pretrained import load_pretrained

K = 8
NAMES = ("mmseg_pspnet", "mmseg_deeplabv3plus")


def build(name, backbone=None, **options):
    torch.manual_seed(0)
    return build_network(name, backbone, num_classes=K, task="land_cover", **options)


def on_meta(name, backbone=None, **options):
    with torch.device("meta"):
        return build(name, backbone, **options)


# ------------------------------------------------------------------- trunk


@pytest.mark.parametrize("stride", [None, 8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_the_trunk_has_mmsegs_strides_and_contracted_dilations(name, stride):
    backbone = on_meta(name, output_stride=stride).backbone
    assert backbone.timm_name == "resnet101c"
    plan = mmseg_plan(stride or 8)
    expected = [2, 4, 4] if stride != 16 else [1, 2, 2]  # spec, 2.3
    assert plan[3][1] == expected and plan[2][1][:3] == ([1, 2, 2] if stride != 16 else [1, 1, 1])
    for i, (strides, dilations) in enumerate(plan, start=1):
        layer = getattr(backbone.body, f"layer{i}")
        assert [b.conv2.dilation[0] for b in layer] == dilations
        assert [b.conv2.padding[0] for b in layer] == dilations
        assert [b.conv2.stride[0] for b in layer] == strides


def test_the_stem_has_three_convolutions():
    body = on_meta("mmseg_pspnet", in_channels=4).backbone.body
    convolutions = [m for m in body.conv1 if isinstance(m, nn.Conv2d)]
    shapes = [(c.in_channels, c.out_channels, c.kernel_size, c.stride[0]) for c in convolutions]
    assert shapes == [(4, 32, (3, 3), 2), (32, 32, (3, 3), 1), (32, 64, (3, 3), 1)]


@torch.no_grad()
def test_imagenet_weights_under_mmsegs_names_load(tmp_path):
    layout = {
        k.removeprefix("backbone."): v
        for k, v in mmseg_layout(pspnet=True).items()
        if k.startswith("backbone.")
    }
    state = random_state(layout)
    classifier = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save({"state_dict": {**state, **classifier}, "meta": {}}, tmp_path / "resnet101c.pth")
    backbone = build_backbone("resnet101c", output_stride=8).eval()
    load_pretrained(backbone, tmp_path / "resnet101c.pth")
    net = PlainLandCover({f"backbone.{k}": v for k, v in state.items()})
    images = noise(1, 3, 48, 40)
    for ours, theirs in zip(backbone(images)[1:], net.mmseg_maps(images, 8), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------- heads


@torch.no_grad()
def test_pyramid_pooling_computes_what_a_plain_one_does():
    head, x = random_weights(MMSegPSPHead([4, 24], [4, 8], K)), noise(2, 24, 13, 11)
    expected = PlainLandCover.of(head, "decode_head").mmseg_psp(x)
    torch.testing.assert_close(head([x]), expected)
    assert expected.shape == (2, K, 13, 11) and expected.std() > 0.05


@torch.no_grad()
def test_the_separable_pyramid_computes_what_a_plain_one_does():
    head = random_weights(SeparableASPPHead([6, 24], [4, 8], K))
    fine, deep = noise(2, 6, 26, 22), noise(2, 24, 13, 11, seed=2)
    expected = PlainLandCover.of(head, "decode_head").mmseg_aspp(deep, fine)
    torch.testing.assert_close(head([fine, deep]), expected)
    assert expected.shape == (2, K, 26, 22) and expected.std() > 0.02


@torch.no_grad()
def test_the_auxiliary_head_computes_what_a_plain_one_does():
    head, x = random_weights(AuxiliaryHead(12, K)), noise(2, 12, 9, 7)
    torch.testing.assert_close(
        head(x), PlainLandCover.of(head, "auxiliary_head").mmseg_auxiliary(x)
    )


def test_the_heads_have_the_published_widths():
    shapes = {k: tuple(v.shape) for k, v in on_meta("mmseg_pspnet").state_dict().items()}
    assert shapes["decode_head.psp_modules.3.1.conv.weight"] == (512, 2048, 1, 1)
    assert shapes["decode_head.bottleneck.conv.weight"] == (512, 4096, 3, 3)
    assert shapes["decode_head.conv_seg.bias"] == (K,)
    assert shapes["auxiliary_head.convs.0.conv.weight"] == (256, 1024, 3, 3)
    shapes = {k: tuple(v.shape) for k, v in on_meta("mmseg_deeplabv3plus").state_dict().items()}
    assert shapes["decode_head.bottleneck.conv.weight"] == (512, 2560, 3, 3)
    assert shapes["decode_head.c1_bottleneck.conv.weight"] == (48, 256, 1, 1)
    depthwise = "decode_head.sep_bottleneck.0.depthwise_conv.conv.weight"
    assert shapes[depthwise] == (560, 1, 3, 3)


def test_the_separable_branches_are_dilated_by_12_24_and_36():
    head = on_meta("mmseg_deeplabv3plus", output_stride=16).decode_head
    rates = [m.depthwise_conv.conv.dilation for m in head.aspp_modules[1:]]
    assert rates == [(12, 12), (24, 24), (36, 36)]


@pytest.mark.parametrize("name", NAMES)
def test_the_auxiliary_head_speaks_in_training_only(name):
    network, images = build(name, "resnet18", lightweight=True), noise(2, 1, 3, 40, 48)
    logits = network.train()(images)
    assert logits.semantic.shape == logits.aux_semantic.shape == (2, 1, K, 40, 48)
    assert logits.aux_semantic.dtype == torch.float32
    assert network.eval()(images).aux_semantic is None


@pytest.mark.parametrize("name", NAMES)
def test_the_auxiliary_head_reads_the_deepest_map_but_one(name):
    assert on_meta(name).auxiliary_head.convs[0].conv.in_channels == 1024
    assert on_meta(name, "convnext_tiny").auxiliary_head.convs[0].conv.in_channels == 384


@pytest.mark.parametrize("name", NAMES)
def test_classifiers_start_small_and_drop_whole_channels(name):
    network = build(name, "resnet18")
    for head in (network.decode_head, network.auxiliary_head):
        assert isinstance(head.dropout, nn.Dropout2d) and head.dropout.p == 0.1
        assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert (head.conv_seg.bias == 0).all()
        for conv in [m for m in head.modules() if isinstance(m, nn.Conv2d)]:
            fan_out = conv.out_channels // conv.groups * conv.kernel_size[0] ** 2
            if conv is not head.conv_seg and conv.groups == 1:
                assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_classes_and_only_classes():
    with torch.device("meta"):
        backbone = build_backbone("resnet18")
    for options in ({"num_classes": 0}, {"num_classes": K, "with_change": True}):
        with pytest.raises(ValueError, match="MMSegPSPNet has a semantic head only"):
            MMSegPSPNet(backbone, **options)
