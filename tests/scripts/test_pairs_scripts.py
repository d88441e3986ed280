"""Own classes at two dates, from folders to scores: teachers, pseudo labels, student, test."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import label
import predict
import test as script
import train
from datasets import build
from helpers.map_data import save_network
from helpers.tiny_data import write, write_tiff
from inference.decide import to_masks
from models import export
from utils.metrics import ChangeConfusion, metrics_for
from utils.schemes import SECOND
from utils.structures import Probs

QUICK = ["--num-workers", "0", "--device", "cpu", "--amp", "fp32"]
SMALL = ["--backbone", "test_resnet", "--model", "fcn", "--lightweight", "--batch-size", "2"]
NAMES = ["water", "field", "wood", "town"]


def truth(index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes (2, H, W) in 0..3 in blocks, and change (H, W)."""
    rng = np.random.default_rng(index)
    dates = rng.integers(4, size=(2, 4, 4))
    change = rng.random((4, 4)) < 0.4
    dates[1] = np.where(change, (dates[0] + 1 + dates[1] % 3) % 4, dates[0])
    scale = -(-size // 4)
    grown = [a.repeat(scale, -2).repeat(scale, -1)[..., :size, :size] for a in (dates, change)]
    return grown[0], grown[1]


def make_changed(root, parts):
    """Classes of own colours where the land changed; 8-bit PNGs of one size."""
    palette = np.array(
        [[0, 0, 255], [255, 220, 90], [0, 110, 30], [190, 30, 40], [255] * 3], np.uint8
    )
    for part, count in parts.items():
        for index in range(count):
            dates, change = truth(index, 64)
            for date in (1, 2):
                noise = np.random.default_rng(index).integers(0, 40, (64, 64, 3))
                image = dates[date - 1][..., None] * 60 + noise
                write(root / f"{part}/im{date}/{index}.png", image.astype(np.uint8))
                stored = palette[np.where(change, dates[date - 1], 4)]
                write(root / f"{part}/label{date}/{index}.png", stored)
    lines = [f"  {name}: {rgb.tolist()}\n" for name, rgb in zip(NAMES, palette, strict=False)]
    (root / "classes.yaml").write_text("classes:\n" + "".join(lines))


def make_dense(root, parts):
    """Classes everywhere; 16-bit GeoTIFFs of four bands, three sizes, with rows of nodata."""
    for part, count in parts.items():
        for index in range(count):
            size = (64, 48, 80)[index % 3]
            dates, _ = truth(index, size)
            for date in (1, 2):
                rng = np.random.default_rng((index, date))
                image = 500 + dates[date - 1] * 900 + rng.integers(0, 300, (4, size, size))
                image[:, :4] = 0
                place = {"left": 1000 * index, "nodata": 0}
                write_tiff(root / f"{part}/im{date}/{index}.tif", image.astype(np.uint16), **place)
                stored = (dates[date - 1][None] * 10 + 10).astype(np.uint8)
                write_tiff(root / f"{part}/label{date}/{index}.tif", stored, left=1000 * index)
    values = ", ".join(f"{name}: {10 * i + 10}" for i, name in enumerate(NAMES))
    (root / "classes.yaml").write_text(
        f"{{classes: [{', '.join(NAMES)}], values: {{{values}}}, labels: dense}}"
    )


def make_codes(root, parts):
    """One label of from-to codes."""
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    table = np.zeros((4, 4), np.uint8)
    for code, pair in enumerate(pairs, start=1):
        table[pair] = code
    for part, count in parts.items():
        for index in range(count):
            dates, _ = truth(index, 64)
            for date in (1, 2):
                image = np.repeat(dates[date - 1][..., None] * 60, 3, -1)
                write(root / f"{part}/im{date}/{index}.png", image.astype(np.uint8))
            write(root / f"{part}/label/{index}.png", table[tuple(dates)])
    lines = [f"  {i}: [{NAMES[a]}, {NAMES[b]}]\n" for i, (a, b) in enumerate(pairs, start=1)]
    (root / "classes.yaml").write_text(f"classes: {NAMES}\ntransitions:\n" + "".join(lines))


def words_of(root, outdir, *more) -> list[str]:
    words = ["--dataset", "pairs", "--data-root", root, "--outdir", outdir, *QUICK, *more]
    return [str(word) for word in words]


@pytest.mark.parametrize("make", [make_changed, make_dense, make_codes])
def test_teachers_pseudo_labels_student_and_scores(tmp_path, make):
    root, teachers, student = tmp_path / "data", tmp_path / "teachers", tmp_path / "student"
    make(root, {"train": 6, "val": 3, "test": 3})
    recipe = [*SMALL, "--split", "official", "--crop-size", "48", "--max-steps", "2"]
    for seed in ("1", "2"):
        train.main(words_of(root, teachers, *recipe, "--seed", seed, "--name", seed))
    label.main(words_of(root, teachers, "--split", "official", "--tta", "none"))
    masks = teachers / "masks" / "train"
    assert len(list((masks / "im1").iterdir())) == 6
    numbers = json.loads((teachers / "metrics" / "pseudo_labels.json").read_text())
    dense = make is make_dense
    assert numbers["tiles"] == 6
    if dense:  # every pixel that has data is labelled
        assert numbers["unchanged_pixels"] == 0
    train.main(words_of(root, student, *recipe, "--use-pseudo-label", masks))
    script.main(words_of(root, student, "--score", "--tta", "none"))
    found = json.loads((student / "metrics" / "test.json").read_text())
    assert found["classes"] == NAMES
    check_scores_and_places(root, student, found, dense)
    (best,) = (student / "models").iterdir()
    check_map(root, student, best, ".tif" if dense else ".png")
    check_export(root, student, best)


def test_a_data_set_that_is_not_there_is_said_before_its_classes(tmp_path):
    path = save_network(tmp_path / "a.pth", SECOND)
    for dataset in ("pairs", "second"):
        words = ["--dataset", dataset, "--data-root", tmp_path / "nowhere", "--checkpoints", path]
        with pytest.raises(
            FileNotFoundError, match=r"there is no folder .*nowhere; correct --data"
        ):
            script.main([str(word) for word in words])


def check_map(root, outdir, best, end) -> None:
    """predict.py has the classes of the data set, and the masks of test.py."""
    images = [root / f"test/im{date}/0{end}" for date in (1, 2)]
    options = ["--out", outdir / "map", "--vector", "none", "--report", *QUICK[2:]]
    predict.main([str(word) for word in (*images, "--checkpoints", best, *options)])
    assert json.loads((outdir / "map/predict.json").read_text())["classes"] == NAMES
    assert "wood" in (outdir / "map/report.html").read_text()
    for date in (1, 2):
        with (
            rasterio.open(outdir / f"map/date{date}.tif") as found,
            rasterio.open(outdir / f"masks/test/im{date}/0{end}") as mask,
        ):
            classes, nodata = found.read(1), found.nodata
            known = classes != nodata
            # probabilities of maps are rounded, and this network's are close to the threshold
            assert (classes[known] == mask.read(1)[known]).mean() > 0.95
            assert known.sum() == (64 - 4 * (end == ".tif")) * 64


def check_export(root, outdir, best) -> None:
    """The exported network scores as the checkpoint does."""
    export.main([str(best), "--out", str(outdir / "network.onnx"), "--format", "onnx"])
    words = ["--checkpoints", outdir / "network.onnx", "--score", "--tta", "none"]
    script.main(words_of(root, outdir / "onnx", *words))
    scores = [json.loads((o / "metrics/test.json").read_text()) for o in (outdir, outdir / "onnx")]
    assert scores[1]["score"] == pytest.approx(scores[0]["score"], abs=1e-3)


def test_pseudo_labels_of_the_upper_part_of_scenes(tmp_path):
    """--split area: teachers label the rows that train, and the student reads them."""
    root, outdir = tmp_path / "data", tmp_path / "out"
    make_changed(root, {"train": 4})
    recipe = [*SMALL, "--split", "area:0.5", "--crop-size", "32", "--max-steps", "1"]
    train.main(words_of(root, outdir, *recipe))
    label.main(words_of(root, outdir, "--split", "area:0.5", "--tta", "none"))
    with rasterio.open(outdir / "masks/train/im1/0.png") as file:
        mask = file.read(1)
    assert mask.shape == (64, 64) and mask[:32].any() and not mask[32:].any()
    train.main(words_of(root, tmp_path / "student", *recipe, "--use-pseudo-label",
                        outdir / "masks/train"))  # fmt: skip
    assert len(list((tmp_path / "student/models").iterdir())) == 1


def test_validation_of_large_scenes_is_what_test_py_finds(tmp_path, monkeypatch):
    root, outdir = tmp_path / "data", tmp_path / "out"
    make_dense(root, {"train": 3, "val": 3})
    monkeypatch.setattr(build, "WHOLE_PX", 32)
    monkeypatch.setattr(build, "TILE_PX", 32)
    monkeypatch.setattr(build, "OVERLAP_PX", 8)
    recipe = [*SMALL, "--split", "official", "--crop-size", "32", "--max-steps", "1"]
    train.main(words_of(root, outdir, *recipe, "--save-mask", "--val-batch-size", "3"))
    found = json.loads((outdir / "metrics/val.json").read_text())
    script.main(words_of(root, tmp_path / "test", "--checkpoints", *(outdir / "models").iterdir(),
                         "--split", "val", "--score", "--tta", "none"))  # fmt: skip
    expected = json.loads((tmp_path / "test/metrics/val.json").read_text())
    assert found["confusion"] == expected["confusion"]
    for path in (tmp_path / "test/masks/val").rglob("*.tif"):
        other = outdir / "masks/val" / path.relative_to(tmp_path / "test/masks/val")
        with rasterio.open(path) as one, rasterio.open(other) as two:
            np.testing.assert_array_equal(one.read(), two.read())
            assert one.transform == two.transform


def check_scores_and_places(root, outdir, found, dense) -> None:
    """Scores are those of the masks on disk; GeoTIFFs lie where their images lie."""
    confusion = ChangeConfusion(4)
    for index in range(3):
        size = (64, 48, 80)[index] if dense else 64
        dates, change = truth(index, size)
        wanted = np.where(change, dates + 1, 0)
        known = np.ones((size, size), bool)
        known[:4] = not dense
        end, masks = ".tif" if dense else ".png", []
        for date in (1, 2):
            with rasterio.open(outdir / f"masks/test/im{date}/{index}{end}") as file:
                masks.append(file.read(1))
                assert not dense or not masks[-1][:4].any()  # no data, no change
                if dense:
                    with rasterio.open(root / f"test/im1/{index}.tif") as image:
                        assert (file.crs, file.transform) == (image.crs, image.transform)
        wanted = np.where(known, wanted, 255)
        confusion.update(torch.from_numpy(np.stack(masks))[None], torch.from_numpy(wanted)[None])
    by_hand = metrics_for("semantic_change", confusion.counts, 4)
    assert found["score"] == pytest.approx(by_hand["score"], abs=1e-9)
    assert found["miou"] == pytest.approx(by_hand["miou"], abs=1e-9)


def test_large_scenes_are_predicted_in_windows_by_the_same_engine(tmp_path):
    root, outdir = tmp_path / "data", tmp_path / "out"
    make_dense(root, {"train": 3, "test": 1})
    recipe = ["--split", "every10th", "--crop-size", "48", "--max-steps", "1"]
    train.main(words_of(root, outdir, *SMALL, *recipe))
    words = words_of(root, outdir, "--tta", "none", "--score", "--save-probs", tmp_path / "probs")
    script.main(words)
    whole = json.loads((outdir / "metrics/test.json").read_text())
    script.main([*words, "--tile-px", "32", "--overlap-px", "8", "--figures", "1"])
    cut = json.loads((outdir / "metrics/test.json").read_text())
    # all pixels with data, once at each date
    assert np.sum(cut["confusion"]) == np.sum(whole["confusion"]) == 64 * 60 * 2
    masks = [rasterio.open(outdir / f"masks/test/im{date}/0.tif").read(1) for date in (1, 2)]
    with rasterio.open(tmp_path / "probs/0.tif") as file, np.load(tmp_path / "probs/0.npz") as old:
        bands = torch.from_numpy(file.read())
        assert old["semantic"].shape == (2, 4, 64, 64) and bands.shape == (9, 64, 64)
    decided = to_masks(Probs(bands[:8].unflatten(0, (2, 4))[None], bands[8][None]))[0]
    assert (decided.numpy() == np.stack(masks))[:, 4:].mean() > 0.99  # near ties
    assert len(list((outdir / "figures/test").iterdir())) == 1


def test_own_classes_can_be_kept_from_staying_the_same(tmp_path):
    root, outdir = tmp_path / "data", tmp_path / "out"
    make_changed(root, {"train": 3, "test": 2})
    path = root / "classes.yaml"
    path.write_text(path.read_text() + "same_class_change: false\n")
    train.main(words_of(root, outdir, *SMALL, "--split", "every10th", "--max-steps", "1"))
    script.main(words_of(root, outdir, "--tta", "none", "--threshold", "0.01"))
    for index in range(2):
        first, second = (
            rasterio.open(outdir / f"masks/test/im{date}/{index}.png").read(1) for date in (1, 2)
        )
        assert (first > 0).any() and (first[first > 0] != second[first > 0]).all()


def test_masks_of_tiffs_without_a_place_are_packed_whole_and_divided(tmp_path):
    """PNG for whole images, TIFF for those that are written strip by strip; never both."""
    root, outdir = tmp_path / "data", tmp_path / "out"
    make_changed(root, {"train": 3, "test": 2})
    for path in [*root.rglob("im1/*.png"), *root.rglob("im2/*.png")]:
        with rasterio.open(path) as file:
            write_tiff(path.with_suffix(".tif"), file.read(), crs=None)
        path.unlink()
    train.main(words_of(root, outdir, *SMALL, "--split", "every10th", "--max-steps", "1"))
    found = {}
    for divided in ([], ["--tile-px", "32"], []):
        script.main(words_of(root, outdir, "--tta", "none", "--zip", *divided))
        files = outdir.glob("masks/test/im*/*")
        names = {str(path.relative_to(outdir / "masks/test")) for path in files}
        with zipfile.ZipFile(outdir / "masks/test.zip") as packed:
            assert set(packed.namelist()) == names and len(names) == 4
        found[len(divided)] = {Path(name).suffix for name in names}
    assert found == {0: {".png"}, 2: {".tif"}}
