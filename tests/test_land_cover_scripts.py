"""Land cover of one date from end to end: train.py and test.py on tiny patches."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_data import make_folder, make_naic2020

import test as script
import train
from datasets import prepare
from models.checkpoints import load_network

QUICK = ["--num-workers", "0", "--amp", "fp32", "--device", "cpu"]


def run_train(root, outdir, *words) -> None:
    words = ["--data-root", root, "--outdir", outdir, *QUICK, "--batch-size", "2", *words]
    train.main([str(word) for word in [*words, "--name", "run", "--max-steps", "2"]])


def run_test(root, outdir, *words) -> dict:
    words = ["--data-root", root, "--outdir", outdir, *QUICK, "--tta", "none", "--score", *words]
    script.main([str(word) for word in words])
    return json.loads((outdir / "metrics" / "test.json").read_text())


@pytest.mark.parametrize(
    "network",
    [
        ["--model", "fcn", "--backbone", "resnet18"],
        ["--model", "plain_unet"],
        ["--model", "mmseg_pspnet", "--backbone", "resnet18", "--ema"],
    ],
    ids=lambda words: words[1],
)
def test_a_folder_trains_and_predicts_the_classes_of_its_file(tmp_path, network):
    root = make_folder(tmp_path / "data", {"train": 6, "test": 2}, coding="rgb")
    run_train(root, tmp_path / "out", "--dataset", "folder", "--split", "every10th", *network)
    (path,) = (tmp_path / "out" / "models").iterdir()
    _, recipe = load_network(path)
    assert recipe["task"] == "land_cover" and recipe["classes"] == ["class0", "class1", "class2"]
    metrics = run_test(root, tmp_path / "out", "--dataset", "folder", "--figures", "1")
    confusion = np.array(metrics["confusion"])
    assert confusion.shape == (3, 3) and confusion.sum() == 2 * 32 * 32
    assert metrics["oa"] == pytest.approx(confusion.trace() / confusion.sum())
    with Image.open(tmp_path / "out" / "masks" / "test" / "im1" / "0.png") as mask:
        assert mask.mode == "P" and set(np.unique(mask)) <= {1, 2, 3}


def test_naic2020_trains_from_its_lists(tmp_path):
    root = make_naic2020(tmp_path / "data")
    steps = "naic2020"
    images, masks = root / "train" / "image", root / "train" / "label"
    whole = root / "train.json"
    prepare.main(
        [steps, "annotate", str(images), "--mask-dir", str(masks), "--save-path", str(whole)]
    )
    prepare.main([steps, "split", str(whole), "--num-eval", "2"])
    words = ["--dataset", "naic2020", "--model", "fcn", "--backbone", "resnet18"]
    run_train(root, tmp_path / "out", *words)
    metrics = json.loads((tmp_path / "out" / "metrics" / "val.json").read_text())
    assert np.array(metrics["confusion"]).shape == (8, 8)


def test_pseudo_labels_are_for_changes_only(tmp_path):
    root = make_folder(tmp_path / "data")
    with pytest.raises(ValueError, match=r"--use-pseudo-label is for changed .*folder"):
        run_train(root, tmp_path / "out", "--dataset", "folder", "--use-pseudo-label", "x")
