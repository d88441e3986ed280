"""Binary change from end to end: train.py and test.py on tiny scenes."""

import csv
import json
import re

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

import test as script
import train
from datasets.rucode.run_lengths import from_run_lengths
from helpers.data_sets import build_dataset, find_scheme
from helpers.processes import run_alone, two_processes
from helpers.tiny_data import make_binary, make_rucode, truncate
from inference.views import TTA_VIEWS
from models.checkpoints import load_network, make_recipe, network_of
from utils.probabilities import to_probs
from utils.schemes import SECOND
from utils.state_files import save_checkpoint

QUICK = ["--num-workers", "0", "--amp", "fp32", "--device", "cpu"]
TINY = "test_resnet"  # timm's, of 0.4 million weights: quick to draw, to save and to load
SMALL = ["--model", "fcn", "--backbone", TINY, "--batch-size", "2", "--name", "run"]


def save_network(path, scheme, model="fcn", **options):
    """A checkpoint with random weights for a data set."""
    torch.manual_seed(0)
    recipe = make_recipe(scheme, model=model, backbone=TINY, options=options)
    network = network_of(recipe)
    with torch.no_grad():  # logits on both sides of 0
        classifier = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        classifier.weight.mul_(30)
    save_checkpoint(path, network.state_dict(), recipe)
    return path


def run_train(root, outdir, *words) -> None:
    words = ["--data-root", root, "--outdir", outdir, *QUICK, *SMALL, *words]
    train.main([str(word) for word in words])


def run_test(root, outdir, *words) -> None:
    words = ["--data-root", root, "--outdir", outdir, *QUICK, "--tta", "none", *words]
    script.main([str(word) for word in words])


@pytest.fixture
def rucode(tmp_path):
    """Five tiny composites, three with masks, and a network that reads their colours."""
    root = make_rucode(tmp_path / "data")
    path = save_network(tmp_path / "network.pth", find_scheme("rucode", root))
    return root, tmp_path / "out", path


@pytest.mark.parametrize(
    "words",
    [
        ["--dataset", "binary", "--split", "every10th"],
        ["--dataset", "binary", "--split", "area:0.5", "--crop-size", "32", "--bands", "grey"],
        ["--dataset", "binary", "--split", "leave_out:002", "--swap-dates", "--cache", "ram"],
    ],
)
def test_training_writes_a_checkpoint_that_test_reads(tmp_path, words):
    root = make_binary(tmp_path / "data", {"train": 4, "test": 2})
    run_train(root, tmp_path / "out", *words, "--epochs", 1)
    metrics = json.loads((tmp_path / "out" / "metrics" / "val.json").read_text())
    assert 0 <= metrics["oa"] <= 1 and sum(map(sum, metrics["confusion"])) > 0
    run_test(root, tmp_path / "out", "--dataset", "binary", "--score")
    metrics = json.loads((tmp_path / "out" / "metrics" / "test.json").read_text())
    assert sum(map(sum, metrics["confusion"])) == 2 * 64 * 64 and metrics["threshold"] == 0.5
    with Image.open(tmp_path / "out" / "masks" / "test" / "000.png") as mask:
        assert mask.mode == "P" and mask.size == (64, 64) and np.array(mask).max() <= 1


def test_rucode_trains_by_its_recipe(tmp_path):
    root = make_rucode(tmp_path / "data")
    recipe = ["--config", "configs/rucode_unetplusplus_resnext50.yaml", "--dropout", "0"]
    words = ["--crop-size", 32, "--samples-per-image", 2, "--max-steps", 2, "--val-every", 2]
    words = [*recipe, "--data-root", root, "--outdir", tmp_path / "out", *QUICK, *words]
    words += ["--backbone", TINY, "--batch-size", 2, "--name", "run"]
    train.main([str(word) for word in words])
    (path,) = (tmp_path / "out" / "models").iterdir()
    network, saved = load_network(path)
    assert saved["bands"] == ["grey"] and saved["standardise"] == "joint"
    assert saved["options"] == {"fusion": "difference"}
    first = next(m for m in network.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.in_channels == 1
    run_test(root, tmp_path / "out", "--dataset", "rucode")
    assert len(list((tmp_path / "out" / "masks" / "test").iterdir())) == 2


def published_procedure(network, sample_of, height, width, tile=256) -> np.ndarray:
    """P(changed) of a scene as published: constant padding, tiles side by side, eight views."""
    result = np.zeros((height, width), np.float32)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            images = sample_of(top, left)[None]
            views = []
            for mirrored in (False, True):
                for turns in range(4):
                    x = torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))
                    with torch.no_grad():
                        p = to_probs(network(x)).change
                    p = torch.rot90(p, -turns, (-2, -1))
                    views.append(p.flip(-1) if mirrored else p)
            p = torch.stack(views).mean(0)[0].numpy()[: height - top, : width - left]
            result[top : top + tile, left : left + tile] = p
    return result


@pytest.mark.parametrize("tile_px", [64, 128])  # smaller, and larger than the scenes
def test_without_overlap_and_with_constant_padding_it_is_the_published_procedure(rucode, tile_px):
    root, outdir, path = rucode
    words = ["--checkpoints", path, "--tile-px", tile_px, "--overlap-px", 0]
    words += ["--padding", "constant"]
    words += ["--tta", "d4", "--save-probs", "--dataset", "rucode"]
    run_test(root, outdir, *words)
    network, _ = load_network(path)
    name = "KVI_2018_SCN4__KV1_2019_SCN4"
    with rasterio.open(root / f"Images_composit/Images_composit/8_ch/{name}.tif") as file:
        bands = file.read([1, 2, 3, 5, 6, 7]).astype(np.float64).reshape(2, 3, *file.shape)
    bands = np.stack([(d / 1024 - (d / 1024).mean()) / (d / 1024).std() for d in bands])
    height, width = bands.shape[-2:]
    padded = np.full((2, 3, height + tile_px, width + tile_px), bands[0, 0, 0, 0])
    padded[..., :height, :width] = bands

    def sample_of(top, left):
        tile = padded[..., top : top + tile_px, left : left + tile_px]
        return torch.tensor(tile, dtype=torch.float32)

    want = published_procedure(network, sample_of, height, width, tile_px)
    with rasterio.open(outdir / "probs" / "test" / f"{name}.tif") as file:
        got = file.read(1)
    assert want.std() > 0.03  # the network says something
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4)
    assert len(TTA_VIEWS["d4"]) == 8


def test_results_lie_where_the_images_do_and_agree_with_one_another(rucode):
    root, outdir, path = rucode
    rle = outdir / "submission.csv"
    words = ["--checkpoints", path, "--tile-px", 32, "--overlap-px", 8, "--save-probs"]
    words += ["--rle", rle, "--threshold", 0.45, "--figures", 1, "--dataset", "rucode"]
    run_test(root, outdir, *words)
    with rle.open() as file:
        rows = list(csv.DictReader(file))
    with (root / "sample_submission.csv").open() as file:
        assert [row["Id"] for row in rows] == [row["Id"] for row in csv.DictReader(file)]
    for row in rows:
        image = root / f"Images_composit/Images_composit/8_ch/{row['Id']}.tif"
        mask = outdir / "masks" / "test" / f"{row['Id']}.tif"
        probs = outdir / "probs" / "test" / f"{row['Id']}.tif"
        with rasterio.open(image) as i, rasterio.open(mask) as m, rasterio.open(probs) as p:
            assert i.crs == m.crs == p.crs and i.transform == m.transform == p.transform
            assert i.shape == m.shape == p.shape
            changed = m.read(1)
            assert np.array_equal(changed, p.read(1) > 0.45)
            assert m.colormap(1)[1][:3] == (220, 20, 60)
        assert np.array_equal(from_run_lengths(row["mask"], *changed.shape), changed)
    assert len(list((outdir / "figures" / "test").iterdir())) == 1


def test_the_threshold_is_chosen_on_validation_scenes(rucode):
    root, outdir, path = rucode
    words = ["--checkpoints", path, "--threshold", "auto", "--dataset", "rucode"]
    run_test(root, outdir, *words, "--val-split", "leave_out:KVI_2018_SCN1__KV1_2019_SCN1")
    chosen = json.loads((outdir / "metrics" / "threshold.json").read_text())
    scene = build_dataset(
        "rucode", "val", root, split_rule="leave_out:KVI_2018_SCN1__KV1_2019_SCN1", tile_px=512
    )
    assert scene.names == ["KVI_2018_SCN1__KV1_2019_SCN1"]
    network, _ = load_network(path)
    sample = scene[0]
    with torch.no_grad():
        probs = to_probs(network(sample.images[None])).change[0]
    known, changed = sample.change != 255, sample.change == 1

    def f1(threshold: float) -> float:
        predicted = (probs > threshold) & known
        hits = (predicted & changed).sum().item()
        return 2 * hits / (predicted.sum().item() + changed.sum().item())

    best = max(f1(k / 1000) for k in range(1001))
    assert f1(chosen["threshold"]) == pytest.approx(best, abs=0.01)
    assert chosen["f1"] == pytest.approx(best, abs=0.01)
    with Image.open(outdir / "metrics" / "threshold.png") as picture:
        assert picture.width > 300


def test_training_stops_early_when_nothing_gets_better(tmp_path):
    root = make_binary(tmp_path / "data", {"train": 4})
    words = ["--dataset", "binary", "--epochs", 30, "--early-stop", 2, "--lr", 1e-12]
    run_train(root, tmp_path / "out", *words)
    lines = (tmp_path / "out" / "runs" / "run" / "log.jsonl").read_text().splitlines()
    validations = [line for line in map(json.loads, lines) if line["kind"] == "val"]
    scores = [line["iou_change"] or 0 for line in validations]
    first_best = scores.index(max(scores))
    assert len(scores) == first_best + 3 < 30  # the best, and two that were no better
    with pytest.raises(ValueError, match="is complete after"):
        train.main(["--outdir", str(tmp_path / "out"), "--resume"])


@pytest.mark.slow
def test_two_processes_predict_scenes_as_one_does(rucode, tmp_path):
    root, _, path = rucode
    words = ["--dataset", "rucode", "--data-root", root, "--checkpoints", path, *QUICK]
    words += ["--tta", "none", "--tile-px", "32", "--split", "train", "--score", "--save-probs"]
    words += ["--threshold", "auto", "--test-batch-size", "1"]  # else batches mix scenes
    outputs = {}
    for name, run in (("one", run_alone), ("two", two_processes)):
        rle = tmp_path / name / "rle.csv"
        run("test.py", *words, "--outdir", tmp_path / name, "--rle", rle)
        files = (p for p in (tmp_path / name).rglob("*") if p.is_file())
        files = (p for p in files if p.parent.name != "testing")  # names the folder
        outputs[name] = {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files}
    del outputs["one"]["data_check.json"], outputs["two"]["data_check.json"]
    assert outputs["one"].keys() == outputs["two"].keys()
    assert {k for k, v in outputs["one"].items() if outputs["two"][k] != v} == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--zip"], "--zip is for classes, not"),
        (["--time-limit", "5"], "--time-limit is for classes, not"),
        (["--overlap-px", "600"], r"--overlap-px 600 must lie in 0\.\.512"),
        (["--threshold", "2"], r"must lie in 0\.\.1, got 2"),
        (["--split", "nowhere"], "nowhere"),
        (["--bands", "grey"], "grey"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(rucode, words, message, capsys):
    root, outdir, path = rucode
    with pytest.raises((ValueError, OSError, SystemExit)) as caught:
        run_test(root, outdir, "--dataset", "rucode", "--checkpoints", path, *words)
    assert re.search(message, f"{caught.value} {capsys.readouterr().err}")
    assert not (outdir / "masks").exists()


def test_scene_options_are_refused_for_tiles(tmp_path, capsys):
    for words in (["--rle", "x.csv"], ["--val-split", "area"], ["--threshold", "auto"]):
        with pytest.raises(SystemExit):
            script.main(["--outdir", str(tmp_path), *words])
        assert f"{words[0]}{' auto' * (words[1] == 'auto')} is for binary change, not" in (
            capsys.readouterr().err
        )


def test_a_truncated_scene_stops_the_test_before_anything_is_written(rucode):
    root, outdir, path = rucode
    truncate(root / "Images_composit/Images_composit/8_ch/KVI_2018_SCN3__KV1_2019_SCN3.tif")
    with pytest.raises((ValueError, OSError), match="KVI_2018_SCN3"):
        run_test(root, outdir, "--dataset", "rucode", "--checkpoints", path)
    assert not (outdir / "masks").exists()


def test_networks_that_read_other_bands_are_averaged_over_the_same_scenes(rucode):
    root, outdir, colours = rucode
    grey = find_scheme("rucode", root, bands=["grey"])
    grey = save_network(outdir.parent / "grey.pth", grey, "unetplusplus", fusion="difference")
    words = ["--dataset", "rucode", "--save-probs", "--tile-px", "64", "--checkpoints"]
    for name, paths in (("a", [colours]), ("b", [grey]), ("both", [colours, grey, colours])):
        run_test(root, outdir / name, *words, *paths)
    for path in (outdir / "both" / "probs" / "test").iterdir():
        a, b, both = (
            rasterio.open(outdir / name / "probs" / "test" / path.name).read(1)
            for name in ("a", "b", "both")
        )
        np.testing.assert_allclose(both, (2 * a + b) / 3, rtol=0, atol=1e-5)
        assert np.abs(a - b).max() > 0.01


def test_published_rucode_weights_say_how_their_images_are_read(rucode):
    root, outdir, _ = rucode
    recipe = make_recipe(
        find_scheme("rucode", root, bands=["grey"]),
        model="unetplusplus",
        backbone=TINY,
        options={"fusion": "difference"},
    )
    theirs = {
        key.replace("backbone.body.", "encoder.")
        .replace("change_head.blocks.", "decoder.blocks.")
        .replace("change_head.classifier.", "segmentation_head.0."): value
        for key, value in network_of(recipe).state_dict().items()
    }
    torch.save(theirs, outdir.parent / "smp.pth")
    what = ["--model", "unetplusplus", "--backbone", TINY]
    run_test(root, outdir, "--dataset", "rucode", "--checkpoints", outdir.parent / "smp.pth", *what)
    assert len(list((outdir / "masks" / "test").iterdir())) == 2


def test_a_configuration_file_of_rucode_trains_wrong_key_included(tmp_path, monkeypatch, capsys):
    make_rucode(tmp_path / "data")
    base = network_of(
        make_recipe(
            find_scheme("rucode", tmp_path / "data"),
            model="siamese_unet",
            backbone=TINY,
            options={"symmetric": False},
        )
    )
    torch.save({"state_dict": base.state_dict()}, tmp_path / "xview2.pth")
    config = {
        "sample_submission_path": "data/sample_submission.csv",
        "mask_path": "data/mask/mask",
        "images_path": "data/Images_composit/Images_composit/8_ch",
        "device": "cpu",
        "img_size": 32,
        "batch": 2,
        "patience": 7,
        "img_channels": 3,
        "is_siamese": True,
        "model": "siamese_unet_seresnext50",
        "model_name": "siamese",
        "pretrained_path": "xview2.pth",  # the original's own mistake: it reads `pretrained`
        "in_filters": 48,
    }
    (tmp_path / "config_siamese_seresnext50.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    words = ["--max-steps", "1", "--outdir", "out", "--num-workers", "0", "--amp", "fp32"]
    train.main(["config_siamese_seresnext50.json", *words, "--backbone", TINY])
    output = capsys.readouterr().out
    assert "pretrained_path" in output
    loaded, own = map(int, re.search(r"loaded (\d+) of (\d+) entries", output).groups())
    assert loaded == own  # the scores' layer too: this file has one
    (path,) = (tmp_path / "out" / "models").iterdir()
    _, recipe = load_network(path)
    assert recipe["model"] == "siamese_unet" and recipe["options"] == {"symmetric": False}


def test_a_network_of_another_task_is_refused(rucode):
    root, outdir, _ = rucode
    path = save_network(outdir.parent / "classes.pth", SECOND)
    with pytest.raises(ValueError, match=r"classes\.pth was trained for semantic_change.*rucode"):
        run_test(root, outdir, "--dataset", "rucode", "--checkpoints", path)
    torch.save(load_network(path)[0].state_dict(), outdir.parent / "bare.pth")
    bare = ["--checkpoints", outdir.parent / "bare.pth", "--model", "fcn", "--backbone", TINY]
    with pytest.raises(ValueError, match=r"bare\.pth was trained for semantic_change.*rucode"):
        run_test(root, outdir, "--dataset", "rucode", *bare)


def test_the_threshold_is_chosen_on_the_scenes_that_chose_the_checkpoint(tmp_path, capsys):
    root = make_binary(tmp_path / "data", {"train": 4, "test": 2})
    words = ["--dataset", "binary", "--split", "leave_out:002"]
    run_train(root, tmp_path / "out", *words, "--epochs", 1)
    run_test(root, tmp_path / "out", "--dataset", "binary", "--threshold", "auto")
    assert "on 1 validation scene(s) of --val-split leave_out:002" in capsys.readouterr().out


def test_scenes_smaller_than_the_crop_are_padded_and_said_once(tmp_path, capsys):
    root = make_binary(tmp_path / "data", {"train": 4})
    run_train(root, tmp_path / "out", "--dataset", "binary", "--crop-size", 96)
    note = "3 of 3 images are smaller than --crop-size 96; they are padded with pixels"
    assert capsys.readouterr().out.count(note) == 1


def test_load_from_reads_the_bands_that_a_network_was_trained_on(tmp_path):
    root = make_binary(tmp_path / "data", {"train": 4})
    grey = find_scheme("binary", root, bands=["grey"])
    path = save_network(tmp_path / "grey.pth", grey)
    run_train(root, tmp_path / "out", "--dataset", "binary", "--load-from", path)
    assert (tmp_path / "out" / "metrics" / "val.json").exists()
