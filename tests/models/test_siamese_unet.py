"""The siamese UNet: its parts against plain ones, its sizes, its symmetry."""

import pytest
import torch
from torch import nn

from helpers.plain_change import PlainResNet
from helpers.plain_reference import random_weights
from models.build import build_network
from models.siamese_unet import ConcatSCSE, JoinConv, SiameseUNet, UpsampleConv

SMALL = "resnet18"


def build(backbone=SMALL, symmetric=None, **others):
    torch.manual_seed(0)
    options = {} if symmetric is None else {"symmetric": symmetric}
    return build_network(
        "siamese_unet", backbone, num_classes=0, task="binary_change", options=options, **others
    )


def on_meta(*args, **options):
    with torch.device("meta"):
        return build(*args, **options)


def images(batch=1, height=64, width=64):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 2, 3, height, width, generator=generator)


# ------------------------------------------------------------------- parts


@torch.no_grad()
def test_scse_puts_both_gated_maps_side_by_side():
    block, x = random_weights(ConcatSCSE(6)), torch.randn(2, 6, 4, 5)
    got = block(x)
    torch.testing.assert_close(got, PlainResNet.of(block, "b").concat_scse(x, "b"))
    ratios = got / x.repeat(1, 2, 1, 1)  # the gates: one a channel, then one a pixel
    torch.testing.assert_close(ratios[:, :6], ratios[:, :6, :1, :1].expand(2, 6, 4, 5))
    torch.testing.assert_close(ratios[:, 6:], ratios[:, 6:7].expand(2, 6, 4, 5))


@torch.no_grad()
def test_a_decoder_stage_repeats_pixels_before_it_convolves():
    block, x = random_weights(UpsampleConv(3, 5, lightweight=False)), torch.randn(2, 3, 4, 5)
    got = block(x)
    assert got.shape == (2, 5, 8, 10)
    torch.testing.assert_close(got, PlainResNet.of(block, "b").upsample_conv(x, "b"))


@torch.no_grad()
def test_a_bottleneck_without_attention_is_a_convolution_and_relu():
    block, x = (
        random_weights(JoinConv(3, 5, attention=False, lightweight=False)),
        torch.randn(2, 3, 4, 5),
    )
    torch.testing.assert_close(block(x), PlainResNet.of(block, "b").conv(x, "b.seq.0").relu())


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [True, False])
def test_one_decoder_step_joins_the_maps_of_both_dates(symmetric):
    network = random_weights(build(symmetric=symmetric))
    maps = [
        torch.randn(2, 2, c, 64 // s, 64 // s)
        for c, s in zip(network.backbone.channels, network.backbone.strides, strict=True)
    ]
    joined = []
    network.bottlenecks[0].register_forward_hook(lambda m, args, y: joined.append(args[0]))
    network.decode_features(maps)
    one, other = maps[-1].unbind(1)
    start = (one - other).abs() if symmetric else other  # as published: date 2 alone
    x = PlainResNet.of(network, "n").upsample_conv(start, "n.decoder_stages.3")
    one, other = maps[-2].unbind(1)
    if symmetric:
        one, other = (one - other).abs(), (one + other) / 2
    torch.testing.assert_close(joined[0], torch.cat([x, one, other], dim=1))


# ------------------------------------------------------------------- the published sizes


@pytest.mark.parametrize(
    ("backbone", "millions", "channels"),
    [
        ("seresnext50", 39.63, [64, 256, 512, 1024, 2048]),
        ("dpn92", 54.7, [64, 336, 704, 1552, 2688]),
        ("resnext101", 97.4, [64, 256, 512, 1024, 2048]),
        ("densenet161", 46.4, [96, 384, 768, 2112, 2208]),
    ],
)
def test_networks_are_as_large_as_the_published_ones(backbone, millions, channels):
    network = on_meta(backbone, symmetric=False)
    assert network.backbone.channels == channels
    assert network.backbone.strides == [2, 4, 8, 16, 32]
    count = sum(p.numel() for p in network.parameters())
    more = 4 * (network.final[0].in_channels + 1)  # the published numbers are of five outputs
    assert round((count + more) / 1e6, 2 if millions == 39.63 else 1) == millions
    symmetric = on_meta(backbone)  # differs in what it reads, not in its weights
    assert {k: v.shape for k, v in symmetric.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }


def test_the_published_channels_of_the_decoder():
    state = on_meta("seresnext50").state_dict()
    shapes = {k: tuple(v.shape[:2]) for k, v in state.items() if v.ndim == 4 and "body" not in k}
    assert [shapes[f"decoder_stages.{i}.layer.1.weight"] for i in (3, 2, 1, 0)] == [
        (256, 2048),
        (192, 512),
        (92, 384),
        (48, 184),
    ]
    assert [shapes[f"bottlenecks.{i}.seq.0.weight"] for i in range(4)] == [
        (256, 2304),
        (192, 1216),
        (92, 604),
        (48, 176),
    ]
    assert shapes["last_upsample.layer.1.weight"] == (24, 96)
    assert shapes["final.0.weight"] == (1, 24)


@pytest.mark.parametrize("backbone", ["dpn92", "resnext101", "densenet161"])
def test_plain_decoders_have_neither_attention_nor_a_last_convolution(backbone):
    network = on_meta(backbone)
    assert not any(isinstance(m, ConcatSCSE) for m in network.modules())
    assert list(network.last_upsample.parameters()) == []
    assert (network.last_upsample.mode, network.last_upsample.align_corners) == ("bilinear", True)


@pytest.mark.parametrize("backbone", ["dpn68", "resnet18", "hrnet_w18_v1", "densenet121"])
def test_other_pyramids_get_the_default_decoder(backbone):
    network = build(backbone).eval()
    with torch.no_grad():
        change = network(images(1, 64, 96)).change
    assert change.shape == (1, 64, 96) and change.std() > 0


# ------------------------------------------------------------------- behaviour


@torch.no_grad()
def test_swapped_dates_give_the_same_change_if_symmetric():
    tiles = images(2)
    network = random_weights(build())
    change, swapped = network(tiles).change, network(tiles.flip(1)).change
    torch.testing.assert_close(swapped, change, rtol=1e-5, atol=1e-6)
    maps = network.backbone(tiles.flatten(0, 1))
    maps = [x.unflatten(0, (2, 2)) for x in maps]
    assert torch.equal(
        network.decode_features([x.flip(1) for x in maps]), network.decode_features(maps)
    )
    published = build(symmetric=False)
    published.load_state_dict(network.state_dict())
    change, swapped = published.eval()(tiles).change, published(tiles.flip(1)).change
    assert (swapped - change).abs().max() > 1e-3


def test_symmetric_is_the_default():
    assert build().symmetric and SiameseUNet.options["symmetric"][0] is True


@torch.no_grad()
def test_sides_that_do_not_fit_are_padded_and_cut_back():
    network, tiles = random_weights(build()), images(1, 50, 60)
    padded = nn.functional.pad(tiles.flatten(0, 1), (0, 4, 0, 14), mode="replicate")
    got, expected = network(tiles).change, network(padded.unflatten(0, (1, 2))).change
    assert got.shape == (1, 50, 60)
    torch.testing.assert_close(got, expected[..., :50, :60])


def test_dropout_takes_whole_channels_before_the_classifier():
    assert isinstance(build().dropout, nn.Dropout2d) and build().dropout.p == 0.1
    assert build(dropout=0.0).dropout.p == 0.0


@pytest.mark.parametrize("task", ["semantic_change", "land_cover"])
def test_other_tasks_are_refused(task):
    with pytest.raises(ValueError, match=f"--model siamese_unet is for binary_.*not {task}"):
        build_network("siamese_unet", SMALL, num_classes=6, task=task)


def test_other_heads_are_refused():
    backbone = on_meta().backbone
    for options in ({"num_classes": 6}, {"num_classes": 0, "with_change": False}):
        with pytest.raises(ValueError, match="change head only"):
            SiameseUNet(backbone, **options)


def test_maps_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match=r"strides 2, 4, 8, 16, 16\. Leave out --output-stride"):
        on_meta("resnet50", output_stride=16)


def test_an_unknown_value_of_an_option_is_an_error_with_the_choices():
    with pytest.raises(ValueError, match="--symmetric no is not known; choose from True, False"):
        build(symmetric="no")
