"""Land cover of one date from end to end: train.py and test.py on tiny patches."""

import argparse
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import test as script
import train
from datasets import prepare
from datasets.naic2020.submission import read_pkl, read_png
from helpers.sentinel_data import make_dfc2020, make_sen12ms, make_tiff_dir
from helpers.tiny_data import make_folder, make_naic2020, write, write_tiff
from models.build import build_network
from models.checkpoints import load_network, make_recipe
from utils.schemes import NAIC2020, dfc_scheme
from utils.state_files import save_checkpoint

SCENES = {"ROIs1158_spring/s2_1": 4, "ROIs1868_summer/s2_146": 2}
HELD_OUT = ("ROIs1868_summer/s2_146",)
QUICK = ["--num-workers", "0", "--amp", "fp32", "--device", "cpu"]


def run_train(root, outdir, *words) -> None:
    words = ["--data-root", root, "--outdir", outdir, *QUICK, "--batch-size", "2", *words]
    train.main([str(word) for word in [*words, "--name", "run", "--max-steps", "2"]])


def run_test(root, outdir, *words, score: bool = True) -> dict:
    words = ["--data-root", root, "--outdir", outdir, *QUICK, "--tta", "none", *words]
    script.main([str(word) for word in [*words, *["--score"][: int(score)]]])
    path = outdir / "metrics" / "test.json"
    return json.loads(path.read_text()) if score else {}


def read_tiff(path) -> tuple[np.ndarray, str, tuple]:
    """Values of the first band, CRS and transform."""
    import rasterio

    with rasterio.open(path) as file:
        return file.read(1), str(file.crs), file.transform


@pytest.mark.parametrize(
    "network",
    [
        ["--model", "fcn", "--backbone", "test_resnet"],
        ["--model", "plain_unet"],
        ["--model", "mmseg_pspnet", "--backbone", "test_resnet", "--ema"],
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
    root = make_naic2020(tmp_path / "data", size=(32, 24))
    steps = "naic2020"
    images, masks = root / "train" / "image", root / "train" / "label"
    whole = root / "train.json"
    prepare.main(
        [steps, "annotate", str(images), "--mask-dir", str(masks), "--save-path", str(whole)]
    )
    prepare.main([steps, "split", str(whole), "--num-eval", "2"])
    write(root / "image_A" / "9.tif", np.full((48, 20, 3), 99, np.uint8))  # of another size
    prepare.main(
        [steps, "annotate", str(root / "image_A"), "--save-path", str(root / "image_A.json")]
    )
    words = ["--dataset", "naic2020", "--model", "fcn", "--backbone", "test_resnet"]
    out = tmp_path / "out"
    run_train(root, out, *words)
    metrics = json.loads((out / "metrics" / "val.json").read_text())
    assert np.array(metrics["confusion"]).shape == (8, 8)
    # labels and predictions of validation have the size of the files
    assert np.sum(metrics["confusion"]) == 2 * 32 * 24

    run_test(root, out, "--dataset", "naic2020", "--pkl", "--zip", score=False)
    entries = json.loads((root / "image_A.json").read_text())
    stems = [entry["filename"].rpartition("/")[2].removesuffix(".tif") for entry in entries]
    preds = [read_png(png) for png in read_pkl(out / "masks" / "test.pkl")]
    assert [pred.shape for pred in preds] == [(32, 24), (32, 24), (48, 20)]
    with zipfile.ZipFile(out / "masks" / "test.zip") as archive:
        assert archive.namelist() == [f"results/{stem}.png" for stem in stems]
        for stem, pred in zip(stems, preds, strict=True):
            with Image.open(archive.open(f"results/{stem}.png")) as image:
                assert image.mode.startswith("I;16")
                assert np.array_equal(image, (pred.astype(int) + 1) * 100)
            with Image.open(out / "masks" / "test" / "im1" / f"{stem}.png") as mask:
                assert np.array_equal(mask, pred + 1)

    words = ["--split", "val", "--tta", "flips", "--score", "--save-probs", "--preview-dir"]
    run_test(root, out, "--dataset", "naic2020", *words, out / "previews", score=False)
    metrics = json.loads((out / "metrics" / "val.json").read_text())
    confusion = np.array(metrics["confusion"])
    assert confusion.sum() == 2 * 32 * 24 and len(metrics["classes"]) == 8
    assert metrics["oa"] == pytest.approx(confusion.trace() / confusion.sum())
    probs = sorted((out / "probs" / "val").iterdir())
    with np.load(probs[0]) as arrays:
        assert arrays["semantic"].shape == (1, 8, 32, 24)
    assert [p.stem for p in sorted((out / "previews").iterdir())] == [p.stem for p in probs]


def test_pseudo_labels_are_for_changes_only(tmp_path):
    root = make_folder(tmp_path / "data")
    with pytest.raises(ValueError, match=r"--use-pseudo-label is for classes of two .*folder"):
        run_train(root, tmp_path / "out", "--dataset", "folder", "--use-pseudo-label", "x")


def test_sentinel_patches_train_and_become_georeferenced_labels(tmp_path):
    root = make_sen12ms(tmp_path / "sen12ms", SCENES, HELD_OUT)
    contest, town = make_dfc2020(tmp_path / "dfc"), make_tiff_dir(tmp_path / "town")
    out = tmp_path / "out"
    words = ["--dataset", "sen12ms", "--use_s1", "--use_s2hr", "--no_savanna", "--model"]
    words += ["fcn", "--backbone", "resnet18", "--val-dataset", "dfc2020", "--val-root", contest]
    run_train(root, out, *words)
    (path,) = (out / "models").iterdir()
    _, recipe = load_network(path)
    assert recipe["bands"] == ["B2", "B3", "B4", "B8", "VV", "VH"] and len(recipe["classes"]) == 9

    # the network says which bands to read
    previews = tmp_path / "previews"
    metrics = run_test(contest, out, "--dataset", "dfc2020", "--preview-dir", previews, "--zip")
    confusion = np.array(metrics["confusion"])
    rows, columns, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    union = rows + columns - hits
    ious = np.where(union > 0, hits / np.maximum(union, 1), 0)
    assert metrics["miou"] == pytest.approx(ious.mean())  # as published: over all nine
    assert metrics["miou_present"] == pytest.approx(ious[union > 0].mean())
    assert metrics["aa"] == pytest.approx((hits / np.maximum(rows, 1))[rows > 0].mean())
    assert metrics["miou"] < metrics["miou_present"]
    names = [f"ROIs0000_test_{{}}_0_p{i}" for i in range(2)]
    for name in names:
        labels, *place = read_tiff(out / "masks" / "test" / f"{name.format('dfc')}.tif")
        scenes = contest / "ROIs0000_test"
        assert place == list(read_tiff(scenes / "s2_0" / f"{name.format('s2')}.tif")[1:])
        assert place[0].startswith("EPSG:")
        assert set(np.unique(labels)) <= {*range(1, 11)} - {3}  # no savanna
        with Image.open(previews / f"{name.format('s2')}.png") as picture:
            assert picture.width > 3 * 32
    with zipfile.ZipFile(out / "masks" / "test.zip") as archive:
        assert archive.namelist() == [f"{name.format('dfc')}.tif" for name in names]

    run_test(town, tmp_path / "t", "--dataset", "tiff_dir", "--checkpoints", path, score=False)
    found = sorted(file.name for file in (tmp_path / "t" / "masks" / "test").iterdir())
    assert found == ["town_pred_0.tif", "town_pred_1.tif"]
    with pytest.raises(ValueError, match=r"--score: .*town has no labels"):
        run_test(town, tmp_path / "t", "--dataset", "tiff_dir", "--checkpoints", path)


def test_sen12ms_validates_on_the_scenes_that_are_held_out(tmp_path):
    root = make_sen12ms(tmp_path / "sen12ms", SCENES, HELD_OUT)
    words = ["--dataset", "sen12ms", "--use-s1", "--model", "fcn", "--backbone", "test_resnet"]
    run_train(root, tmp_path / "out", *words)
    metrics = json.loads((tmp_path / "out" / "metrics" / "val.json").read_text())
    assert 0 < np.sum(metrics["confusion"]) <= 2 * 32 * 32
    metrics = run_test(root, tmp_path / "out", "--dataset", "sen12ms")
    names = {path.name for path in (tmp_path / "out" / "masks" / "test").iterdir()}
    assert names == {f"ROIs1868_summer_lc_146_p{i}.tif" for i in (1, 2)}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--dataset", "sen12ms"], r"no bands to read; pass at least one of --use-s1"),
        (["--dataset", "sen12ms", "--use-s1", "--bands", "1"], r"--bands: .*--use-s1"),
        (["--dataset", "folder", "--use-s1"], r"--dataset folder has no --use-s1; leave it out"),
        (
            ["--dataset", "sen12ms", "--use-s1", "--val-dataset", "naic2020"],
            r"--dataset naic2020 has no --use-s1|--val-dataset naic2020 has",
        ),
        (["--dataset", "sen12ms", "--use-s1", "--val-root", "x"], r"--val-root belongs to --val-d"),
    ],
    ids=["no bands", "bands", "no such flag", "another scheme", "val root"],
)
def test_flags_that_do_not_fit_are_errors(tmp_path, words, error):
    root = make_sen12ms(tmp_path / "sen12ms", SCENES, HELD_OUT)
    with pytest.raises(ValueError, match=error):
        run_train(root, tmp_path / "out", "--model", "plain_unet", *words)


def test_a_published_dfc_checkpoint_predicts_without_flags(tmp_path):
    network = build_network("plain_unet", num_classes=9, task="land_cover", in_channels=12)
    state = network.state_dict()  # named as published
    options = {"model": "unet", "out_stride": 16, "no_savanna": True, "use_s2lr": False}
    options |= {name: True for name in ("use_s1", "use_s2hr", "use_s2mr")}
    folder = tmp_path / "logs" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"model_state_dict": state, "step": 7}, folder / "checkpoint_step_7.pth")
    (folder / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**options)))
    contest = make_dfc2020(tmp_path / "dfc")
    words = ["--dataset", "dfc2020", "--checkpoints", folder / "checkpoint_step_7.pth"]
    metrics = run_test(contest, tmp_path / "out", *words)
    assert np.array(metrics["confusion"]).shape == (9, 9)
    with pytest.raises(ValueError, match=r"was trained for .*; choose another checkpoint"):
        run_test(contest, tmp_path / "other", *words, "--use-s1")
    contradiction = ["--model", "dfc_deeplabv3plus"]
    with pytest.raises(ValueError, match=r"args\.pkl says that .* is plain_unet on no backbone"):
        run_test(contest, tmp_path / "other", *words, *contradiction)
    # --load-from validates once: what the file says comes before the usual --model
    words = ["--dataset", "dfc2020", "--load-from", folder / "checkpoint_step_7.pth"]
    run_train(contest, tmp_path / "once", *words)
    assert (tmp_path / "once" / "metrics" / "val.json").exists()
    (folder / "args.pkl").unlink()
    with pytest.raises(ValueError, match=r"step_7\.pth does not say which bands .*--use-s1"):
        run_test(
            contest,
            tmp_path / "other",
            "--dataset",
            "dfc2020",
            *contradiction,
            "--checkpoints",
            folder / "checkpoint_step_7.pth",
        )


def test_networks_that_read_tiles_differently_are_not_averaged(tmp_path):
    contest = make_dfc2020(tmp_path / "dfc")
    for index in (False, True):
        scheme = dfc_scheme(s1=not index, s2hr=index, s2mr=False, s2lr=False)
        save_untrained(tmp_path / f"{int(index)}.pth", scheme)
    paths = [tmp_path / "0.pth", tmp_path / "1.pth"]
    with pytest.raises(ValueError, match=r"0\.pth, .*1\.pth read other bands .*: VV VH .*; B2 B3"):
        run_test(contest, tmp_path / "out", "--dataset", "dfc2020", "--checkpoints", *paths)


def save_untrained(path, scheme) -> None:
    where = {"model": "fcn", "backbone": "test_resnet"}
    network = build_network(
        "fcn",
        "test_resnet",
        num_classes=scheme.num_classes,
        task="land_cover",
        in_channels=len(scheme.bands),
    )
    save_checkpoint(path, network.state_dict(), make_recipe(scheme, **where))


def test_bands_of_a_folder_are_remembered_and_may_be_said_again(tmp_path):
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for i in range(4):
        write_tiff(root / "images" / f"{i}.tif", rng.integers(0, 999, (4, 32, 32)).astype("uint16"))
        write(root / "labels" / f"{i}.png", rng.integers(0, 2, (32, 32)).astype(np.uint8))
    (root / "classes.yaml").write_text("[dry, wet]")
    words = ["--dataset", "folder", "--model", "fcn", "--backbone", "test_resnet"]
    run_train(root, tmp_path / "out", *words, "--bands", "4", "1", "--keep-every", "1")
    (path,) = (tmp_path / "out" / "models").iterdir()
    assert load_network(path)[1]["bands"] == ["band4", "band1"]
    kept = sorted(p.name for p in (tmp_path / "out" / "runs" / "run").glob("step_*.pth"))
    assert kept == ["step_1.pth", "step_2.pth"]
    metrics = run_test(root, tmp_path / "out", "--dataset", "folder")
    assert metrics["classes"] == ["dry", "wet"]
    mask, *place = read_tiff(tmp_path / "out" / "masks" / "test" / "im1" / "0.tif")
    assert set(np.unique(mask)) <= {1, 2} and mask.shape == (32, 32)
    assert place == list(read_tiff(root / "images" / "0.tif")[1:])  # in the place of its image
    same = run_test(root, tmp_path / "out", "--dataset", "folder", "--bands", "4", "1")
    assert metrics == same
    with pytest.raises(ValueError, match=r"was trained for bands"):
        run_test(root, tmp_path / "out", "--dataset", "folder", "--bands", "2", "1")


def test_what_cannot_be_trained_or_scored_is_said_at_once(tmp_path):
    root = make_folder(tmp_path / "data")
    words = ["--dataset", "folder", "--model", "fcn", "--backbone", "test_resnet"]
    write(root / "images" / "9.png", np.zeros((48, 32, 3), np.uint8))
    write(root / "labels" / "9.png", np.full((48, 32), 255, np.uint8))
    with pytest.raises(ValueError, match=r"images of 2 sizes \(32 x 32, 48 x 32 .*--crop-size"):
        run_train(root, tmp_path / "out", *words)
    assert not (tmp_path / "out" / "runs").exists()
    only = tmp_path / "val.txt"
    only.write_text("9\n")
    with pytest.raises(ValueError, match=r"no pixel of the validation labels has a class"):
        run_train(root, tmp_path / "out", *words, "--split", only)
    with pytest.raises(ValueError, match=r"--val-dataset folder: .*folder has no --use-s1"):
        sentinel = make_sen12ms(tmp_path / "sen12ms", SCENES, HELD_OUT)
        run_train(
            sentinel,
            tmp_path / "out",
            "--dataset",
            "sen12ms",
            "--use-s1",
            "--val-dataset",
            "folder",
        )
    save_untrained(tmp_path / "rgb.pth", NAIC2020)
    contest = make_dfc2020(tmp_path / "dfc")
    with pytest.raises(
        ValueError, match=r"rgb\.pth was trained on red green blue, which --dataset"
    ):
        run_test(
            contest, tmp_path / "out", "--dataset", "dfc2020", "--checkpoints", tmp_path / "rgb.pth"
        )


def test_flags_for_change_are_refused_for_one_date(tmp_path, capsys):
    root = make_folder(tmp_path / "data")
    for words in (["--swap-dates"], ["--changed-weight", "3"], ["--change-loss", "dice_bce"]):
        with pytest.raises(SystemExit):
            run_train(root, tmp_path / "out", "--dataset", "folder", *words)
        assert f"{words[0]} is for change, --dataset folder has one date" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_test(root, tmp_path / "out", "--dataset", "folder", "--threshold", "0.9")
    assert "--threshold is for change" in capsys.readouterr().err


def test_validation_writes_masks_as_test_py_does(tmp_path):
    root, outdir = make_sen12ms(tmp_path / "sen12ms", SCENES, HELD_OUT), tmp_path / "out"
    run_train(root, outdir, "--dataset", "sen12ms", "--use-s1", "--save-mask", "--max-steps", "1")
    masks = [p for p in (outdir / "masks/val").rglob("*") if p.is_file()]
    assert masks and all(path.suffix == ".tif" for path in masks)


@pytest.mark.parametrize("divided", [[], ["--tile-px", "32"]], ids=["whole", "divided"])
def test_masks_of_land_cover_are_0_where_there_are_no_data(tmp_path, divided):
    root = tmp_path / "data"
    for part, count in {"train": 3, "test": 1}.items():
        for index in range(count):
            image = np.random.default_rng(index).integers(1, 5000, (4, 48, 48)).astype(np.uint16)
            image[:, :10] = 0
            write_tiff(root / part / f"images/{index}.tif", image, nodata=0)
            classes = (image[:1] > 2500).astype(np.uint8)
            write_tiff(root / part / f"labels/{index}.tif", classes)
    (root / "classes.yaml").write_text("[low, high]")
    network = ["--model", "fcn", "--backbone", "test_resnet"]
    run_train(root, tmp_path / "out", "--dataset", "folder", "--split", "every10th", *network)
    scores = run_test(root, tmp_path / "out", "--dataset", "folder", *divided)
    assert np.sum(scores["confusion"]) == 38 * 48
    mask, crs, _ = read_tiff(tmp_path / "out/masks/test/im1/0.tif")
    assert (mask[:10] == 0).all() and (mask[10:] > 0).all() and crs == "EPSG:32637"
