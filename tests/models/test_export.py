"""Exported networks predict what their checkpoints do, at any size, without our network."""

import json
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from PIL import Image

import label as label_script
import predict as predict_script
import test as test_script
from helpers.arithmetic import SHARE, assert_equal_but_for_rounding, relative_error
from helpers.map_data import scene, write
from helpers.networks import random_norms
from helpers.tiny_data import make_second
from inference.ensemble import load_ensemble
from inference.predictor import Predictor
from models import checkpoints, export, onnx_network, recording
from models.build import build_network
from models.checkpoints import (
    load_matching,
    load_network,
    make_recipe,
    network_of,
    save_checkpoint,
    scheme_of,
    trained_scheme,
    trained_split_rule,
)
from models.published import Published
from utils.schemes import NAIC2020, SECOND, change_scheme
from utils.structures import Logits, Scheme

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CPU = torch.device("cpu")
QUICK = ["--num-workers", "0", "--amp", "fp32", "--tta", "none", "--device", "cpu"]
FOUR_BANDS = change_scheme(("red", "green", "blue", "nir"), "bands")


class Case(NamedTuple):
    model: str
    backbone: str | None
    scheme: Scheme
    classifiers: tuple[str, ...]  # its last layers


CASES = {
    "pspnet_hrnet": Case(
        "pspnet", "hrnet_w18_v1", SECOND, ("semantic_head.head.4", "change_head.conv5.5")
    ),
    "deeplabv3plus_resnet": Case(
        "deeplabv3plus", "resnet18", SECOND, ("semantic_head.head.4", "change_head.classifier")
    ),
    "unet_resnet": Case("unet", "resnet18", FOUR_BANDS, ("change_head.classifier",)),
    "plain_unet": Case("plain_unet", None, NAIC2020, ("outc.conv",)),
    "mmseg_pspnet": Case("mmseg_pspnet", "resnet18", NAIC2020, ("decode_head.conv_seg",)),
}
SMALL = "mmseg_pspnet"


def make_checkpoint(path: Path, case: Case) -> Path:
    """An untrained network whose probabilities differ from pixel to pixel as a trained one's do."""
    torch.manual_seed(0)
    recipe = make_recipe(
        case.scheme,
        model=case.model,
        backbone=case.backbone,
        lightweight=case.model == "pspnet",
        split_rule="hash10",
    )
    network = random_norms(network_of(recipe))
    dates, bands = case.scheme.num_dates, len(case.scheme.bands)
    blocks = F.interpolate(torch.randn(2 * dates, bands, 8, 8), scale_factor=8)
    for name in case.classifiers:
        standardise(network, network.get_submodule(name), blocks.unflatten(0, (2, dates)))
    save_checkpoint(path, network.state_dict(), recipe)
    return path


@torch.no_grad()
def standardise(network, layer: torch.nn.Conv2d, images: torch.Tensor) -> None:
    """Gives the scores of a last layer a mean of 0 and a standard deviation of 3, on images."""
    seen = []
    hook = layer.register_forward_hook(lambda *args: seen.append(args[2]))
    network(images)
    hook.remove()
    factor = 3 / seen[0].std(dim=(0, 2, 3))
    layer.weight.mul_(factor[:, None, None, None])
    layer.bias.sub_(seen[0].mean(dim=(0, 2, 3))).mul_(factor)


@pytest.fixture(autouse=True)
def quiet():
    """pytest would collect torch's tracing, which is long and slow."""
    logging.disable(logging.DEBUG)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`files(name)`: the checkpoint of a case and what it was exported to, made once."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            checkpoint = make_checkpoint(folder / f"{name}.pth", CASES[name])
            export.main([str(checkpoint)])
            made[name] = checkpoint, folder / f"{name}.onnx"
        return made[name]

    return get


@pytest.fixture
def small_checkpoint(tmp_path):
    return make_checkpoint(tmp_path / "a.pth", CASES[SMALL])


def random_images(scheme: Scheme, batch: int, height: int, width: int) -> torch.Tensor:
    """(B, T, C, H, W) as read: colours where the scheme is of 8 bits, else of mean 0 and std 1."""
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, scheme.num_dates, len(scheme.bands), height, width)
    if scheme.scale == 255:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator)


# ------------------------------------------------------------------- the same predictions


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_exported_network_predicts_as_its_checkpoint_does_at_any_size(files, name):
    scheme = CASES[name].scheme
    ours, theirs = (Predictor(load_ensemble([path], CPU, scheme), CPU) for path in files(name))
    sizes = [(1, 64, 64, "d4"), (2, 131, 85, "flip_rot"), (5, 33, 200, "none"), (1, 224, 96, "d4")]
    for batch, height, width, tta in sizes:
        images = random_images(scheme, batch, height, width)
        for want, got in zip(ours(images, tta), theirs(images, tta), strict=True):
            assert (want is None) == (got is None)
            if want is not None:
                assert got.shape == want.shape and got.dtype == torch.float32
                torch.testing.assert_close(got, want, rtol=0, atol=5e-4)
                assert want.std() > 0.05  # there is something to compare


def test_test_py_writes_the_same_masks_and_builds_no_network(tmp_path, files, monkeypatch):
    pairs = files("deeplabv3plus_resnet")
    root = make_second(tmp_path / "data", train=1, test=2, size=48)
    words = ["--data-root", str(root), *QUICK, "--test-batch-size", "2"]
    for path in pairs:
        outdir = tmp_path / path.suffix
        test_script.main([*words, "--outdir", str(outdir), "--checkpoints", str(path)])
        monkeypatch.setattr(checkpoints, "build_network", None)  # the second has none
    want, got = (read_masks(tmp_path / path.suffix / "masks/test") for path in pairs)
    assert want.shape == got.shape == (4, 48, 48) and len(np.unique(want)) > 3
    assert (want != got).mean() < 1e-3


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet", "unet_resnet", "mmseg_pspnet"])
def test_predict_py_makes_the_same_maps_and_builds_no_network(tmp_path, files, monkeypatch, name):
    scheme, probs = CASES[name].scheme, []
    for date, image in enumerate(scene(90, 120, bands=len(scheme.bands))):
        write(tmp_path / f"{date}.tif", image, alpha="NO")  # the fourth band is near infrared
    images = [str(tmp_path / f"{date}.tif") for date in range(scheme.num_dates)]
    layer = "confidence" if scheme.task == "land_cover" else "change_probability"
    for path in files(name):
        out = tmp_path / path.suffix
        words = [*images, "--checkpoints", str(path), "--out", str(out), "--tile-px", "64"]
        predict_script.main([*words, "--amp", "fp32", "--device", "cpu", "--tta", "none"])
        with rasterio.open(out / f"{layer}.tif") as file:
            probs.append(file.read(1))
        monkeypatch.setattr(checkpoints, "build_network", None)  # the second has none
    np.testing.assert_allclose(probs[1], probs[0], rtol=0, atol=1e-3)
    assert probs[0].std() > 0.02


def read_masks(folder: Path) -> np.ndarray:
    """All masks, (N, H, W)."""
    paths = sorted(folder.glob("im*/*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def test_an_exported_teacher_votes_beside_checkpoints(tmp_path, files):
    root = make_second(tmp_path / "data", train=3, size=48)
    paths = [str(path) for path in files("deeplabv3plus_resnet")]
    words = ["--data-root", str(root), "--outdir", str(tmp_path / "out"), *QUICK]
    label_script.main([*words, "--checkpoints", *paths])
    stats = json.loads((tmp_path / "out/metrics/pseudo_labels.json").read_text())
    assert "deeplabv3plus" in (tmp_path / "out/masks/train/labelling.json").read_text()
    assert stats["tiles"] == 2  # the third validates
    assert len(list((tmp_path / "out/masks/train").glob("im*/*.png"))) == 2 * 2


def test_the_recipe_travels_in_the_file(files):
    checkpoint, exported = files(SMALL)
    assert trained_scheme(exported) == trained_scheme(checkpoint) == NAIC2020
    assert trained_split_rule(exported) == "hash10"
    recipe = onnx_network.read_recipe(exported)
    assert recipe == as_json(load_network(checkpoint)[1]) and scheme_of(recipe) == NAIC2020


def as_json(value):
    """With lists for tuples."""
    return json.loads(json.dumps(value))


def test_sizes_and_scores_have_names_in_the_file(files):
    graph = onnx.load(files("deeplabv3plus_resnet")[1]).graph
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "images": ["batch", 2, 3, "height", "width"],
        "semantic": ["batch", 2, 6, "height", "width"],
        "change": ["batch", "height", "width"],
    }


def test_a_gate_is_exported_too(tmp_path):
    torch.manual_seed(0)
    recipe = make_recipe(SECOND, model="tfinet", backbone="resnet18", lightweight=True)
    network = random_norms(network_of(recipe))
    program = recording.record(network, 2, 3)
    assert recording.output_names(program) == ["semantic", "change", "aux_change"]
    images = torch.randn(1, 2, 3, 70, 50)
    with torch.no_grad():
        want, got = network(images), Logits(**program.module()(images))
    assert relative_error(got.aux_change, want.aux_change) < SHARE


def test_a_torch_export_program_predicts_the_same(tmp_path, small_checkpoint):
    export.main([str(small_checkpoint), "--format", "torch_export"])
    extra = {"twodates.json": ""}
    program = torch.export.load(str(tmp_path / "a.pt2"), extra_files=extra)
    network, recipe = load_network(small_checkpoint)
    assert json.loads(extra["twodates.json"])["recipe"] == as_json(recipe)
    images = torch.randn(3, 1, 3, 75, 110)
    with torch.no_grad():
        want, got = network(images).semantic, program.module()(images)["semantic"]
    assert_equal_but_for_rounding((got,), (want,))


@pytest.mark.parametrize("model", ["fcn", "pspnet"])
def test_a_recorded_network_runs_at_sizes_that_need_no_padding(tmp_path, model):
    case = CASES["pspnet_hrnet"]
    classifiers = case.classifiers if model == "pspnet" else ()
    checkpoint = make_checkpoint(
        tmp_path / "a.pth", case._replace(model=model, classifiers=classifiers)
    )
    network = load_network(checkpoint)[0]
    module = recording.record(network, 2, 3).module()
    for batch, height, width in ((1, 64, 96), (2, 32, 70), (1, 50, 64), (1, 33, 31), (1, 5, 7)):
        images = torch.randn(batch, 2, 3, height, width)
        with torch.no_grad():
            assert_equal_but_for_rounding(Logits(**module(images)), network(images))


def test_a_map_that_has_its_size_already_is_no_limit(tmp_path):
    # at 48 px and stride 8 the largest means of the pyramid have the size of the map, 6 x 6
    case = CASES["pspnet_hrnet"]._replace(backbone="resnet18", classifiers=())
    network = load_network(make_checkpoint(tmp_path / "a.pth", case))[0]
    module = recording.record(network, 2, 3).module()
    for side in (16, 24, 48):
        images = torch.randn(1, 2, 3, side, side)
        with torch.no_grad():
            assert_equal_but_for_rounding(Logits(**module(images)), network(images))


# ------------------------------------------------------------------- parts


def test_adaptive_means_are_torchs_at_every_size():
    for height, width in [(1, 1), (2, 5), (4, 7), (6, 6), (13, 20), (31, 9)]:
        x = torch.randn(2, 3, height, width)
        for size in [(1, 1), (2, 2), (3, 3), (6, 6), (2, 6)]:
            want = F.adaptive_avg_pool2d(x, size)
            torch.testing.assert_close(recording.adaptive_mean(x, size), want)


def test_regions_that_do_not_divide_a_side_overlap():
    # 5 pixels in 2 regions: 0..2 and 2..4, the middle one is in both
    x = torch.tensor([[[[3.0, 6.0, 9.0, 0.0, 3.0]]]])
    assert recording.adaptive_mean(x, (1, 2)).tolist() == [[[[6.0, 4.0]]]]


@pytest.mark.parametrize(
    ("model", "backbone", "task", "multiple"),
    [
        ("pspnet", "hrnet_w18_v1", "semantic_change", 32),
        ("fcn", "resnet18", "semantic_change", 1),
        ("tfinet", "resnet18", "semantic_change", 8),
        ("siamese_unet", "resnet18", "binary_change", 32),
        ("plain_unet", None, "land_cover", 1),
    ],
)
def test_the_multiple_that_a_network_pads_to_is_found(model, backbone, task, multiple):
    network = build_network(model, backbone, num_classes=6, task=task).eval()
    dates = 1 if task == "land_cover" else 2
    assert recording.size_multiple(network, dates, 3) == multiple
    with torch.no_grad():
        network(torch.zeros(1, dates, 3, 64, 64))  # nothing is left on its backbone


# ------------------------------------------------------------------- what goes wrong


def test_a_network_that_would_predict_otherwise_is_not_written(
    tmp_path, small_checkpoint, monkeypatch
):
    true_mean = recording.adaptive_mean
    monkeypatch.setattr(recording, "adaptive_mean", lambda x, size: 1.5 * true_mean(x, size))
    with pytest.raises(ValueError, match=r"probabilities differ.*must stay below 0\.001"):
        export.main([str(small_checkpoint)])
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_network_that_torch_cannot_record_is_an_error_of_one_line(
    tmp_path, small_checkpoint, monkeypatch
):
    def fail(*args):
        raise RuntimeError("data-dependent\nand more")

    monkeypatch.setattr(export, "record", fail)
    with pytest.raises(ValueError, match=r"mmseg_pspnet on resnet18 as onnx .*data-dependent\)"):
        export.main([str(small_checkpoint)])
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_formula_of_torch_is_not_shown(small_checkpoint, monkeypatch):
    def fail(*args):
        raise AssertionError("Guard failed: (images.size()[3] + -1 * images.size()[3] % 32) != 1")

    monkeypatch.setattr(export, "check", fail)
    with pytest.raises(ValueError, match=r"for some sizes only\); try --format onnx, use") as error:
        export.main([str(small_checkpoint), "--format", "torch_export"])
    assert "images.size" not in str(error.value)


def test_help_is_that_of_the_other_programs(capsys):
    with pytest.raises(SystemExit):
        export.main(["--help"])
    text = capsys.readouterr().out
    assert (
        "Options may be written with - or _." in text and "usage: python -m models.export" in text
    )


def test_a_network_recorded_for_one_size_only_is_refused():
    class OneSize(torch.nn.Module):
        traced = padded = ()

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            assert images.shape[-2] == recording.RECORDED_SIZE[1]
            return Logits(change=self.scale * images.mean((1, 2)))

    with pytest.raises(ValueError, match="for one height only"):
        recording.record(OneSize(), 2, 3)


def test_nothing_is_replaced_without_asking(small_checkpoint, tmp_path):
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(ValueError, match=r"a\.onnx exists; pass --overwrite"):
        export.main([str(small_checkpoint)])
    assert (tmp_path / "a.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "tflite"], "choose from"),
        (["--format", "torch_export", "--opset", "18"], "--opset is for --format onnx"),
        (["--opset", "0"], "at least 1"),
    ],
)
def test_words_without_sense_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        export.main(["a.pth", *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_the_suffix_says_what_a_file_is(small_checkpoint):
    with pytest.raises(ValueError, match=r"--out b\.bin: .* ends in \.onnx"):
        export.main([str(small_checkpoint), "--out", "b.bin"])


def test_a_bare_state_dict_is_to_be_converted_first(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"bare\.pth.*models\.checkpoints convert"):
        export.main([str(tmp_path / "bare.pth")])


def test_missing_packages_are_named_with_the_command_that_installs_them(
    small_checkpoint, files, monkeypatch
):
    exported = files(SMALL)[1]
    monkeypatch.setattr(onnx_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install onnx onnxscript onnxruntime"):
        export.main([str(small_checkpoint)])
    with pytest.raises(ValueError, match=r"pip install onnxruntime$"):
        trained_scheme(exported)


def foreign_onnx(path: Path) -> Path:
    """A valid ONNX file that someone else wrote."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    copy = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "copy", [value], [copy])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_an_onnx_file_of_someone_else_is_refused(tmp_path):
    path = foreign_onnx(tmp_path / "b.onnx")
    for read in (trained_scheme, lambda path: load_ensemble([path], CPU, SECOND)):
        with pytest.raises(ValueError, match=r"b\.onnx does not say which classes.*models\.export"):
            read(path)


def test_a_recipe_of_another_version_is_refused(tmp_path):
    path = foreign_onnx(tmp_path / "b.onnx")
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "twodates", json.dumps({"recipe": {"model": "fcn"}})
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"b\.onnx: its recipe lacks .*classes"):
        load_ensemble([path], CPU, SECOND)


def test_a_damaged_or_missing_onnx_file_is_named(tmp_path):
    (tmp_path / "b.onnx").write_bytes(b"not onnx")
    with pytest.raises(ValueError, match=r"b\.onnx is not a readable ONNX file"):
        trained_scheme(tmp_path / "b.onnx")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*c\.onnx"):
        load_ensemble([tmp_path / "c.onnx"], CPU, SECOND)


def test_a_network_for_another_task_is_refused(tmp_path, files):
    exported = files(SMALL)[1]
    with pytest.raises(ValueError, match=r"mmseg_pspnet\.onnx.*land_cover.*--checkpoints"):
        load_ensemble([exported], CPU, SECOND)


def test_what_needs_weights_refuses_an_exported_network(files):
    exported = files(SMALL)[1]
    with pytest.raises(ValueError, match="weights cannot be taken out"):
        load_network(exported)
    with pytest.raises(ValueError, match="weights cannot be taken out"):
        load_matching(torch.nn.Identity(), exported)
    with pytest.raises(ValueError, match=r"--model fcn: .* is mmseg_pspnet on"):
        load_ensemble([exported], CPU, NAIC2020, [Published("fcn", "resnet18")])
    with pytest.raises(ValueError, match="--compile is for checkpoints"):
        load_ensemble([exported], CPU, NAIC2020, compiled=True)


def test_an_exported_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    for name in ("a.pt2", "a.onnx"):
        for read in (trained_scheme, load_network):
            with pytest.raises(FileNotFoundError, match=f"no checkpoint at .*{name}"):
                read(tmp_path / name)


def test_a_program_of_torch_export_is_never_read_as_a_checkpoint(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"anything")
    for read in (trained_scheme, lambda path: load_ensemble([path], CPU, SECOND)):
        with pytest.raises(ValueError, match=r"a\.pt2.*could run code.*--format onnx"):
            read(tmp_path / "a.pt2")
