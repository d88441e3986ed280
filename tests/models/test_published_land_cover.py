"""Published land-cover networks: the DFC2020 baseline's with their args.pkl, mmsegmentation's."""

import argparse
import json
import os
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch

from helpers.plain_land_cover import (
    PlainLandCover,
    mmseg_layout,
    published_dfc_deeplab,
    published_dfc_unet,
    published_mmseg,
)
from helpers.plain_reference import published_layout, random_state
from inference.ensemble import load_ensemble
from models.build import build_network
from models.checkpoints import load_matching, load_network, load_strictly, scheme_of, trained_scheme
from models.checkpoints import main as checkpoints_main
from models.published import (
    PUBLISHED_FORMATS,
    Published,
    published_networks,
    state_dict_of,
    their_key,
    to_ours,
)
from utils.schemes import NAIC2020, dfc_scheme
from utils.state_files import read_file

TWELVE = dfc_scheme(s1=True, s2hr=True, s2mr=True, s2lr=False, savanna=False)
ENTRIES = {
    "dfc_deeplabv3plus": 680,
    "plain_unet": 128,
    "mmseg_pspnet": 676,
    "mmseg_deeplabv3plus": 730,
}
STRIDES = {  # published, or by default
    "dfc_deeplabv3plus": 16,
    "plain_unet": None,
    "mmseg_pspnet": 8,
    "mmseg_deeplabv3plus": 8,
}
BACKBONES = {"dfc_deeplabv3plus": "resnet101", "plain_unet": None}
OPTIONS = {
    "experiment_name": "deeplab_s1_s2",
    "seed": None,
    "use_s1": True,
    "use_s2hr": True,
    "use_s2mr": True,
    "use_s2lr": False,
    "no_savanna": True,
    "lr": 0.001,
    "model": "unet",
    "pretrained_backbone": True,
    "out_stride": 16,
    "dataset_val": "dfc2020_val",
    "use_gpu": True,
    "checkpoint_dir": "logs/deeplab_s1_s2/checkpoints",
    "log_dir": "logs/deeplab_s1_s2",
}


def layout_of(model: str) -> dict:
    if model.startswith("mmseg"):
        return mmseg_layout(model == "mmseg_pspnet")
    reference = {"dfc_deeplabv3plus": "dfc_deeplab_os16_in12", "plain_unet": "dfc_unet_in12"}
    return published_layout(reference[model])


@pytest.fixture(scope="module")
def state_of():
    """`state_of(model)`: a published state dict of our own making, made once."""
    made = {}

    def make(model: str) -> dict:
        if model not in made:
            made[model] = random_state(layout_of(model), seed=1)
        return made[model]

    return make


def description(model: str, output_stride: int | None = None) -> tuple[Published, object]:
    if model.startswith("mmseg"):
        return Published(model, "resnet101c", output_stride=output_stride), NAIC2020
    return Published(model, BACKBONES[model], output_stride=output_stride), TWELVE


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, state_of):
    """`loaded(model, stride)`: network and recipe of that state dict, from a file, made once."""
    path, made = tmp_path_factory.mktemp("published") / "iter_304000.pth", {}

    def load(model: str, stride: int | None):
        if (model, stride) not in made:
            state = state_of(model)
            torch.save(mmseg_file(state) if model.startswith("mmseg") else state, path)
            published, scheme = description(model, stride)
            made[model, stride] = load_network(path, published=published, scheme=scheme)
        return made[model, stride]

    return load


def on_meta(model: str):
    _, scheme = description(model)
    with torch.device("meta"):
        return build_network(
            model,
            num_classes=scheme.num_classes,
            task="land_cover",
            in_channels=len(scheme.bands),
        )


def plain_forward(model: str, state: dict, images: torch.Tensor, stride: int) -> torch.Tensor:
    if model == "dfc_deeplabv3plus":
        return published_dfc_deeplab(state, images, stride)
    if model == "plain_unet":
        return published_dfc_unet(state, images)
    return published_mmseg(state, images, stride, model == "mmseg_pspnet")[0]


# ------------------------------------------------------------------- to the last entry


@pytest.mark.parametrize("model", ENTRIES)
def test_a_published_layout_loads_to_the_last_entry(state_of, loaded, model):
    state = state_of(model)
    network, recipe = loaded(model, STRIDES[model])
    own = network.state_dict()
    assert len(state) == len(own) == ENTRIES[model]
    for key, value in own.items():
        assert torch.equal(value, state[their_key(key, PUBLISHED_FORMATS[model])]), key
    assert recipe["task"] == "land_cover" and not network.training
    assert recipe["output_stride"] == STRIDES[model]
    assert scheme_of(recipe) == description(model)[1]


@pytest.mark.parametrize(
    ("model", "stride", "size"),
    [
        ("dfc_deeplabv3plus", 16, (96, 80)),
        ("dfc_deeplabv3plus", 8, (70, 61)),
        ("plain_unet", None, (64, 55)),
        ("mmseg_pspnet", 16, (96, 80)),
        ("mmseg_pspnet", 8, (70, 61)),
        ("mmseg_deeplabv3plus", 8, (64, 80)),
    ],
)
@torch.no_grad()
def test_published_weights_compute_what_the_published_forward_does(
    state_of, loaded, model, stride, size
):
    state = state_of(model)
    network, recipe = loaded(model, stride)
    bands = len(recipe["bands"])
    images = torch.randn(1, 1, bands, *size, generator=torch.Generator().manual_seed(0))
    expected = plain_forward(model, state, images[0], stride)
    logits = network(images)
    assert logits.change is None and logits.aux_semantic is None
    assert logits.semantic.shape == (1, 1, len(recipe["classes"]), *size)
    scale = expected.abs().max().item()
    torch.testing.assert_close(logits.semantic[0], expected, rtol=0, atol=1e-4 * scale)
    assert expected.std() > 0.005  # the comparison sees something


@torch.no_grad()
def test_each_stage_of_the_dfc_network_computes_what_the_published_one_does(state_of, loaded):
    state = state_of("dfc_deeplabv3plus")
    network, _ = loaded("dfc_deeplabv3plus", 16)
    net = PlainLandCover(state)
    images = torch.randn(1, 12, 64, 48, generator=torch.Generator().manual_seed(0))
    expected = net.dfc_maps(images, 16)
    maps = network.backbone(images)
    for ours, theirs in zip(maps[1:], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    deep = net.dfc_aspp(expected[3], 16)
    torch.testing.assert_close(network.aspp(maps[4]), deep, rtol=1e-4, atol=1e-4)
    scores = net.dfc_decoder(deep, expected[0])
    torch.testing.assert_close(network.decoder(deep, maps[1]), scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_auxiliary_head_computes_what_the_published_one_does(state_of, loaded):
    state = state_of("mmseg_pspnet")
    network, _ = loaded("mmseg_pspnet", 8)
    images = torch.randn(1, 1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    network.training = True  # itself alone: its batch norms and dropouts stay as in evaluation
    aux = network(images).aux_semantic[0]
    network.training = False
    expected = published_mmseg(state, images[0], 8, pspnet=True)[1]
    torch.testing.assert_close(aux, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", ENTRIES)
def test_every_missing_entry_is_named_as_published(model):
    layout, published = PUBLISHED_FORMATS[model], layout_of(model)
    network = on_meta(model)
    state = {k: torch.empty(shape, device="meta") for k, (shape, _) in published.items()}
    state, shown = to_ours(state, layout), partial(their_key, state_format=layout)
    assert {shown(key) for key in state} == set(published)
    trunk = [key for key in state if key.startswith("backbone.body.layer")]
    for key in state.keys() - set(trunk) | set(trunk[::11]):  # all else, and some of the trunk's
        rest = {k: v for k, v in state.items() if k != key}
        with pytest.raises(ValueError, match="missing") as error:
            load_strictly(network, rest, "a.pth", shown)
        assert f"missing (1): {shown(key)}." in str(error.value)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("dfc_deeplabv3plus", "backbone.fc.weight"),
        ("dfc_deeplabv3plus", "aspp.aspp5.atrous_conv.weight"),
        ("plain_unet", "down5.maxpool_conv.1.double_conv.0.weight"),
        ("mmseg_pspnet", "backbone.stem.9.weight"),
        ("mmseg_pspnet", "decode_head.psp_modules.4.1.conv.weight"),
        ("mmseg_deeplabv3plus", "auxiliary_head.convs.1.conv.weight"),
    ],
)
def test_an_extra_entry_is_named(model, key):
    published = {**layout_of(model), key: ((1,), torch.float32)}
    state = {k: torch.empty(shape, device="meta") for k, (shape, _) in published.items()}
    shown = partial(their_key, state_format=PUBLISHED_FORMATS[model])
    with pytest.raises(ValueError, match="unknown") as error:
        load_strictly(on_meta(model), to_ours(state, PUBLISHED_FORMATS[model]), "a.pth", shown)
    assert f"unknown (1): {key}." in str(error.value)


# ------------------------------------------------------------------- args.pkl


def write_run(folder: Path, state: dict, options: dict | None = None, where: str = "") -> Path:
    """A checkpoint as the DFC2020 baseline leaves it, with its args.pkl in folder / where."""
    path = folder / "run" / "checkpoints" / "checkpoint_step_5000.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.01}]}
    content = {"model_state_dict": state, "step": 5000, "optimizer_state_dict": optimizer}
    torch.save(content, path)
    if options is not None:
        args = path.parents[0 if where == "beside" else 1] / "args.pkl"
        args.write_bytes(pickle.dumps(argparse.Namespace(**options)))
    return path


@pytest.mark.parametrize("where", ["beside", "above"])
def test_args_pkl_says_what_a_checkpoint_is(tmp_path, state_of, where):
    path = write_run(tmp_path, state_of("plain_unet"), OPTIONS, where)
    network, recipe = load_network(path)
    assert (recipe["model"], recipe["backbone"], recipe["output_stride"]) == (
        "plain_unet",
        None,
        None,
    )
    assert scheme_of(recipe) == trained_scheme(path) == TWELVE
    torch.testing.assert_close(network.state_dict(), dict(state_of("plain_unet")), rtol=0, atol=0)


def test_args_json_says_it_as_well(tmp_path, state_of):
    path = write_run(tmp_path, state_of("plain_unet"))
    (path.parent / "args.json").write_text(json.dumps(OPTIONS))
    assert scheme_of(load_network(path)[1]) == TWELVE


@pytest.mark.parametrize("stride", [8, 16])
def test_args_pkl_chooses_the_network_and_its_output_stride(tmp_path, state_of, stride):
    options = {**OPTIONS, "model": "deeplab", "out_stride": stride}
    path = write_run(tmp_path, state_of("dfc_deeplabv3plus"), options, "beside")
    network, recipe = load_network(path)
    assert (recipe["model"], recipe["backbone"]) == ("dfc_deeplabv3plus", "resnet101")
    assert recipe["output_stride"] == network.backbone.strides[-1] == stride


def test_args_pkl_chooses_bands_and_classes(tmp_path, state_of):
    state = dict(state_of("plain_unet"))
    state["inc.double_conv.0.weight"] = torch.zeros(64, 10, 3, 3)
    state["outc.conv.weight"], state["outc.conv.bias"] = torch.zeros(10, 64, 1, 1), torch.zeros(10)
    options = {**OPTIONS, "use_s1": False, "no_savanna": False}
    scheme = dfc_scheme(False, True, True, False, savanna=True)
    path = write_run(tmp_path, state, options)
    assert scheme_of(load_network(path)[1]) == scheme
    members = load_ensemble([path], torch.device("cpu"), scheme)
    assert members[0].network(torch.zeros(1, 1, 10, 32, 32)).semantic.shape == (1, 1, 10, 32, 32)
    with pytest.raises(ValueError, match=r"checkpoint_step_5000\.pth was trained for classes"):
        load_ensemble([path], torch.device("cpu"), TWELVE)


def test_args_pkl_that_contradicts_the_weights_is_an_error(tmp_path, state_of):
    options = {**OPTIONS, "use_s2lr": True}
    path = write_run(tmp_path, state_of("plain_unet"), options)
    error = r"inc\.double_conv\.0\.weight is \(64, 12, 3, 3\), should be \(64, 15, 3, 3\)"
    with pytest.raises(ValueError, match=error):
        load_network(path)


def test_a_dfc_checkpoint_without_args_pkl_needs_a_description(tmp_path, state_of):
    path = write_run(tmp_path, state_of("plain_unet"))
    with pytest.raises(ValueError, match=r"step_5000\.pth is a bare state dict.*args\.pkl beside"):
        load_network(path)
    assert trained_scheme(path) is None
    published, scheme = description("plain_unet")
    assert load_network(path, published=published, scheme=scheme)[1]["model"] == "plain_unet"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lr": 0.1, "model": "unet"}, "lacks out_stride, use_s1.*--model and --backbone"),
        ({**OPTIONS, "model": "segnet"}, "model='segnet' is none of.*deeplab, unet"),
        (
            {**OPTIONS, "use_s1": False, "use_s2hr": False, "use_s2mr": False},
            "no bands to read.*--use-s1",
        ),
    ],
)
def test_an_args_pkl_of_something_else_is_an_error(tmp_path, state_of, options, error):
    path = write_run(tmp_path, state_of("plain_unet"), options)
    with pytest.raises(ValueError, match=error):
        load_network(path)


class Command:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_args_pkl_runs_nothing(tmp_path, state_of):
    proof = tmp_path / "executed"
    options = {**OPTIONS, "seed": Command(f"touch {proof}")}
    path = write_run(tmp_path, state_of("plain_unet"), options)
    with pytest.raises(ValueError, match=r"args\.pkl is no pickled argparse\.Namespace of plain"):
        load_network(path)
    assert not proof.exists()


def test_convert_reads_args_pkl(tmp_path, state_of):
    path, target = write_run(tmp_path, state_of("plain_unet"), OPTIONS), tmp_path / "out.pth"
    checkpoints_main(["convert", str(path), str(target)])
    network, recipe = load_network(target)
    assert recipe["model"] == "plain_unet" and scheme_of(recipe) == TWELVE
    torch.testing.assert_close(network.state_dict(), dict(state_of("plain_unet")), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"bands and classes .* args\.pkl.*leave out --model"):
        checkpoints_main(
            ["convert", str(path), str(target), "--model", "plain_unet", "--overwrite"]
        )


# ------------------------------------------------------------------- mmsegmentation's files


def mmseg_file(state: dict) -> dict:
    """As mmsegmentation writes it."""
    meta = {
        "mmseg_version": "0.5.1+unknown",
        "config": "model = dict(type='EncoderDecoder')\n",
        "CLASSES": None,
        "PALETTE": None,
        "iter": 304000,
        "epoch": 48,
        "time": "Sat Oct 17 01:02:03 2020",
        "hook_msgs": {},
    }
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.01}]}
    return {"meta": meta, "state_dict": OrderedDict(state), "optimizer": optimizer}


@pytest.fixture(scope="module")
def small_psp() -> tuple[torch.nn.Module, dict]:
    """A network with a smaller trunk, and its state dict under mmsegmentation's names."""
    torch.manual_seed(0)
    network = build_network(
        "mmseg_pspnet", "resnet50c", num_classes=8, task="land_cover", lightweight=True
    )
    layout = PUBLISHED_FORMATS["mmseg_pspnet"]
    return network, {their_key(k, layout): v for k, v in network.state_dict().items()}


def test_what_lies_beside_the_weights_of_an_mmseg_file_does_no_harm(tmp_path):
    torch.save(mmseg_file({"a": torch.zeros(1)}), tmp_path / "a.pth")
    content = read_file(tmp_path / "a.pth")
    assert content["meta"]["CLASSES"] is None and content["meta"]["iter"] == 304000
    assert list(state_dict_of(content)) == ["a"]


def test_stage_two_starts_from_stage_one_whatever_its_output_stride(tmp_path, small_psp):
    network, state = small_psp
    assert "backbone.stem.7.running_mean" in state and "backbone.stem.3.weight" in state
    torch.save(mmseg_file(state), tmp_path / "a.pth")
    other = build_network(
        "mmseg_pspnet",
        "resnet50c",
        num_classes=8,
        task="land_cover",
        lightweight=True,
        output_stride=16,
    )
    assert f"loaded {len(state)} of {len(state)} entries" in load_matching(
        other, tmp_path / "a.pth"
    )
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_an_mmseg_file_converts_with_its_output_stride(tmp_path, small_psp):
    network, state = small_psp
    torch.save(mmseg_file(state), tmp_path / "in.pth")
    words = ["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), "--lightweight"]
    words += ["--model", "mmseg_pspnet", "--backbone", "resnet50c", "--output-stride", "16"]
    checkpoints_main(words)
    again, recipe = load_network(tmp_path / "out.pth")
    assert recipe["output_stride"] == again.backbone.strides[-1] == 16
    assert scheme_of(recipe) == NAIC2020
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)


# ------------------------------------------------------------------- the command line


def test_networks_without_a_backbone_take_none_of_the_names():
    unet, fcn = Published("plain_unet"), Published("fcn", "resnet18")
    assert published_networks(["plain_unet"], None, False, 2) == [unet, unet]
    assert published_networks(["plain_unet", "fcn"], ["resnet18"], False, 2) == [unet, fcn]
    with pytest.raises(ValueError, match="got 1 and 1 names"):
        published_networks(["plain_unet"], ["resnet18"], False, 1)


def test_an_output_stride_describes_published_files():
    psp = Published("mmseg_pspnet", "resnet101c", output_stride=16)
    assert published_networks(["mmseg_pspnet"], ["resnet101c"], False, 1, 16) == [psp]
    with pytest.raises(ValueError, match="--output-stride describes published checkpoints"):
        published_networks(None, None, False, 1, 16)
