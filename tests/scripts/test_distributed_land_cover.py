"""Two processes do with land cover what one does."""

import json

import numpy as np
import pytest
from PIL import Image

import test as script_test
import train
from helpers.processes import log_of, two_processes
from helpers.sentinel_data import make_dfc2020
from helpers.tiny_data import make_folder
from models.build import build_network
from models.checkpoints import make_recipe
from utils.schemes import dfc_scheme
from utils.state_files import save_checkpoint

QUICK = ["--amp", "fp32", "--device", "cpu", "--num-workers", "0"]


def make_half_labelled(root):
    """Images whose labels leave ever more pixels out, so that ranks have different numbers."""
    make_folder(root, {"train": 13}, size=32)
    for i, path in enumerate(sorted((root / "train" / "labels").iterdir())):
        label = np.array(Image.open(path))
        label[: 2 * i] = 255
        Image.fromarray(label).save(path)
    return root


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    data = make_half_labelled(tmp_path / "data")
    words = ["--dataset", "folder", "--data-root", data, "--model", "mmseg_pspnet", *QUICK]
    words += ["--backbone", "test_resnet", "--batch-size", "4", "--max-steps", "4"]
    words += ["--dropout", "0"]
    words += ["--optimizer", "sgd", "--lr", "1e-3", "--head-lr-factor", "1", "--lr-min", "1e-4"]
    words += ["--loss-mean-over", "all", "--val-every", "2", "--log-every", "1", "--name", "run"]
    two_processes("train.py", *words, "--outdir", tmp_path / "two")
    train.main([str(word) for word in [*words, "--outdir", tmp_path / "one"]])
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [(a["kind"], a["step"]) for a in one] == [(b["kind"], b["step"]) for b in two]
    assert sum(a["kind"] == "train" for a in one) == 4
    for a, b in zip(one, two, strict=True):
        if a["kind"] == "train":
            for key in ("total", "semantic", "aux_semantic", "lr"):
                assert b[key] == pytest.approx(a[key], rel=1e-4), (key, a["step"])
        else:  # counts of pixels, a few of which may tip over on rounding
            for key in ("miou", "aa", "oa"):
                assert b[key] == pytest.approx(a[key], abs=5e-3), (key, a["step"])
    counts = [
        np.sum(json.loads((tmp_path / name / "metrics" / "val.json").read_text())["confusion"])
        for name in ("one", "two")
    ]
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_two_processes_predict_sentinel_patches_as_one_does(tmp_path):
    data = make_dfc2020(tmp_path / "data", test=5)
    scheme = dfc_scheme(True, True, False, False)
    network = build_network("fcn", "test_resnet", num_classes=10, task="land_cover", in_channels=6)
    recipe = make_recipe(scheme, model="fcn", backbone="test_resnet")
    save_checkpoint(tmp_path / "models" / "a.pth", network.state_dict(), recipe)
    words = ["--dataset", "dfc2020", "--data-root", data, *QUICK, "--score", "--tta", "none"]
    words += ["--checkpoints", tmp_path / "models" / "a.pth", "--test-batch-size", "2", "--zip"]
    for name, run in (("one", alone), ("two", two_processes)):
        previews = ["--preview-dir", tmp_path / name / "previews"]
        run("test.py", *words, "--outdir", tmp_path / name, *previews)
    files = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
            and not path.name.startswith("patches_")
            and path.parent.name != "testing"  # names the folder
        }
        for name in ("one", "two")
    }
    assert len(files["one"]) == 5 + 5 + 1 + 1  # labels, previews, scores, archive
    assert files["one"] == files["two"]


def alone(script, *words):
    script_test.main([str(word) for word in words])
