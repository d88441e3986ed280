import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.plain_reference import Plain, random_state
from models import BACKBONES
from models.backbones import build_backbone, has_output_stride
from models.pretrained import find_pretrained, load_pretrained

HRNETS = [name for name, entry in BACKBONES.items() if entry.high_resolution]


def shapes_of(state):
    return {key: (tuple(value.shape), value.dtype) for key, value in state.items()}


@torch.no_grad()
def features(backbone, images):
    return backbone.eval()(images)


def make_images(bands=3, size=64):
    return torch.randn(2, bands, size, size, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------- contract


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_declares_the_channels_and_strides_it_gives(name):
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
    size = 224 if name == "swin_tiny" else 128
    maps = backbone(torch.empty(1, 3, size, size, device="meta"))
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [size // m.shape[2] for m in maps] == backbone.strides
    assert backbone.strides == sorted(backbone.strides)
    merged = backbone.merge(maps)
    assert merged.shape[1] == backbone.merged_channels
    assert size // merged.shape[2] == backbone.merged_stride


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("resnet18", [64, 64, 128, 256, 512], [2, 4, 8, 16, 32]),
        ("resnet50", [64, 256, 512, 1024, 2048], [2, 4, 8, 16, 32]),
        ("hrnet_w18", [18, 36, 72, 144], [4, 8, 16, 32]),
        ("convnext_tiny", [96, 192, 384, 768], [4, 8, 16, 32]),
    ],
)
def test_channels_and_strides_known_from_the_papers(name, channels, strides):
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert (backbone.channels, backbone.strides) == (channels, strides)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("hrnet_w18", 270),
        ("hrnet_w18_v1", 240),
        ("hrnet_w18_v2", 270),
        ("hrnet_w30", 450),
        ("hrnet_w32", 480),
        ("hrnet_w40", 600),
        ("hrnet_w44", 660),
        ("hrnet_w48", 720),
        ("hrnet_w64", 960),
    ],
)
def test_joined_hrnet_branches_have_the_published_channels(name, channels):
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert backbone.merged_channels == channels and backbone.merged_stride == 4


@pytest.mark.parametrize("name", HRNETS)
def test_hrnets_upsample_bilinearly_with_aligned_corners(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
    modules = [m for m in backbone.modules() if isinstance(m, nn.Upsample)]
    assert modules and all(m.mode == "bilinear" and m.align_corners is True for m in modules)
    assert name != "hrnet_w18" or len(modules) == 31


def test_hrnet_starts_with_usual_batch_norms_and_fine_tunes_with_the_published_ones():
    backbone = build_backbone("hrnet_w18_v1")
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.momentum for m in norms} == {0.1}
    backbone.keep_statistics()
    assert {m.momentum for m in norms} == {0.01}


@pytest.mark.parametrize("name", ["hrnet_w18", "hrnet_w18_v1"])
def test_hrnet_computes_what_a_plain_reading_of_it_does(name):
    backbone = build_backbone(name)
    state = random_state(shapes_of(backbone.body.state_dict()))
    backbone.body.load_state_dict(state)
    images = make_images(size=64)
    maps = features(backbone, images)
    for ours, plain in zip(maps, Plain(state).hrnet(images), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
    plain = Plain(state).merged_hrnet(images)
    ours = backbone.merge(maps)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
    assert plain.std() > 0.1  # the comparison sees something


def test_the_same_weights_upsampled_by_nearest_would_differ():
    backbone = build_backbone("hrnet_w18_v1")
    state = random_state(shapes_of(backbone.body.state_dict()))
    backbone.body.load_state_dict(state)
    right = features(backbone, make_images())[0]
    for module in backbone.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "nearest", None
    wrong = features(backbone, make_images())[0]
    assert (right - wrong).abs().mean() > 0.01 * right.abs().mean()


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", "resnext50", "seresnext50", "convnext_tiny"])
def test_output_stride(name, stride):
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=stride).eval()
    assert backbone.strides[-1] == stride and has_output_stride(name, stride)
    maps = backbone(torch.empty(1, 3, 64, 64, device="meta"))
    assert maps[-1].shape[-1] == 64 // stride


def test_a_dilated_resnet_has_the_weights_and_maps_of_torchvisions():
    from torchvision.models import resnet50
    from torchvision.models._utils import IntermediateLayerGetter

    reference = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    body = IntermediateLayerGetter(reference, {f"layer{i}": f"layer{i}" for i in (1, 2, 3, 4)})
    state = random_state(shapes_of(body.state_dict()))
    body.load_state_dict(state)
    backbone = build_backbone("resnet50", output_stride=8)
    backbone.body.load_state_dict(state)
    images = make_images()
    with torch.no_grad():
        expected = list(body.eval()(images).values())
    for ours, plain in zip(features(backbone, images)[1:], expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_a_backbone_without_that_stride_says_so():
    assert not has_output_stride("swin_tiny", 8)
    with pytest.raises(ValueError, match=r"--backbone='swin_tiny'.*stride 8.*--output-stride"):
        build_backbone("swin_tiny", output_stride=8)


@pytest.mark.parametrize("bands", [1, 4, 12])
@pytest.mark.parametrize("name", ["hrnet_w18_v1", "resnet18", "mobilenetv3_large_100"])
def test_any_number_of_bands(name, bands):
    backbone = build_backbone(name, in_channels=bands)
    assert len(features(backbone, make_images(bands))) == len(backbone.channels)


def test_any_timm_pyramid_works_by_its_name():
    backbone = build_backbone("convnext_atto")
    assert "convnext_atto" not in BACKBONES
    assert [m.shape[1] for m in features(backbone, make_images())] == backbone.channels


@pytest.mark.parametrize(
    ("wrong", "meant"), [("hrnet_w81", "hrnet_w18"), ("resnet_50", "resnet50"), ("swintiny", "swi")]
)
def test_an_unknown_name_is_an_error_with_a_suggestion(wrong, meant):
    with pytest.raises(ValueError, match=f"--backbone='{wrong}'.*Did you mean .*{meant}"):
        build_backbone(wrong)


def test_a_name_like_nothing_lists_the_choices():
    with pytest.raises(ValueError, match=r"--backbone='qqqqqqqq'.*hrnet_w18.*resnet50"):
        build_backbone("qqqqqqqq")


def test_a_model_without_a_pyramid_is_an_error(monkeypatch):
    def create_model(name, pretrained=False, **options):
        raise RuntimeError(f"features_only not implemented for {name}")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ValueError, match="--backbone='mixer_s32_224' gives no feature pyramid"):
        build_backbone("mixer_s32_224")


@pytest.mark.parametrize(
    "failure",
    [OSError("no route to host"), RuntimeError("no pretrained weights exist"), KeyError("etag")],
)
def test_a_failing_download_is_an_error_with_the_remedy(monkeypatch, failure):
    asked = []

    def create_model(name, pretrained=False, **options):
        asked.append(pretrained)
        raise failure

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(OSError, match=r"(?s)resnet18.*data/pretrained_models/resnet18\.pth.*FILE"):
        build_backbone("resnet18", pretrained=True)
    assert asked == [True]


def test_without_pretrained_nothing_is_downloaded(monkeypatch):
    create_model, asked = timm.create_model, []

    def watched(name, pretrained=False, **options):
        asked.append(pretrained)
        return create_model(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", watched)
    build_backbone("hrnet_w18_v1")
    assert asked == [False]


# ------------------------------------------------------------------- local ImageNet files


def test_pretrained_files_are_found_by_our_name_then_timms(tmp_path):
    assert find_pretrained("resnext50", tmp_path) is None
    timms = tmp_path / "resnext50_32x4d.pth"
    timms.touch()
    assert find_pretrained("resnext50", tmp_path) == timms
    ours = tmp_path / "resnext50.safetensors"
    ours.touch()
    assert find_pretrained("resnext50", tmp_path) == ours
    assert find_pretrained("resnet50", tmp_path) is None
    assert find_pretrained("resnext50") != ours  # elsewhere by default


def test_the_default_folder_is_the_published_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data" / "pretrained_models" / "hrnet_w18.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_pretrained("hrnet_w18").resolve() == path


@pytest.fixture(scope="module")
def hrnet_file(tmp_path_factory):
    """An official classification file: the branches, and a classifier that no one needs."""
    model = timm.create_model("hrnet_w18_small")
    state = random_state(shapes_of(model.state_dict()))
    assert any(k.startswith("incre_modules.") for k in state) and "classifier.weight" in state
    path = tmp_path_factory.mktemp("weights") / "hrnet_w18_v1.pth"
    torch.save(state, path)
    return path, state


def test_an_official_hrnet_file_loads(hrnet_file):
    path, state = hrnet_file
    backbone = build_backbone("hrnet_w18_v1")
    load_pretrained(backbone, path)
    ours = features(backbone, make_images())
    for got, plain in zip(ours, Plain(state).hrnet(make_images()), strict=True):
        torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("wrapper", ["state_dict", "module.", "both"])
def test_wrapped_files_load(hrnet_file, tmp_path, wrapper):
    _, state = hrnet_file
    wrapped = dict(state)
    if wrapper != "state_dict":
        wrapped = {f"module.{k}": v for k, v in wrapped.items()}
    if wrapper != "module.":
        wrapped = {"state_dict": wrapped, "epoch": 100}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    backbone = build_backbone("hrnet_w18_v1")
    load_pretrained(backbone, tmp_path / "wrapped.pth")
    own = backbone.body.state_dict()
    assert all(torch.equal(own[k], state[k]) for k in own)


def test_a_torchvision_file_loads(tmp_path):
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter

    model = resnet18(weights=None).eval()
    model.load_state_dict(random_state(shapes_of(model.state_dict())))
    assert "fc.weight" in model.state_dict()
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18")
    load_pretrained(backbone, tmp_path / "resnet18.pth")
    layers = IntermediateLayerGetter(model, {"layer4": "deep"})
    with torch.no_grad():
        expected = layers(make_images())["deep"]
    torch.testing.assert_close(features(backbone, make_images())[-1], expected)


def test_a_file_from_before_batches_were_counted_loads(tmp_path):
    from torchvision.models import resnet18

    state = random_state(shapes_of(resnet18(weights=None).state_dict()))
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    backbone = build_backbone("resnet18")
    load_pretrained(backbone, tmp_path / "old.pth")
    assert torch.equal(backbone.body.state_dict()["bn1.running_var"], state["bn1.running_var"])


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_large_100"])
def test_a_timm_safetensors_file_loads(tmp_path, name):
    model = timm.create_model(name).eval()
    state = random_state(shapes_of(model.state_dict()))
    model.load_state_dict(state)
    save_file(state, tmp_path / "model.safetensors")
    backbone = build_backbone(name)
    load_pretrained(backbone, tmp_path / "model.safetensors")
    ours = {k.replace(".", "_"): v for k, v in backbone.body.state_dict().items()}
    theirs = {k.replace(".", "_"): v for k, v in state.items()}
    assert len(ours) > 50 and all(torch.equal(ours[k], theirs[k]) for k in ours)
    if name == "convnext_atto":
        with torch.no_grad():
            expected = model.forward_features(make_images())
        torch.testing.assert_close(features(backbone, make_images())[-1], expected)


@pytest.mark.parametrize(
    ("bands", "order", "factor"),
    [
        (4, [0, 1, 2, 0], 3 / 4),  # red again as the fourth, all scaled to the same sum
        (6, [0, 1, 2, 0, 1, 2], 3 / 6),
    ],
)
def test_the_first_convolution_is_adapted_to_more_bands(hrnet_file, bands, order, factor):
    path, state = hrnet_file
    backbone = build_backbone("hrnet_w18_v1", in_channels=bands)
    load_pretrained(backbone, path)
    expected = state["conv1.weight"][:, order] * factor
    torch.testing.assert_close(backbone.body.state_dict()["conv1.weight"], expected)


def test_the_first_convolution_is_summed_for_one_band(hrnet_file):
    path, state = hrnet_file
    backbone = build_backbone("hrnet_w18_v1", in_channels=1)
    load_pretrained(backbone, path)
    expected = state["conv1.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(backbone.body.state_dict()["conv1.weight"], expected)


def test_the_file_of_another_backbone_is_an_error_that_lists_keys(hrnet_file):
    path, _ = hrnet_file
    with pytest.raises(ValueError, match=r"--pretrained.*hrnet_w18_v1\.pth.*layer1\.1\.conv1"):
        load_pretrained(build_backbone("resnet18"), path)


def test_the_file_of_another_width_is_an_error_that_lists_shapes(hrnet_file):
    path, _ = hrnet_file
    with pytest.raises(ValueError, match=r"--pretrained.*\(32,\), should be \(64,\)"):
        load_pretrained(build_backbone("hrnet_w18_v2"), path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_pretrained(build_backbone("hrnet_w18_v1"), tmp_path / "nowhere.pth")


def test_a_broken_safetensors_file_is_an_error(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}")
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        load_pretrained(build_backbone("hrnet_w18_v1"), path)


def test_asking_for_an_output_stride_draws_no_random_numbers():
    has_output_stride.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert has_output_stride("resnet18", 8)  # builds one
    assert torch.equal(torch.rand(3), expected)
