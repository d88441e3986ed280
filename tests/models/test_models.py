import re

import pytest
import torch
from torch import nn

from models import BACKBONES, NETWORKS
from models.build import backbone_of, build_network, default_output_stride
from models.siamese import SiameseNetwork
from training.losses import Loss
from utils.structures import TASKS, Logits, Sample

K = 6
FOUR_BACKBONES = ("hrnet_w18", "resnet50", "seresnext50", "convnext_tiny")
FIVE_NETWORKS = ("fcn", "pspnet", "deeplabv3plus", "unet", "unetplusplus")  # take any of the four
OTHERS_BACKBONES = ("hrnet_w18", "resnet50")  # of the networks made for one task
ODD = {"height": 40, "width": 52}  # no multiples of 32
SMALL = "hrnet_w18_v1"
KINDS = NETWORKS
BY_DIFFERENCE = [name for name, kind in KINDS.items() if issubclass(kind, SiameseNetwork)]
WITH_BACKBONE = [name for name, entry in NETWORKS.items() if entry.usual_backbone]
LAND_COVER = [name for name, kind in KINDS.items() if "land_cover" in kind.tasks()]
MMSEG = [name for name in NETWORKS if name.startswith("mmseg_")]  # with an auxiliary head
NO_DROPOUT = ("tfinet", "plain_unet")
FUSED = [name for name, kind in KINDS.items() if "fusion" in kind.options]
SHAPES = {  # of 2 tiles of 64 x 64 pixels
    "semantic_change": [(2, 2, K, 64, 64), (2, 64, 64)],
    "binary_change": [None, (2, 64, 64)],
    "land_cover": [(2, 1, K, 64, 64), None],
}


def with_backbones(names):
    """Each of the five with four backbones, others with two, or alone if it takes none."""

    def backbones(name):
        if name not in WITH_BACKBONE:
            return (None,)
        if name == "siamese_unet":
            return ("hrnet_w18", "seresnext50")  # the published one
        return FOUR_BACKBONES if name in FIVE_NETWORKS else OTHERS_BACKBONES

    return [(name, backbone) for name in names for backbone in backbones(name)]


def build(name, backbone=SMALL, **options):
    """For the first task that the network is made for, unless `task` names another."""
    torch.manual_seed(0)
    if name in NETWORKS:
        options.setdefault("task", KINDS[name].tasks()[0])
        backbone = backbone if name in WITH_BACKBONE else None
    return build_network(name, backbone, num_classes=K, **{"lightweight": True, **options})


def shapes_of(logits):
    return [None if x is None else tuple(x.shape) for x in logits]


def assert_logits_close(got, expected, atol):
    for one, other in zip(got, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=atol)


def make_batch(batch=2, dates=2, bands=3, height=64, width=64):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, dates, bands, height, width, generator=generator)
    semantic = torch.randint(K, (batch, dates, height, width), generator=generator)
    change = torch.randint(2, (batch, height, width), generator=generator)
    return Sample([str(i) for i in range(batch)], images, semantic, change)


def total_loss(network, batch):
    """All that a network gives is in it: the auxiliary classes too, where it has them."""
    logits = network(batch.images)
    total = Loss()(logits, batch).total
    if logits.aux_semantic is not None:
        classes = Logits(logits.aux_semantic)
        total = total + 0.4 * Loss()(classes, batch).total
    return total


def check_descent(network, batch):
    """Every parameter gets a finite gradient, and a small step against it lowers the loss."""
    network.train()
    before = total_loss(network, batch)
    before.backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert without == []
    gradients = [p.grad for p in network.parameters()]
    assert all(g.isfinite().all() for g in gradients)
    # to first order the loss falls by step * |gradient|^2: aim at a thousandth of it
    step = 1e-3 * before.item() / sum(g.square().sum().item() for g in gradients)
    with torch.no_grad():
        for p in network.parameters():
            p.sub_(step * p.grad)
        after = total_loss(network, batch)
    assert after < before


@torch.no_grad()
def predict(network, images):
    return network.eval()(images)


def heads(name):
    """What a network gives for its first task: classes, change."""
    task = KINDS[name].tasks()[0]
    return task != "binary_change", task != "land_cover"


@pytest.mark.parametrize(("name", "backbone"), with_backbones(NETWORKS))
def test_every_network_learns_and_predicts_with_every_backbone(name, backbone):
    network = build(name, backbone, dropout=0.0)
    classes, change = heads(name)
    check_descent(network, make_batch(height=32, width=64))
    logits = predict(network, make_batch(1, **ODD).images)
    assert shapes_of(logits[:2]) == [
        (1, 2, K, 40, 52) if classes else None,
        (1, 40, 52) if change else None,
    ]
    assert all(x.isfinite().all() for x in logits if x is not None)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [(n, b) for n, b in with_backbones(LAND_COVER) if b in (None, *OTHERS_BACKBONES)],
)
def test_every_network_of_classes_predicts_one_date_with_every_backbone(name, backbone):
    network = build(name, backbone, task="land_cover", in_channels=4)
    logits = predict(network, make_batch(1, dates=1, bands=4, height=40, width=50).images)
    assert shapes_of(logits) == [(1, 1, K, 40, 50), None, None, None]
    assert logits.semantic.isfinite().all()


@pytest.mark.parametrize("name", LAND_COVER)
def test_every_network_of_classes_learns_from_one_date(name):
    network = build(name, dropout=0.0, task="land_cover", in_channels=4)
    check_descent(network, make_batch(2, dates=1, bands=4))


@pytest.mark.parametrize("name", LAND_COVER)
def test_without_a_change_head_dates_do_not_touch_each_other(name):
    network, images = build(name, task="land_cover"), make_batch().images
    together = predict(network, images).semantic
    alone = predict(network, images[:, 1:]).semantic
    torch.testing.assert_close(together[:, 1:], alone, rtol=0, atol=1e-4)


def test_a_transformer_learns_and_predicts():
    network = build("pspnet", "swin_tiny", dropout=0.0)
    for module in network.modules():  # timm's Swin skips blocks at random, which hides the descent
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    check_descent(network, make_batch(height=32, width=64))
    logits = predict(network, make_batch(1, **ODD).images)
    assert logits.semantic.shape == (1, 2, K, 40, 52) and logits.change.shape == (1, 40, 52)


@pytest.mark.parametrize("lightweight", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_contract_of_a_network(name, lightweight):
    network = build(name, lightweight=lightweight)
    assert isinstance(network, nn.Module)
    for height, width in ((64, 64), (33, 70)):
        logits = predict(network, make_batch(2, height=height, width=width).images)
        assert isinstance(logits, Logits)
        classes, changes = heads(name)
        semantic = (2, 2, K, height, width) if classes else None
        change = (2, height, width) if changes else None
        assert shapes_of(logits) == [semantic, change, None, change if name == "tfinet" else None]
        assert {x.dtype for x in logits if x is not None} == {torch.float32}


@pytest.mark.parametrize("name", NETWORKS)
def test_lightweight_heads_are_lighter(name):
    with torch.device("meta"):
        light, full = (build(name, lightweight=value) for value in (True, False))
    count = [sum(p.numel() for p in network.parameters()) for network in (light, full)]
    assert count[0] < count[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_and_evaluation_return_the_same_but_for_auxiliary_classes(name):
    network, batch = build(name), make_batch()
    training = network.train()(batch.images)
    assert (training.aux_semantic is not None) == (name in MMSEG)
    assert [x is None for x in training._replace(aux_semantic=None)] == [
        x is None for x in predict(network, batch.images)
    ]


@pytest.mark.parametrize("name", BY_DIFFERENCE)
def test_swapped_dates_swap_the_classes_and_leave_the_change(name):
    network, images = build(name), make_batch().images
    one, other = predict(network, images), predict(network, images.flip(1))
    torch.testing.assert_close(other.change, one.change, rtol=0, atol=1e-5)
    torch.testing.assert_close(other.semantic.flip(1), one.semantic, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BY_DIFFERENCE)
def test_equal_dates_have_the_same_change_score_whatever_they_show(name):
    network = build(name)
    image = make_batch(1, dates=1).images
    scores = [predict(network, x.expand(-1, 2, -1, -1, -1)).change for x in (image, image * 2 + 1)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_of_a_batch_do_not_touch_each_other(name):
    network, images = build(name), make_batch(3).images
    together, alone = predict(network, images), predict(network, images[1:2])
    assert_logits_close([x if x is None else x[1:2] for x in together], alone, atol=1e-4)


@pytest.mark.parametrize("name", WITH_BACKBONE)
def test_both_dates_take_one_pass_of_the_encoder(name):
    network, seen = build(name), []
    network.backbone.register_forward_hook(lambda m, args, maps: seen.append(args[0].shape))
    predict(network, make_batch(3).images)
    assert seen == [(6, 3, 64, 64)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_task_has_its_heads_and_dates(name, task):
    if task not in KINDS[name].tasks():
        with pytest.raises(ValueError, match=f"--model {name} is for .*not {task}"):
            build(name, task=task)
        return
    dates = 1 if task == "land_cover" else 2
    logits = predict(build(name, task=task), make_batch(2, dates).images)
    assert shapes_of(logits[:2]) == SHAPES[task]


def test_a_task_without_a_head_has_no_weights_for_it():
    names = {
        task: {name.split(".")[0] for name, _ in build("pspnet", task=task).named_parameters()}
        for task in TASKS
    }
    assert names["semantic_change"] == names["binary_change"] | names["land_cover"]
    assert names["binary_change"] & names["land_cover"] == {"backbone"}


@pytest.mark.parametrize("dates", [1, 3])
def test_a_change_head_refuses_other_than_two_dates(dates):
    with pytest.raises(ValueError, match=f"2 dates.*{dates}"):
        build("fcn")(make_batch(1, dates).images)


@pytest.mark.parametrize("bands", [1, 4, 12])
def test_any_number_of_bands(bands):
    network = build("fcn", in_channels=bands)
    assert predict(network, make_batch(1, bands=bands).images).change.shape == (1, 64, 64)


def test_odd_sizes_are_padded_by_repeating_the_edge_and_cut_back():
    network = build("fcn")
    images = make_batch(1, height=40, width=50).images
    padded = torch.cat([images, images[..., -1:, :].expand(-1, -1, -1, 24, -1)], dim=-2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, -1, 14)], dim=-1)
    assert padded.shape[-2:] == (64, 64)
    seen = []
    network.backbone.register_forward_hook(lambda m, args, maps: seen.append(args[0]))
    got, expected = predict(network, images), predict(network, padded)
    torch.testing.assert_close(seen[0], padded.flatten(0, 1))
    torch.testing.assert_close(got.change, expected.change[..., :40, :50])
    torch.testing.assert_close(got.semantic, expected.semantic[..., :40, :50])


def test_sizes_that_fit_are_not_padded():
    network, seen = build("fcn"), []
    network.backbone.register_forward_hook(lambda m, args, maps: seen.append(args[0].shape[-2:]))
    predict(network, make_batch(1, height=32, width=96).images)
    assert seen == [(32, 96)]


# specs, 0.4: millions of parameters and entries of the state dict, lightweight heads
@pytest.mark.parametrize(
    ("name", "backbone", "millions", "entries"),
    [
        ("pspnet", "hrnet_w18", 9.7, 1882),
        ("pspnet", "hrnet_w40", 46.2, None),
        ("pspnet", "hrnet_w48", 66.3, None),
        ("pspnet", "hrnet_w64", 117.3, None),
        ("fcn", "hrnet_w18", 9.6, 1858),
        ("fcn", "hrnet_w48", 65.6, None),
    ],
)
def test_networks_are_as_large_as_the_published_ones(name, backbone, millions, entries):
    with torch.device("meta"):
        network = build(name, backbone)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions
    assert entries is None or len(network.state_dict()) == entries


def test_unetplusplus_has_the_published_nodes():
    with torch.device("meta"):
        network = build_network(
            "unetplusplus", "resnext50", num_classes=0, task="binary_change", in_channels=1
        )
    state = network.state_dict()
    joined, widths = {}, {}
    for key, value in state.items():
        if found := re.search(r"x_(\d)_(\d)\.conv1\.0\.weight$", key):
            joined[found.groups()] = value.shape[1]
        if found := re.search(r"x_(\d)_(\d)\.conv2\.0\.weight$", key):
            widths[found.groups()] = value.shape[0]
    order = ["00", "11", "22", "33", "01", "12", "23", "02", "13", "03", "04"]
    order = [tuple(name) for name in order]
    expected = [3072, 1536, 768, 320, 1280, 1024, 384, 896, 448, 320, 32]
    assert joined == dict(zip(order, expected, strict=True))
    expected = [256, 512, 256, 64, 128, 256, 64, 64, 64, 32, 16]
    assert widths == dict(zip(order, expected, strict=True))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 48.45
    assert len(state) == 452


def test_unetplusplus_starts_as_published():
    torch.manual_seed(0)
    network = build("unetplusplus", task="binary_change", lightweight=False)
    head = network.change_head
    for conv in [m for m in head.blocks.modules() if isinstance(m, nn.Conv2d)]:
        # uniform in +-sqrt(6 / fan_in)
        bound = (6 / (conv.in_channels * 9)) ** 0.5
        assert 0.98 * bound < conv.weight.abs().max() <= bound
    bound = (6 / (9 * head.classifier.in_channels + 9)) ** 0.5  # fan in plus fan out
    assert 0.8 * bound < head.classifier.weight.abs().max() <= bound
    assert head.classifier.bias == 0


# ------------------------------------------------------------------- fusion


def build_fused(name, fusion, **options):
    task = options.pop("task", "binary_change")
    return build(name, task=task, options={"fusion": fusion}, **options)


@pytest.mark.parametrize("fusion", ["features", "difference", "concat"])
@pytest.mark.parametrize("name", FUSED)
def test_every_fusion_learns_and_predicts(name, fusion):
    network = build_fused(name, fusion, dropout=0.0)
    check_descent(network, make_batch(height=32, width=64))
    logits = predict(network, make_batch(1, **ODD).images)
    assert logits.semantic is None and logits.change.shape == (1, 40, 52)


@pytest.mark.parametrize("name", FUSED)
def test_features_is_the_default_fusion(name):
    images = make_batch().images
    one, other = build(name), build_fused(name, "features", task="semantic_change")
    assert_logits_close(predict(one, images), predict(other, images), atol=0)
    assert KINDS[name].options["fusion"][0] == "features"


@pytest.mark.parametrize("name", FUSED)
def test_the_difference_is_that_of_the_images_with_its_sign(name):
    network, images, seen = build_fused(name, "difference"), make_batch().images, []
    network.backbone.register_forward_hook(lambda m, args, maps: seen.append(args[0]))
    predict(network, images)
    assert torch.equal(seen[0], images[:, 0] - images[:, 1])
    predict(network, images.flip(1))
    assert torch.equal(seen[1], -seen[0])


@pytest.mark.parametrize("name", FUSED)
def test_concat_reads_the_bands_of_date_1_then_of_date_2(name):
    network, images, seen = build_fused(name, "concat", in_channels=4), make_batch(bands=4), []
    images = images.images
    network.backbone.register_forward_hook(lambda m, args, maps: seen.append(args[0]))
    predict(network, images)
    assert seen[0].shape == (2, 8, 64, 64)
    assert torch.equal(seen[0], torch.cat([images[:, 0], images[:, 1]], dim=1))


@pytest.mark.parametrize("task", ["semantic_change", "land_cover"])
@pytest.mark.parametrize("fusion", ["difference", "concat"])
@pytest.mark.parametrize("name", FUSED)
def test_fused_images_have_no_classes(name, fusion, task):
    error = f"--model {name} --fusion {fusion} is for binary_change, not {task}"
    with pytest.raises(ValueError, match=error):
        build_fused(name, fusion, task=task)


def test_options_are_checked_by_name_and_value():
    with pytest.raises(ValueError, match=r"--model fcn has no --fusion.*unet, unetplusplus"):
        build_fused("fcn", "concat")
    with pytest.raises(ValueError, match=r"--fusion sum is not known.*features, difference"):
        build_fused("unet", "sum")


# ------------------------------------------------------------------- details


def test_unet_blocks_have_the_published_channels():
    # ResNet-50 maps 64, 256, 512, 1024, 2048: blocks to c3, c2, c1, c1/2, c1/4
    with torch.device("meta"):
        network = build("unet", "resnet50", lightweight=False)
    found = [
        tuple(value.shape[:2])
        for key, value in network.state_dict().items()
        if key.startswith("change_head") and re.search(r"conv1\.0\.weight$", key)
    ]
    assert found == [
        (1024, 2048 + 1024),
        (512, 1024 + 512),
        (256, 512 + 256),
        (128, 256 + 64),
        (64, 128),
    ]


@pytest.mark.parametrize(
    ("name", "backbone", "stride"),
    [
        ("pspnet", "resnet50", 8),
        ("fcn", "resnet18", 8),
        ("deeplabv3plus", "seresnext50", 8),
        ("pspnet", "hrnet_w18", None),
        ("fcn", "swin_tiny", None),  # timm cannot dilate it
        ("unet", "resnet50", None),
        ("unetplusplus", "resnet50", None),
        ("mmseg_pspnet", "resnet101c", 8),
        ("dfc_deeplabv3plus", "resnet101", 16),
        ("plain_unet", None, None),
    ],
)
def test_networks_that_read_one_map_ask_for_their_stride_where_it_can_be_had(
    name, backbone, stride
):
    assert default_output_stride(name, backbone) == stride


def test_a_network_is_built_on_its_usual_backbone_unless_told_otherwise():
    usual = {name: backbone_of(name) for name in ("fcn", "dfc_deeplabv3plus", "mmseg_pspnet")}
    assert list(usual.values()) == ["hrnet_w18", "resnet101", "resnet101c"]
    assert backbone_of("mmseg_pspnet", "resnet18") == "resnet18"
    assert backbone_of("plain_unet") is None
    with pytest.raises(ValueError, match="plain_unet has no backbone, got --backbone='resnet18'"):
        backbone_of("plain_unet", "resnet18")
    assert set(NETWORKS) - set(WITH_BACKBONE) == {"plain_unet"}


def test_a_chosen_output_stride_reaches_the_backbone():
    with torch.device("meta"):
        strides = [build("fcn", "resnet18", output_stride=s).backbone.strides for s in (8, 16, 32)]
    assert [s[-1] for s in strides] == [8, 16, 32]


def test_deeplab_joins_the_map_of_stride_4():
    with torch.device("meta"):
        network = build("deeplabv3plus", "resnet50")
    reduce = [v for k, v in network.state_dict().items() if "reduce.0.weight" in k]
    assert [tuple(v.shape) for v in reduce] == [(48, 256, 1, 1)]  # layer1, not the stem


def test_dropout_is_off_where_asked_and_everywhere():
    for name in NETWORKS:
        with torch.device("meta"):
            network = build(name, dropout=0.0)
        rates = [m.p for m in network.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))]
        assert set(rates) == (set() if name in NO_DROPOUT else {0.0}), name


def test_default_dropout_is_the_published_one():
    with torch.device("meta"):
        network = build("deeplabv3plus")
    rates = [m.p for m in network.modules() if isinstance(m, nn.Dropout2d)]
    assert rates == [0.5]  # of the ASPP
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.1}


def test_the_same_seed_builds_the_same_network():
    one, other = build("pspnet"), build("pspnet")
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "segformer"}, "--model='segformer'.*pspnet"),
        ({"task": "change"}, "task='change'.*land_cover"),
        ({"backbone": "hrnet_w81"}, "--backbone='hrnet_w81'.*hrnet_w18"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_choices(options, error):
    with pytest.raises(ValueError, match=error):
        build(options.pop("name", "fcn"), options.pop("backbone", SMALL), **options)


def test_a_network_needs_a_head():
    with pytest.raises(ValueError, match="head"):
        build_network("fcn", SMALL, num_classes=0, task="land_cover")


def test_every_backbone_of_the_table_is_known_to_timm():
    import timm

    assert all(timm.is_model(entry.timm_name) for entry in BACKBONES.values())


@pytest.mark.parametrize(("name", "backbone"), [("unet", "convnext_atto"), ("fcn", "swin_tiny")])
def test_backbones_of_patches_see_images_of_any_size(name, backbone):
    network = build(name, backbone, task="land_cover")
    for height, width in ((24, 40), (41, 50)):
        images = make_batch(1, dates=1, height=height, width=width).images
        logits = predict(network, images)
        assert shapes_of(logits)[0] == (1, 1, K, height, width)
        seen = images.clone()
        seen[..., -1, -1] += 10  # the corner that would be no whole patch
        assert (predict(network, seen).semantic - logits.semantic).abs().max() > 0
