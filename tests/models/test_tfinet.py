"""TFINet: its parts against plain ones, its published layout, its start."""

from functools import partial

import pytest
import torch
from torch import nn

from helpers.plain_change import PlainResNet, published_tfinet
from helpers.plain_reference import published_layout, random_state, random_weights
from models.build import build_network
from models.checkpoints import load_matching, load_network, load_strictly
from models.initialise import init_tfinet
from models.published import PUBLISHED_FORMATS, Published, their_key, to_ours
from models.tfinet import ClassDecoder, FeatureInteraction, LocalContext, ResidualConv, TFINet
from utils.schemes import SECOND

NAME = "tfinet_resnet18"
LAYOUT = PUBLISHED_FORMATS["tfinet"]
UNREAD = ["neck.alpha", "resnet.fc.bias", "resnet.fc.weight"]


def images(batch=1, height=64, width=64, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2, 3, height, width, generator=generator)


@pytest.fixture(scope="module")
def published():
    state = random_state(published_layout(NAME), seed=1)
    state["neck.beta"].fill_(0.8)
    return state


def load(tmp_path, state):
    torch.save(state, tmp_path / "a.pth")
    described = Published("tfinet", "resnet18")
    return load_network(tmp_path / "a.pth", published=described, scheme=SECOND)[0]


def on_meta(backbone="resnet18", **options):
    with torch.device("meta"):
        return build_network("tfinet", backbone, num_classes=6, **options)


# ------------------------------------------------------------------- parts


@torch.no_grad()
def test_a_residual_conv_adds_what_its_first_convolution_gave():
    block, x = random_weights(ResidualConv(5, 7)), torch.randn(2, 5, 6, 9)
    torch.testing.assert_close(block(x), PlainResNet.of(block, "b").conv_block(x, "b"))


@torch.no_grad()
def test_local_context_takes_means_of_what_lies_inside_the_map():
    block, x = random_weights(LocalContext(32)), torch.randn(2, 32, 4, 5)
    torch.testing.assert_close(block(x), PlainResNet.of(block, "b").local_context(x, "b"))


@torch.no_grad()
def test_the_gate_multiplies_the_features_of_both_dates():
    block, x = random_weights(FeatureInteraction(32)), torch.randn(2, 2, 32, 4, 5)
    block.beta.fill_(0.7)
    features, gate = block(x)
    one, other, expected = PlainResNet.of(block, "neck").interaction(x[:, 0], x[:, 1])
    torch.testing.assert_close(features, torch.stack([one, other], dim=1))
    torch.testing.assert_close(gate, expected)
    assert gate.std() > 0.01


@torch.no_grad()
def test_a_closed_gate_leaves_what_the_shared_block_gives_of_nothing():
    # tanh(0) = 0: both dates get the same addition, whatever they show
    block, x = random_weights(FeatureInteraction(32)), torch.randn(1, 2, 32, 4, 5)
    block.gen_mask[1].weight.zero_()
    block.gen_mask[1].bias.zero_()
    added = block(x)[0] - x
    torch.testing.assert_close(added[:, 0], added[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(added, (block(x * 3)[0] - x * 3), rtol=0, atol=1e-5)


@torch.no_grad()
def test_class_logits_leave_a_relu_and_grow_eightfold():
    decoder, x = random_weights(ClassDecoder(16, 6)), torch.randn(2, 16, 3, 4)
    logits = decoder(x)
    assert logits.shape == (2, 6, 24, 32) and logits.min() >= 0 and logits.max() > 0
    torch.testing.assert_close(logits, PlainResNet.of(decoder, "classifier").classify(x))


def test_any_number_of_channels_fits():
    block = random_weights(FeatureInteraction(7))
    features, gate = block(torch.randn(1, 2, 7, 3, 3))
    assert features.shape == (1, 2, 7, 3, 3) and gate.shape == (1, 1, 3, 3)


# ------------------------------------------------------------------- backbone


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_trunk_has_stride_8_and_no_dilation(backbone):
    network = on_meta(backbone)
    assert network.backbone.strides == [2, 4, 8, 8, 8]
    convolutions = [m for m in network.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert {m.dilation for m in convolutions} == {(1, 1)}
    assert {m.padding for m in convolutions if m.kernel_size == (3, 3)} == {(1, 1)}
    dilated = build_network("fcn", "resnet50", num_classes=6).backbone  # others keep theirs
    assert {m.dilation for m in dilated.modules() if isinstance(m, nn.Conv2d)} != {(1, 1)}


@torch.no_grad()
def test_the_trunk_computes_what_the_published_one_does(published, tmp_path):
    backbone, x = load(tmp_path, published).backbone, images()[:, 0]
    expected = PlainResNet(published).tfinet_encoder(x)
    got = backbone.merge(backbone(x))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert got.shape == (1, 512, 8, 8)


# ------------------------------------------------------------------- published


def test_the_published_layout_loads_to_the_last_entry(tmp_path, published):
    network = load(tmp_path, published)
    own = network.state_dict()
    assert len(published) == 277 and len(own) == 277 - len(UNREAD)
    turned = {"aggregation.head.0.weight", "aggregation.head.0.bias"}
    for key, value in own.items():
        theirs = their_key(key, LAYOUT)
        sign = -1 if theirs in turned else 1
        assert torch.equal(value, sign * published[theirs]), key
    parameters = sum(p.numel() for p in network.parameters())
    assert round((parameters + 1000 * 512 + 1000 + 1) / 1e6, 2) == 25.88  # with fc and alpha


def test_published_weights_compute_what_the_published_forward_does(tmp_path, published):
    tiles = images(2, 64, 80)
    with torch.no_grad():
        logits = load(tmp_path, published)(tiles)
        one, other, unchanged, gate = published_tfinet(published, tiles[:, 0], tiles[:, 1])
    scale = one.abs().max().item()
    torch.testing.assert_close(logits.semantic[:, 0], one, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(logits.semantic[:, 1], other, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(logits.change.sigmoid(), 1 - unchanged, rtol=0, atol=1e-5)
    assert gate.shape == (2, 1, 8, 10) and logits.aux_change.shape == (2, 64, 80)
    gate = nn.functional.interpolate(gate, (64, 80), mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits.aux_change, -gate.squeeze(1), rtol=0, atol=1e-4)
    assert one.std() > 0.01 and unchanged.std() > 1e-4 and gate.std() > 0.01


def test_published_weights_sure_of_no_change_predict_none(tmp_path, published):
    state = {k: v.clone() for k, v in published.items()}
    for key, value in (("aggregation.head.0", 5.0), ("neck.gen_mask.1", 3.0)):
        state[f"{key}.weight"].zero_()
        state[f"{key}.bias"].fill_(value)
    with torch.no_grad():
        logits = load(tmp_path, state)(images())
    torch.testing.assert_close(logits.change, torch.full((1, 64, 64), -5.0))
    torch.testing.assert_close(logits.aux_change, torch.full((1, 64, 64), -3.0))


def test_every_missing_entry_is_named_as_published(published):
    network, state = on_meta(), to_ours(published, LAYOUT)
    shown = partial(their_key, state_format=LAYOUT)
    for key in state:
        rest = {k: v for k, v in state.items() if k != key}
        with pytest.raises(ValueError, match="missing") as error:
            load_strictly(network, rest, "a.pth", shown)
        assert f"missing (1): {shown(key)}." in str(error.value)
        assert shown(key) in published


@pytest.mark.parametrize("key", ["resnet.layer5.0.weight", "neck.gamma", "classifier.extra"])
def test_an_extra_entry_is_named(tmp_path, published, key):
    with pytest.raises(ValueError, match="unknown") as error:
        load(tmp_path, {**published, key: torch.zeros(1)})
    assert key in str(error.value)


def test_pretrain_from_a_published_file_turns_its_sign(tmp_path, published):
    loaded = load(tmp_path, published)
    network = build_network("tfinet", "resnet18", num_classes=6)
    message = load_matching(network, tmp_path / "a.pth")
    assert "loaded 274 of 274" in message
    torch.testing.assert_close(network.state_dict(), loaded.state_dict(), rtol=0, atol=0)
    torch.save(network.state_dict(), tmp_path / "own.pth")  # our own names stay as they are
    load_matching(network, tmp_path / "own.pth")
    torch.testing.assert_close(network.state_dict(), loaded.state_dict(), rtol=0, atol=0)


# ------------------------------------------------------------------- sizes and refusals


@torch.no_grad()
def test_sides_that_do_not_fit_are_padded_and_cut_back():
    network = random_weights(build_network("tfinet", "resnet18", num_classes=3, lightweight=True))
    tiles = images(1, 50, 60)
    padded = nn.functional.pad(tiles.flatten(0, 1), (0, 4, 0, 6), mode="replicate")
    got, expected = network(tiles), network(padded.unflatten(0, (1, 2)))
    for name in ("semantic", "change", "aux_change"):
        x = getattr(got, name)
        assert x.shape[-2:] == (50, 60)
        torch.testing.assert_close(x, getattr(expected, name)[..., :50, :60])


@pytest.mark.parametrize("task", ["binary_change", "land_cover"])
def test_both_heads_are_needed(task):
    with pytest.raises(ValueError, match=f"--model tfinet is for semantic_change, not {task}"):
        build_network("tfinet", "resnet18", num_classes=6, task=task)


def test_a_network_without_one_of_the_heads_is_refused():
    backbone = on_meta().backbone
    for options in ({"num_classes": 0}, {"num_classes": 6, "with_change": False}):
        with pytest.raises(ValueError, match="semantic and a change head"):
            TFINet(backbone, **options)


# ------------------------------------------------------------------- start


@pytest.mark.parametrize("keep_backbone", [True, False])
def test_the_published_start(keep_backbone):
    torch.manual_seed(0)
    network = build_network("tfinet", "resnet18", num_classes=6)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    init_tfinet(network, keep_backbone)
    kept = {k for k, v in network.state_dict().items() if torch.equal(v, before[k])}
    trunk = {k for k in before if k.startswith("backbone.")}
    assert (trunk <= kept) == keep_backbone
    changed = [m for n, m in network.named_modules() if n[:8] != "backbone" or not keep_backbone]
    weights = [m.weight for m in changed if isinstance(m, nn.Conv2d)]
    scales = [m.weight for m in changed if isinstance(m, nn.BatchNorm2d)]
    biases = [m.bias for m in changed if getattr(m, "bias", None) is not None]
    weights, scales, biases = (
        torch.cat([x.flatten() for x in xs]) for xs in (weights, scales, biases)
    )
    assert weights.mean().abs() < 1e-4 and abs(weights.std() - 0.02) < 1e-4
    assert abs(scales.mean() - 1) < 2e-3 and abs(scales.std() - 0.02) < 2e-3
    assert (biases == 0).all()
    assert network.neck.beta == 1
