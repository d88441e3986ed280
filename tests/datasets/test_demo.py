"""The demo data set: plausible labels, looks that mislead, files that are whole."""

import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import demo
from datasets.demo import ensure_demo, make_scene, write_demo
from datasets.demo.canvas import COLUMN
from datasets.demo.render import shadows
from datasets.demo.scene import draw, settle
from datasets.demo.shapes import area, band, box, cut, inner_box, lattice
from datasets.demo.uses import USES
from utils.schemes import SECOND

FOLDERS = ("im1", "im2", "label1", "label2", "dense1", "dense2")


@cache
def scenes(count: int = 30, size: int = 96):
    return [make_scene(0, index, size) for index in range(count)]


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    assert write_demo(out, pairs=6, size=64, seed=3)
    return out


# -- what a scene holds


def test_same_seed_gives_the_same_scene_and_another_seed_or_part_does_not():
    first, again = make_scene(5, 2, 64), make_scene(5, 2, 64)
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one, two)
    for other in (make_scene(6, 2, 64), make_scene(5, 3, 64), make_scene(5, 2, 64, part="test")):
        assert not np.array_equal(first.image1, other.image1)


def test_scene_has_two_pictures_and_a_class_for_every_pixel():
    for scene in scenes():
        assert scene.image1.mode == scene.image2.mode == "RGB"
        assert scene.image1.size == scene.image2.size == (96, 96)
        for dense in (scene.dense1, scene.dense2):
            assert dense.dtype == np.uint8 and dense.shape == (96, 96)
            assert dense.min() >= 1 and dense.max() <= 6


def test_every_class_appears_at_both_dates_and_among_the_changes():
    for date in ("dense1", "dense2"):
        dense = np.stack([getattr(scene, date) for scene in scenes()])
        change = np.stack([scene.dense1 != scene.dense2 for scene in scenes()])
        assert set(np.unique(dense)) == set(range(1, 7))
        assert set(np.unique(dense[change])) == set(range(1, 7))


def test_share_of_change_is_moderate_and_varies():
    share = np.array([(scene.dense1 != scene.dense2).mean() for scene in scenes()])
    assert 0.12 < share.mean() < 0.27
    assert share.min() < 0.03 and share.max() > 0.3
    assert share.max() < 0.6


def test_image_difference_is_a_poor_change_detector():
    difference, change = [], []
    for scene in scenes():
        one, two = (np.asarray(image, np.float32) for image in (scene.image1, scene.image2))
        centred = (one - one.mean((0, 1))) - (two - two.mean((0, 1)))
        difference.append(np.abs(centred).mean(2).ravel())
        change.append((scene.dense1 != scene.dense2).ravel())
    difference, change = np.concatenate(difference), np.concatenate(change)
    order = difference.argsort(kind="stable").argsort(kind="stable") + 1.0
    positives = change.sum()
    # Mann-Whitney: the share of (changed, unchanged) pairs in the right order
    wins = order[change].sum() - positives * (positives + 1) / 2
    auc = wins / (positives * (~change).sum())
    assert 0.6 < auc < 0.82
    assert np.quantile(difference[~change], 0.95) > np.median(difference[change])


def test_looks_of_the_two_dates_differ_where_nothing_changed():
    for scene in scenes()[:10]:
        same = scene.dense1 == scene.dense2
        one, two = (np.asarray(image, float) for image in (scene.image1, scene.image2))
        assert np.abs(one - two)[same].mean() > 5


def test_cars_leave_the_labels_alone_but_not_the_picture():
    covers, maps = [], []
    for passing in (1, 2):
        land = settle(96, np.random.default_rng(3))
        ids, table = draw(land, 128, np.random.default_rng(passing))
        covers.append(table[:, COLUMN["cover"]][ids])
        maps.append(table[:, COLUMN["red"]][ids])
    assert np.array_equal(*covers)
    assert not np.array_equal(*maps)


@pytest.mark.parametrize("use", USES)
def test_every_use_draws_on_a_sliver_and_on_a_large_parcel(use):
    for size in ((4, 2), (90, 70)):
        land = settle(48, np.random.default_rng(0))
        parcel = land.parcels[0]._replace(polygon=box(*size, 0.3) + 24, use=use)
        ids, table = draw(land._replace(parcels=[parcel], strips=[]), 64, np.random.default_rng(0))
        assert len(np.unique(ids)) > 1
        assert np.isfinite(table).all()


# -- its geometry and light, by hand


def test_cut_and_band_keep_the_right_areas():
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    assert area(cut(square, np.array([3.0, 0]), np.array([1.0, 0]))) == pytest.approx(70)
    assert len(cut(square, np.array([11.0, 0]), np.array([1.0, 0]))) == 0
    assert area(band(square, np.array([0.0, 5]), np.array([1.0, 0]), 4)) == pytest.approx(40)


def test_lattice_boxes_fit_inside_the_polygon():
    square = np.array([[0.0, 0], [40, 0], [40, 40], [0, 40]])
    points = lattice(square, (18, 12), 2, size=(14, 8))
    assert len(points) == 6  # 2 along (13 +- 9 px), 3 across
    assert np.abs(points - 20).max(0) == pytest.approx([9, 12])
    assert lattice(square, (18, 12), 30).shape == (0, 2)


def test_inner_box_fills_a_rectangle_but_for_the_inset():
    assert inner_box(box(30, 20, 0.4), 1.5, 2) == pytest.approx((24, 16))


def test_shadow_points_away_from_the_sun_and_is_as_long_as_the_sun_is_low():
    height = np.zeros((40, 40), np.float32)
    height[18:22, 18:22] = 8
    shade = shadows(height, np.array([1.0, 0.0]), slope=1.0)  # sun in the east at 45 degrees
    assert shade[20, 11:17].min() > 0.5  # 8 px high: 8 px of shadow to the west
    assert shade[20, :9].max() == 0 and shade[20, 22:].max() == 0
    assert shade[18:22, 18:22].max() == 0  # nothing stands above its roof
    low = shadows(height, np.array([1.0, 0.0]), slope=0.5)
    assert low[20, 4:17].min() > 0.3


# -- the files


def test_layout_is_that_of_second(written):
    for part, count in (("train", 5), ("test", 1)):
        for folder in FOLDERS:
            names = sorted(path.name for path in (written / part / folder).iterdir())
            assert names == [f"{index:05d}.png" for index in range(count)]


def test_labels_hold_changed_pixels_only(written):
    for path in sorted(written.glob("*/label1/*.png")):
        part = path.parents[1]
        label1, label2, dense1, dense2 = (
            np.asarray(Image.open(part / folder / path.name)) for folder in FOLDERS[2:]
        )
        change = dense1 != dense2
        assert np.array_equal(label1 != 0, change) and np.array_equal(label2 != 0, change)
        assert np.array_equal(label1[change], dense1[change])
        assert np.array_equal(label2[change], dense2[change])


def test_labels_are_palette_pictures(written):
    for folder in FOLDERS[2:]:
        image = Image.open(written / "train" / folder / "00000.png")
        assert image.mode == "P"
        assert image.getpalette()[:21] == [value for rgb in SECOND.palette for value in rgb]


def test_same_seed_gives_the_same_bytes(written, tmp_path):
    write_demo(tmp_path / "again", pairs=6, size=64, seed=3)
    assert digests(tmp_path / "again") == digests(written)


def test_a_tile_does_not_depend_on_how_many_there_are(written, tmp_path):
    write_demo(tmp_path / "few", pairs=2, size=64, seed=3)
    few, many = digests(tmp_path / "few"), digests(written)
    assert all(many[name] == digest for name, digest in few.items() if name != "demo.json")


def test_finished_data_set_is_left_alone(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert write_demo(written, pairs=6, size=64, seed=3) is False
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_other_parameters_need_overwrite(tmp_path):
    out = tmp_path / "demo"
    write_demo(out, pairs=2, size=32, seed=0)
    with pytest.raises(ValueError, match=r"--out .*demo.* seed 0 instead of 1.*--overwrite"):
        write_demo(out, pairs=2, size=32, seed=1)
    assert json.loads((out / "demo.json").read_text())["seed"] == 0
    assert write_demo(out, pairs=2, size=32, seed=1, overwrite=True)
    assert json.loads((out / "demo.json").read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_something_else_is_refused_and_kept(tmp_path, overwrite):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"not a finished demo data set.*demo\.json"):
        write_demo(tmp_path, pairs=2, size=32, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_write_tile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "demo", pairs=2, size=32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"pairs": 1}, "--pairs"), ({"size": 8}, "--size"), ({"seed": -1}, "--seed")],
)
def test_bad_parameters_name_their_flag(tmp_path, options, flag):
    with pytest.raises(ValueError, match=flag):
        write_demo(tmp_path / "demo", **{"pairs": 2, "size": 32, **options})


def test_out_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        write_demo(tmp_path / "file", pairs=2, size=32)


def test_ensure_demo_makes_what_is_missing_and_keeps_what_is_there(tmp_path, monkeypatch, written):
    made = []
    monkeypatch.setattr(demo, "write_demo", lambda root: made.append(root))
    assert ensure_demo(written) == written and not made
    assert ensure_demo(str(tmp_path / "none")) == tmp_path / "none"
    assert made == [tmp_path / "none"]


def test_command_line_makes_five_pairs(tmp_path):
    flags = ["--out", str(tmp_path / "demo"), "--pairs", "5", "--size", "64"]
    command = [sys.executable, "-m", "datasets.demo", *flags]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "5 pairs of 64 px" in done.stdout
    assert len(list((tmp_path / "demo").glob("*/im1/*.png"))) == 5


def test_command_line_says_that_the_data_set_is_there(written, capsys):
    demo.main(["--out", str(written), "--pairs", "6", "--size", "64", "--seed", "3"])
    assert "already there" in capsys.readouterr().out
