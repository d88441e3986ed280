"""label.py from end to end on tiny tiles."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import label
from datasets.codecs import read_label
from helpers.networks import make_teachers
from inference.predictor import Member, Predictor
from inference.pseudo_labels import vote
from models.checkpoints import network_of
from models.normalise import Normalise
from utils.schemes import SECOND

QUICK = ["--num-workers", "0", "--amp", "fp32", "--tta", "none", "--device", "cpu"]


@pytest.fixture
def place(second_root, tmp_path):
    """A tiny data set and an outdir with two teachers."""
    root, outdir = second_root(train=12, size=32), tmp_path / "out"
    make_teachers(outdir)
    return root, outdir


def run_label(root, outdir, *words: str) -> None:
    label.main(["--data-root", str(root), "--outdir", str(outdir), *QUICK, *words])


def masks_of(outdir) -> dict[str, np.ndarray]:
    folder = outdir / "masks" / "train"
    return {
        f"{path.parent.name}/{path.stem}": np.asarray(Image.open(path))
        for path in sorted(folder.glob("im*/*.png"))
    }


def test_every_training_tile_is_labelled_and_true_labels_are_kept(place):
    root, outdir = place
    run_label(root, outdir)
    masks = masks_of(outdir)
    assert len(masks) == 2 * 10  # 12 tiles, 2 validate
    for date in (1, 2):
        truth = read_label(root / f"train/label{date}/00001.png", SECOND.palette)
        mask = masks[f"im{date}/00001"]
        assert (mask[truth > 0] == truth[truth > 0]).all()
    unchanged = read_label(root / "train/label1/00001.png", SECOND.palette) == 0
    assert (masks["im1/00001"] == masks["im2/00001"])[unchanged].all()


def test_the_vote_is_the_published_one_over_single_predictions(place):
    root, outdir = place
    run_label(root, outdir)
    image = np.stack([np.asarray(Image.open(root / f"train/im{d}/00001.png")) for d in (1, 2)])
    images = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())[None]
    preds = []
    for path in sorted((outdir / "models").glob("*.pth")):
        content = torch.load(path, weights_only=True)
        network = network_of(content["recipe"]).eval()
        network.load_state_dict(content["model"])
        member = Member(network, Normalise.of(SECOND))
        probs = Predictor([member], torch.device("cpu"))(images)
        preds.append(probs.semantic.argmax(2))
    truth = np.stack(
        [read_label(root / f"train/label{d}/00001.png", SECOND.palette) for d in (1, 2)]
    )
    want = vote(torch.stack(preds), torch.from_numpy(truth)[None])[0].numpy()
    got = masks_of(outdir)
    different = (np.stack([got["im1/00001"], got["im2/00001"]]) != want).mean()
    assert different < 0.01  # folding moves probabilities by rounding only
    assert len(np.unique(want)) > 2


def test_statistics_are_written_and_add_up(place):
    root, outdir = place
    run_label(root, outdir)
    stats = json.loads((outdir / "metrics" / "pseudo_labels.json").read_text())
    masks, labels = masks_of(outdir), root / "train" / "label1"
    unchanged = labelled = 0
    for key, mask in masks.items():
        if key.startswith("im1/"):
            truth = read_label(labels / f"{key[4:]}.png", SECOND.palette)
            unchanged += (truth == 0).sum()
            labelled += ((truth == 0) & (mask > 0)).sum()
    assert stats["unchanged_pixels"] == unchanged and stats["labelled_pixels"] == labelled
    assert stats["tiles"] == 10 and stats["rule"] == "vote"
    assert stats["accuracy"] is None  # there is no dense truth here


def test_dense_truth_gives_an_accuracy_and_is_not_used_for_labels(place, tmp_path):
    root, outdir = place
    run_label(root, outdir)
    before = masks_of(outdir)
    for date in (1, 2):
        folder = root / "train" / f"dense{date}"
        folder.mkdir()
        for key in before:
            if key.startswith("im1/"):  # a truth that says class 3 wherever nothing changed
                truth = read_label(root / f"train/label{date}/{key[4:]}.png", SECOND.palette)
                dense = np.where(truth == 0, 3, truth).astype(np.uint8)
                Image.fromarray(dense).save(folder / f"{key[4:]}.png")
    run_label(root, outdir, "--overwrite")
    stats = json.loads((outdir / "metrics" / "pseudo_labels.json").read_text())
    per_class, pixels = stats["accuracy_per_class"], stats["pixels_per_class"]
    assert [a for a, n in zip(per_class, pixels, strict=True) if n] == [
        float(k == 3) for k, n in enumerate(pixels, start=1) if n
    ]
    assert stats["accuracy"] == pytest.approx(pixels[2] / sum(pixels))
    assert all(np.array_equal(mask, before[key]) for key, mask in masks_of(outdir).items())


def test_an_interrupted_labelling_goes_on_where_it_stopped(place, capsys):
    root, outdir = place
    run_label(root, outdir)
    want, stats = masks_of(outdir), (outdir / "metrics" / "pseudo_labels.json").read_text()
    folder = outdir / "masks" / "train"
    lines = (folder / "done_0.jsonl").read_text().strip().splitlines()
    # the writer was killed in the middle of a line; later masks were not written
    (folder / "done_0.jsonl").write_text("\n".join(lines[:4]) + "\n" + lines[4][:20])
    kept = {json.loads(line)["name"] for line in lines[:4]}
    for path in folder.glob("im*/*.png"):
        if path.stem not in kept:
            path.unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("im*/*.png")}
    run_label(root, outdir)
    assert "4 tiles are labelled already" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    got = masks_of(outdir)
    assert got.keys() == want.keys()
    assert all(np.array_equal(got[key], want[key]) for key in want)
    assert (outdir / "metrics" / "pseudo_labels.json").read_text() == stats


def test_other_settings_are_refused_until_overwrite_is_said(place):
    root, outdir = place
    run_label(root, outdir)
    with pytest.raises(ValueError, match=r"rule: vote -> mean.*--overwrite"):
        run_label(root, outdir, "--rule", "mean")
    run_label(root, outdir, "--rule", "mean", "--overwrite")
    assert json.loads((outdir / "metrics" / "pseudo_labels.json").read_text())["rule"] == "mean"


def test_nothing_is_recorded_until_the_teachers_are_read(place):
    root, outdir = place
    teacher = sorted((outdir / "models").glob("*.pth"))[0]
    whole = teacher.read_bytes()
    teacher.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="copy it again"):
        run_label(root, outdir)
    assert not (outdir / "masks/train/labelling.json").exists()
    teacher.write_bytes(whole)
    run_label(root, outdir)


def test_masks_of_unknown_origin_are_not_overwritten(place):
    root, outdir = place
    folder = outdir / "masks" / "train" / "im1"
    folder.mkdir(parents=True)
    Image.new("P", (32, 32)).save(folder / "00001.png")
    with pytest.raises(ValueError, match=r"did not record.*--overwrite"):
        run_label(root, outdir)


def test_a_higher_confidence_labels_fewer_pixels(place):
    root, outdir = place
    shares = []
    for confidence in ("0", "0.6", "1"):
        run_label(root, outdir, "--rule", "mean", "--min-confidence", confidence, "--overwrite")
        stats = json.loads((outdir / "metrics" / "pseudo_labels.json").read_text())
        shares.append(stats["share_labelled"])
    assert shares[0] > shares[1] >= shares[2]


def test_confidence_without_the_mean_rule_is_an_error(capsys):
    with pytest.raises(SystemExit):
        label.parse_args(["--min-confidence", "0.5"])
    assert "--rule mean" in capsys.readouterr().err


def test_no_checkpoints_says_where_they_were_looked_for(second_root, tmp_path):
    root = second_root(train=12, size=32)
    with pytest.raises(FileNotFoundError, match=r"models.*train\.py.*--checkpoints"):
        run_label(root, tmp_path / "empty")


def test_a_deleted_mask_is_made_again(place):
    root, outdir = place
    run_label(root, outdir)
    want = masks_of(outdir)
    (outdir / "masks" / "train" / "im2" / "00003.png").unlink()
    run_label(root, outdir)
    got = masks_of(outdir)
    assert got.keys() == want.keys()
    assert all(np.array_equal(got[key], want[key]) for key in want)


def test_overwrite_removes_the_masks_of_before(place):
    root, outdir = place
    run_label(root, outdir)
    split = outdir / "ids.txt"
    split.write_text("00000\n00001\n00002\n")
    with pytest.raises(ValueError, match=r"split: every10th -> .*ids\.txt.*--overwrite"):
        run_label(root, outdir, "--split", str(split))
    run_label(root, outdir, "--split", str(split), "--overwrite")
    assert {key[4:] for key in masks_of(outdir)} == {f"{i:05d}" for i in range(3, 12)}


def test_a_tile_that_another_process_left_out_is_an_error_that_names_it(place, monkeypatch):
    root, outdir = place
    monkeypatch.setattr(label.distributed, "world", lambda: 2)  # and the other one never comes
    monkeypatch.setattr(label.distributed, "barrier", lambda: None)
    with pytest.raises(ValueError, match=r"5 tile\(s\) are still without.*00002"):
        run_label(root, outdir)


def test_tiles_without_dense_truth_are_unknown_beside_one_with_it():
    masks = torch.zeros(2, 2, 1, 3, dtype=torch.uint8)
    assert label.stacked([None, None], masks) is None
    dense = np.full((2, 1, 3), 4, np.uint8)
    assert label.stacked([None, dense], masks).tolist() == [[[[0] * 3]] * 2, [[[4] * 3]] * 2]
