"""Warnings on labels that are possible but rarely meant; printed once, by the check."""

import numpy as np

from helpers.data_sets import check_dataset
from helpers.tiny_data import write, write_tiff


def folder(root, classes, bands=3):
    """Land cover of three classes; `classes` (H, W) is the label of every image."""
    (root / "classes.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.yaml").write_text("[water, wood, town]")
    for name in "ab":
        image = np.random.default_rng(0).integers(0, 256, (bands, *classes.shape), np.uint8)
        write_tiff(root / f"train/images/{name}.tif", image)
        write(root / f"train/labels/{name}.png", classes.astype(np.uint8))
    return root


def test_absent_classes_and_one_class_nearly_everywhere_are_warnings(tmp_path, capsys):
    classes = np.zeros((32, 32), int)
    classes[0, 0] = 2
    assert check_dataset("folder", ["train"], folder(tmp_path, classes)) == {"train": 2}
    printed = capsys.readouterr()
    assert "train: wood occurs in none of 2 label(s)" in printed.out + printed.err
    assert "train: 99.9% of the labelled pixels are water" in printed.out + printed.err


def test_sets_as_usual_have_no_warning(tmp_path, capsys):
    classes = np.arange(32 * 32).reshape(32, 32) % 3
    check_dataset("folder", ["train"], folder(tmp_path, classes))
    printed = capsys.readouterr()
    assert "warning" not in printed.out + printed.err


def test_a_fourth_band_that_gdal_takes_for_alpha_is_a_warning(tmp_path, capsys):
    classes = np.arange(32 * 32).reshape(32, 32) % 3
    check_dataset("folder", ["train"], folder(tmp_path, classes, bands=4))
    printed = capsys.readouterr()
    assert "band 4 of the images is marked as alpha" in printed.out + printed.err


def test_a_validation_set_without_change_is_a_warning(tmp_path, capsys):
    for part, change in (("train", 255), ("val", 0)):
        for folder_name in ("A", "B"):
            image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
            write(tmp_path / part / folder_name / "a.png", image)
        mask = np.zeros((32, 32), np.uint8)
        mask[:16] = change
        write(tmp_path / part / "label/a.png", mask)
    assert check_dataset("binary", None, tmp_path) == {"train": 1, "val": 1}
    printed = capsys.readouterr()
    assert "val: 0.0% of the known pixels changed" in printed.out + printed.err
