"""test.py from end to end on tiny tiles."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import test as script
from datasets.codecs import read_label
from helpers.networks import make_teachers
from inference.destinations import names_to_draw
from report import write_report
from utils.schemes import SECOND

QUICK = ["--num-workers", "0", "--amp", "fp32", "--device", "cpu", "--test-batch-size", "2"]


@pytest.fixture
def place(second_root, tmp_path):
    """A tiny data set with a labelled test/ and an unlabelled val/, and two networks."""
    root, outdir = second_root(train=2, test=5, val=3, size=32), tmp_path / "out"
    make_teachers(outdir)
    return root, outdir


def run_test(root, outdir, *words: str) -> None:
    script.main(["--data-root", str(root), "--outdir", str(outdir), *QUICK, *words])


def read_mask(path) -> np.ndarray:
    image = Image.open(path)
    assert image.mode == "P"
    assert tuple(image.getpalette()[:21]) == sum(SECOND.palette, ())
    return np.asarray(image)


def test_every_tile_gets_two_palette_masks_that_agree_on_the_change(place):
    root, outdir = place
    run_test(root, outdir)
    for i in range(5):
        date1, date2 = (read_mask(outdir / f"masks/test/im{d}/{i:05d}.png") for d in (1, 2))
        assert date1.shape == (32, 32)
        assert ((date1 == 0) == (date2 == 0)).all()
    assert len(list((outdir / "masks/test").glob("im*/*.png"))) == 10


def test_masks_are_the_thresholded_probabilities_that_are_saved(place):
    root, outdir = place
    run_test(root, outdir, "--save-probs")
    with np.load(outdir / "probs/test/00003.npz") as probs:
        semantic, change = probs["semantic"], probs["change"]
    assert semantic.shape == (2, 6, 32, 32) and semantic.dtype == np.float16
    assert change.shape == (32, 32) and change.dtype == np.float16
    want = np.where(change > 0.5, semantic.argmax(1) + 1, 0)
    got = np.stack([read_mask(outdir / f"masks/test/im{d}/00003.png") for d in (1, 2)])
    assert (got != want).mean() < 0.01  # float16 moves a few ties


def test_an_ensemble_averages_its_members(place):
    root, outdir = place
    paths = [str(path) for path in sorted((outdir / "models").glob("*.pth"))]
    probs = {}
    for name, chosen in (("a", paths[:1]), ("b", paths[1:]), ("both", paths)):
        folder = outdir / name
        run_test(root, outdir, "--checkpoints", *chosen, "--save-probs", str(folder))
        with np.load(folder / "00000.npz") as file:
            probs[name] = file["change"].astype(np.float32)
    mean = (probs["a"] + probs["b"]) / 2
    np.testing.assert_allclose(probs["both"], mean, atol=2e-3)


def test_what_an_earlier_test_left_beside_new_masks_is_named(place, tmp_path, capsys):
    root, outdir = place

    def stale(*words: str) -> set[str]:
        capsys.readouterr()
        run_test(root, outdir, *words)
        lines = capsys.readouterr().out.splitlines()
        return {x.split(" is of")[0] for x in lines if x.endswith("not of these masks")}

    everything = ["--zip", "--save-probs", "--figures", "1", "--score"]
    left = {"masks/test.zip", "probs/test", "figures/test", "metrics/test.json"}
    assert stale(*everything) == stale(*everything) == set()
    assert stale() == {f"{outdir}/{path}" for path in left}
    elsewhere = ["--zip", f"{tmp_path}/a.zip", "--save-probs", f"{tmp_path}/probs", "--score"]
    assert stale(*elsewhere) == {f"{outdir}/{path}" for path in left - {"metrics/test.json"}}
    assert stale("--zip") == {f"{outdir}/{path}" for path in left - {"masks/test.zip"}}


def test_score_counts_the_written_masks(place):
    root, outdir = place
    run_test(root, outdir, "--score")
    metrics = json.loads((outdir / "metrics/test.json").read_text())
    confusion = np.zeros((7, 7), int)
    for i in range(5):
        for date in (1, 2):
            truth = read_label(root / f"test/label{date}/{i:05d}.png", SECOND.palette)
            pred = read_mask(outdir / f"masks/test/im{date}/{i:05d}.png")
            np.add.at(confusion, (truth.ravel(), pred.ravel()), 1)
    assert metrics["confusion"] == confusion.tolist()
    assert metrics["oa"] == pytest.approx(np.trace(confusion) / confusion.sum())


def test_what_made_the_masks_is_recorded_for_the_report(place):
    root, outdir = place
    run_test(root, outdir, "--score")
    record = json.loads((outdir / "testing/test_options.json").read_text())
    paths = sorted((outdir / "models").glob("*.pth"))
    assert record["checkpoints"] == [str(path) for path in paths]
    assert record["options"]["score"] and record["options"]["data_root"] == str(root)
    page = write_report(outdir, images=1).read_text()
    assert paths[0].name in page and "Prediction of test" in page


def test_score_without_labels_is_an_error_before_any_work(place):
    root, outdir = place
    with pytest.raises(ValueError, match=r"val has no labels; leave out --score"):
        run_test(root, outdir, "--split", "val", "--score")
    assert not (outdir / "masks").exists()


def test_another_split_is_written_under_its_own_name(place):
    root, outdir = place
    run_test(root, outdir, "--split", "val")
    assert len(list((outdir / "masks/val/im2").glob("*.png"))) == 3


def test_an_unlabelled_val_is_the_test_set_where_there_is_no_test_folder(second_root, tmp_path):
    root, outdir = second_root(train=2, val=3, size=32), tmp_path / "out"
    make_teachers(outdir, count=1)
    run_test(root, outdir)
    assert len(list((outdir / "masks/test/im1").glob("*.png"))) == 3


def test_zip_and_figures(place):
    root, outdir = place
    run_test(root, outdir, "--zip", "--figures", "2")
    with zipfile.ZipFile(outdir / "masks/test.zip") as archive:
        names = archive.namelist()
    assert sorted(names) == [f"im{d}/{i:05d}.png" for d in (1, 2) for i in range(5)]
    figures = sorted(path.name for path in (outdir / "figures/test").iterdir())
    assert figures == ["00000.png", "00002.png"]


def test_a_time_limit_drops_views_and_still_predicts_everything(place, capsys):
    root, outdir = place
    run_test(root, outdir, "--time-limit", "0.001")
    assert "0 of 3 batches with TTA" in capsys.readouterr().out
    assert len(list((outdir / "masks/test/im1").glob("*.png"))) == 5


def test_a_generous_time_limit_predicts_as_without_one(place):
    root, outdir = place
    run_test(root, outdir, "--save-probs", str(outdir / "a"))
    run_test(root, outdir, "--save-probs", str(outdir / "b"), "--time-limit", "100000")
    for i in range(5):
        with np.load(outdir / f"a/{i:05d}.npz") as a, np.load(outdir / f"b/{i:05d}.npz") as b:
            np.testing.assert_array_equal(a["change"], b["change"])


def test_a_checkpoint_for_other_classes_is_refused(place):
    root, outdir = place
    path = sorted((outdir / "models").glob("*.pth"))[0]
    content = torch.load(path, weights_only=True)
    content["recipe"]["classes"][0] = "lava"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"0\.00\.pth was trained for classes .*lava"):
        run_test(root, outdir)
    assert not (outdir / "masks").exists()


def test_evenly_chooses_at_equal_distances():
    names = [str(i) for i in range(10)]
    assert names_to_draw(names, 3) == {"0", "3", "6"}
    assert names_to_draw(names, 0) == set()
    assert names_to_draw(names, 99) == set(names)


def test_pseudo_labels_are_never_replaced_by_predictions(place):
    root, outdir = place
    (outdir / "masks" / "train").mkdir(parents=True)
    (outdir / "masks" / "train" / "labelling.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds pseudo labels.*--outdir"):
        run_test(root, outdir, "--split", "train")


def test_a_checkpoint_being_written_is_not_taken_for_a_network(place):
    root, outdir = place
    (outdir / "models" / ".fcn_hrnet_w18_v1_9.99-abc.pth").write_bytes(b"half")
    run_test(root, outdir)


def test_renamed_folders_are_checked_and_read(place):
    root, outdir = place
    (root / "nest").mkdir()
    (root / "test").rename(root / "nest" / "t")
    run_test(root, outdir, "--folders", "test=nest/t")
    assert len(list((outdir / "masks/test/im1").glob("*.png"))) == 5
