import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.layout import REQUIREMENTS, DataError, parse_names
from datasets.prepare import main
from datasets.transforms import Augment
from helpers.data_sets import builder, checker, scheme_finder
from helpers.tiny_data import make_binary, truncate, write, write_envi, write_tiff
from utils.schemes import change_scheme
from utils.structures import IGNORE_INDEX

binary_scheme = scheme_finder("binary")
build_binary = builder("binary")
check_binary = checker("binary")

SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"
RGB = change_scheme(("red", "green", "blue"), "none")


def check(root, *parts, **options):
    options = {"scheme": RGB, "progress": False} | options
    return check_binary(root, parts or None, **options)


def failure(root, *parts, **options):
    with pytest.raises(DataError) as error:
        check(root, *parts, **options)
    return error.value


def build(root, part="train", **options):
    return build_binary(root, part, **{"scheme": RGB, **options})


def undivided(tmp_path):
    return make_binary(tmp_path, {"": 5})


def test_parts_and_their_scenes(tmp_path):
    root = make_binary(tmp_path, {"train": 5, "val": 2, "test": 3})
    assert check(root) == {"train": 5, "val": 2, "test": 3}
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        dataset = build(root, part)
        assert dataset.names == [f"{i:03d}" for i in range(count)]
        assert dataset.labelled and dataset.part == part and dataset.path == root / part
        assert dataset[0].images.shape == (2, 3, 64, 64)
        assert 0.05 < (dataset[0].change == 1).float().mean() < 0.2


def test_test_is_val_or_all_where_there_is_no_test(tmp_path):
    root = make_binary(tmp_path / "a", {"train": 2, "val": 1})
    assert build(root, "test").path == root / "val"
    assert len(build(undivided(tmp_path / "b"), "test").names) == 5
    assert check(tmp_path / "b", "test") == {"test": 5}


def test_any_other_folder_is_a_part(tmp_path):
    root = make_binary(tmp_path, {"train": 1, "town": 2})
    assert build(root, "town").names == ["000", "001"] and check(root, "town") == {"town": 2}
    with pytest.raises(FileNotFoundError, match=r"no part 'city' in .* has train.*--split"):
        build(root, "city")


def test_lists_divide_an_undivided_folder(tmp_path):
    root = undivided(tmp_path)
    for part, lines in (("train", "003.png\n001\n"), ("val", "000.png\n\n")):
        (root / "list").mkdir(exist_ok=True)
        (root / f"list/{part}.txt").write_text(lines)
    assert build(root, "train").names == ["003", "001"]
    assert build(root, "val", split_rule="official").names == ["000"]
    assert build(root, "test").names == ["000"]
    assert check(root) == {"train": 2, "val": 1}
    assert build(root, "val", split_rule="leave_out:003").names == ["003"]
    (root / "label/002.png").unlink()  # of no part
    assert check(root) == {"train": 2, "val": 1}
    (root / "list/train.txt").write_text("003\n007.png\n")
    with pytest.raises(ValueError, match=r"train.txt: 1 id\(s\) not in .*A: 007"):
        build(root, "train")


def test_grey_and_lossy_masks_are_read_by_a_threshold(tmp_path):
    root = make_binary(tmp_path, {"train": 2})
    expected = [sample.change for sample in build(root)]
    for path in (root / "train/label").iterdir():
        grey = np.where(expected[int(path.stem)].numpy() == 1, 180, 30).astype(np.uint8)
        path.unlink()
        write(path.with_suffix(".jpg"), grey.repeat(4, 0).repeat(4, 1)[::4, ::4])
    with pytest.raises(DataError, match=r"`threshold: 128` in classes\.yaml"):
        check(root)
    (root / "classes.yaml").write_text("threshold: 105")
    assert check(root) == {"train": 2}
    for sample, change in zip(build(root), expected, strict=True):
        assert (sample.change == change).float().mean() > 0.97  # JPEG blurs edges
    (root / "classes.yaml").write_text("threshold: 300")
    with pytest.raises(DataError, match=r"uint8 values cannot reach the threshold of 300"):
        check(root)


def test_splits(tmp_path):
    root = make_binary(tmp_path, {"train": 12, "val": 2})
    assert build(root, "val", split_rule="every10th").names == ["000", "010"]
    assert len(build(root, "train", split_rule="every10th").names) == 10
    assert build(root, "val", split_rule="official").path == root / "val"
    assert build(root, "train", split_rule="official").names == [f"{i:03d}" for i in range(12)]
    assert len(build(root, "val", split_rule="area:0.25", tile_px=16, whole_px=0)) == 12 * 4
    (tmp_path / "ids.txt").write_text("005\n")
    assert build(root, "val", split_rule=str(tmp_path / "ids.txt")).names == ["005"]
    with pytest.raises(FileNotFoundError, match="--split official: there is no part 'val'"):
        build(undivided(tmp_path / "b"), "val", split_rule="official")
    with pytest.raises(FileNotFoundError, match="--split nothing is neither a rule"):
        build(root, "val", split_rule="nothing")


def test_training_needs_labels_and_testing_does_not(tmp_path):
    root = make_binary(tmp_path, {"train": 2})
    shutil.rmtree(root / "train/label")
    dataset = build(root)
    assert not dataset.labelled and (dataset[0].change == IGNORE_INDEX).all()
    assert check(root) == {"train": 2}
    with pytest.raises(ValueError, match="has no labels"):
        build(root, split_rule="every10th")


def test_folders_can_be_called_otherwise(tmp_path):
    root = make_binary(tmp_path, {"train": 2})
    for old, new in (("train/A", "train/before"), ("train/label", "train/OUT"), ("train", "t")):
        (root / old).rename(root / new)
    with pytest.raises(FileNotFoundError, match=r"no images in .*train/A nor in .*--folders"):
        build(root)
    folders = parse_names(["train=t", "im1=before", "label=OUT"])
    assert build(root, folders=folders).labelled and check(root, folders=folders) == {"train": 2}


@pytest.mark.parametrize("part", ["train", "test"])
def test_coding_is_that_of_the_data_set(tmp_path, part):
    root = make_binary(tmp_path, {"train": 2, "test": 1}, coding="01")
    expected = [sample.change for sample in build(root, part)]
    change = expected[0].numpy().astype(np.uint8)
    path = root / f"{part}/label/000.png"
    write(path, np.where(change == 1, 255, 0).astype(np.uint8))
    with pytest.raises(ValueError, match=r"\d .* hold 0 and 1, .*, and 1 hold 0 and 255, .*each"):
        build(root, part)
    found = build(root, part, label_coding="01")[0].change
    assert torch.equal(found == IGNORE_INDEX, expected[0] == 1) and (found != 1).all()
    for coding in ("0255", "each"):
        assert torch.equal(build(root, part, label_coding=coding)[0].change, expected[0])
    change[0, :3] = (0, 1, 255)  # a file with both: 255 is "not labelled" everywhere
    write(path, change)
    assert build(root, part)[0].change[0, :3].tolist() == [0, 1, IGNORE_INDEX]
    other = make_binary(tmp_path / "other", {"train": 2, "test": 1}, coding="0255")
    assert torch.equal(build(other, part)[0].change, expected[0])


def test_labels_may_be_rgb_bilevel_or_tiff(tmp_path):
    from PIL import Image

    root = make_binary(tmp_path, {"train": 4})
    expected = [sample.change for sample in build(root)]
    stored = [(change.numpy() * 255).astype(np.uint8) for change in expected]
    folder = root / "train/label"
    write(folder / "000.png", np.dstack([stored[0]] * 3))
    (folder / "001.png").unlink()
    write_tiff(folder / "001.tif", stored[1][None], crs=None)
    write(folder / "002.bmp", stored[2])
    (folder / "002.png").unlink()
    Image.fromarray(stored[3]).convert("P").save(folder / "003.png")
    assert check(root) == {"train": 4}
    for sample, change in zip(build(root), expected, strict=True):
        assert torch.equal(sample.change, change)
    bilevel = make_binary(tmp_path / "b", {"train": 1})
    Image.fromarray(stored[0] > 0).save(bilevel / "train/label/000.png")
    assert torch.equal(build(bilevel)[0].change, expected[0])


def test_scheme_follows_the_first_image(tmp_path):
    assert binary_scheme(make_binary(tmp_path / "rgb")) == RGB
    assert RGB.mean[0] == 0.485 and RGB.scale == 255 and RGB.palette[1] == (220, 20, 60)
    root = tmp_path / "six"
    for folder in "AB":
        write_tiff(root / folder / "a.tif", np.ones((6, 8, 8), np.uint8))
    scheme = binary_scheme(root)
    assert scheme.bands == tuple(f"band{i}" for i in range(1, 7))
    assert (scheme.standardise, scheme.scale, scheme.mean, scheme.std) == (
        "bands", 1.0, (0.0,) * 6, (1.0,) * 6,
    )  # fmt: skip
    assert binary_scheme(root, bands=["4", "3"]).bands == ("band4", "band3")
    assert binary_scheme(root, bands=["red", "green", "blue"]) == RGB
    assert binary_scheme(root, bands=["grey"]).standardise == "bands"
    with pytest.raises(ValueError, match=r"--bands band7: .* 6 band\(s\); pass numbers in 1..6"):
        binary_scheme(root, bands=[7])
    write_tiff(root / "A/a.tif", np.ones((3, 8, 8), np.uint16))
    assert binary_scheme(root).standardise == "bands"
    assert binary_scheme(root, bands=["red", "green", "blue"]).standardise == "bands"


def test_envi_pairs_of_many_bands(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 6, 20, 30)).astype(np.uint8)
    for folder, image in zip("AB", images, strict=True):
        write_envi(tmp_path / folder / "LT5.img", image)
    write(tmp_path / "label/LT5.png", np.ones((20, 30), np.uint8))
    scheme = binary_scheme(tmp_path, bands=[5, 2])
    assert check(tmp_path, scheme=scheme) == {"train": 1}
    sample = build(tmp_path, scheme=scheme)[0]
    band = images[1, 4].astype(float)
    expected = (band - band.mean()) / band.std()
    assert sample.name == "LT5"
    assert np.allclose(sample.images[1, 0, :20, :30], expected, atol=1e-5)


def break_mate(part):
    (part / "B/001.png").unlink()
    return "B/001.*"


def break_label_mate(part):
    (part / "label/001.png").unlink()
    return "label/001.*"


def break_id(part):
    shutil.copy(part / "A/001.png", part / "A/001.bmp")
    return "A/001.bmp"


def break_image(part):
    truncate(part / "A/001.png")
    return "A/001.png"


def break_label(part):
    truncate(part / "label/001.png", 0.5)
    return "label/001.png"


def break_size(part):
    write(part / "B/001.png", np.zeros((8, 9, 3), np.uint8))
    return "B/001.png 8 x 9"


def break_label_size(part):
    write(part / "label/001.png", np.zeros((8, 9), np.uint8))
    return "label/001.png 8 x 9"


def break_bands(part):
    (part / "B/001.png").unlink()
    write_tiff(part / "B/001.tif", np.zeros((2, 64, 64), np.uint8), crs=None)
    return "B/001.tif: 2 bands where 3 are needed"


def break_depth(part):
    (part / "A/001.png").unlink()
    write_tiff(part / "A/001.tif", np.zeros((3, 64, 64), np.uint16), crs=None)
    return "A/001.tif holds uint16, and 8-bit colours"


def break_values(part):
    write(part / "label/001.png", np.full((64, 64), 7, np.uint8))
    return "label/001.png: value(s) 7 where 0, 255 are allowed"


def break_colours(part):
    write(part / "label/001.png", np.full((64, 64, 3), (255, 0, 0), np.uint8))
    return "label/001.png: colours"


def break_place(part):
    for folder, left in (("A", 0), ("B", 30)):
        (part / folder / "001.png").unlink()
        write_tiff(part / folder / "001.tif", np.zeros((3, 64, 64), np.uint8), left=left)
    return "transform [2.0, 0.0, 0.0,"


def break_crs(part):
    for folder, crs in (("A", "EPSG:32637"), ("B", None)):
        (part / folder / "001.png").unlink()
        write_tiff(part / folder / "001.tif", np.zeros((3, 64, 64), np.uint8), crs=crs)
    return "CRS EPSG:32637 and none"


def break_all_change(part):
    for path in (part / "label").iterdir():
        write(path, np.zeros((64, 64), np.uint8))
    return "label: 3 label(s), none has a changed pixel"


BROKEN = [
    (break_mate, "missing mate"),
    (break_label_mate, "missing mate"),
    (break_id, "same id twice"),
    (break_image, "unreadable"),
    (break_label, "unreadable"),
    (break_size, "sizes differ"),
    (break_label_size, "sizes differ"),
    (break_bands, "bands"),
    (break_depth, "bands"),
    (break_values, "mask values"),
    (break_colours, "mask values"),
    (break_place, "grids differ"),
    (break_crs, "grids differ"),
    (break_all_change, "no change"),
]


@pytest.mark.parametrize(("spoil", "requirement"), BROKEN)
def test_each_fault_is_found_with_file_rule_and_remedy(tmp_path, spoil, requirement):
    root = make_binary(tmp_path, {"train": 3})
    text = spoil(root / "train")
    error = failure(root)
    assert [problem.requirement for problem in error.problems] == [requirement]
    assert text in str(error) and REQUIREMENTS[requirement] in str(error)


def test_pixels_without_data_are_left_out_and_images_without_any_are_a_fault(tmp_path):
    image = np.random.default_rng(0).random((2, 10, 10)).astype(np.float32)
    for folder in "AB":
        write_tiff(tmp_path / folder / "a.tif", image)
    write(tmp_path / "label/a.png", np.full((10, 10), 255, np.uint8))
    image[0, 0, :5] = np.nan
    write_tiff(tmp_path / "B/a.tif", image)
    scheme = binary_scheme(tmp_path)
    assert check(tmp_path, scheme=scheme) == {"train": 1}
    sample = build(tmp_path, scheme=scheme)[0]
    gap = np.zeros((10, 10), bool)
    gap[0, :5] = True
    np.testing.assert_array_equal(sample.change[:10, :10] == IGNORE_INDEX, gap)
    assert (sample.images[:, :, :10, :10][:, :, gap] == 0).all()  # the mean, at both dates
    write_tiff(tmp_path / "B/a.tif", np.full_like(image, np.nan))
    error = failure(tmp_path, scheme=scheme)
    assert [problem.requirement for problem in error.problems] == ["no numbers"]
    assert "B/a.tif: no pixel has data" in str(error)


def test_empty_masks_are_a_fault_of_training_only(tmp_path):
    root = make_binary(tmp_path, {"train": 2, "test": 2})
    for path in (root / "test/label").iterdir():
        write(path, np.zeros((64, 64), np.uint8))
    assert check(root) == {"train": 2, "test": 2}


def test_all_faults_are_one_error(tmp_path):
    root = make_binary(tmp_path, {"train": 3, "test": 3})
    break_mate(root / "train")
    break_values(root / "test")
    break_image(root / "test")
    assert len(failure(root).problems) == 3 and len(failure(root, "train").problems) == 1


def test_unchanged_data_that_passed_is_not_decoded_again(tmp_path):
    root, seen = make_binary(tmp_path / "a", {"train": 2}), tmp_path / "data_check.json"
    assert check(root, passed_file=seen) == {"train": 2}
    before = seen.read_text()
    assert check(root, passed_file=seen) == {"train": 2} and seen.read_text() == before
    break_values(root / "train")
    failure(root, passed_file=seen)
    other = check(make_binary(tmp_path / "b", {"train": 1}), passed_file=seen)
    assert other == {"train": 1} and len(json.loads(seen.read_text())) == 2


def test_other_rules_decode_again(tmp_path):
    root, seen = make_binary(tmp_path, {"train": 2}), tmp_path / "data_check.json"
    check(root, passed_file=seen)
    with pytest.raises(DataError, match="3 bands where 4 are needed"):
        check(root, passed_file=seen, scheme=change_scheme(("band4",), "bands"))


def test_no_images_at_all(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"--data-root, name the folders with --folders im1=NAME"
    ):
        check(tmp_path)


def test_check_from_the_command_line(tmp_path, capsys):
    root = make_binary(tmp_path, {"train": 2, "test": 1})
    main(["check", str(root), "--dataset", "binary"])
    out = capsys.readouterr().out
    assert (
        f"train: 2 pair(s) with labels in {root}/train, nothing wrong" in out and "test: 1" in out
    )


@pytest.mark.parametrize("name", ["levir_samples", "dsifn_samples"])
def test_real_samples(name):
    root = SHARED / name
    if not root.is_dir():
        pytest.skip(f"no {root}")
    scheme = binary_scheme(root)
    assert scheme == RGB
    count = len(list((root / "A").iterdir()))
    assert check(root) == {"train": count}
    val = build(root, "val", split_rule="every10th", scheme=scheme)
    assert len(val.names) == -(-count // 10)
    dataset = build(root, augment=Augment(crop_size=128), positive_crops=1.0, split_rule="hash10")
    shares = [(sample.change == 1).float().mean() for sample in dataset]
    assert dataset[0].images.shape == (2, 3, 128, 128)
    assert 0.02 < np.mean(shares) < 0.7 and {0, 1} == set(dataset[0].change.unique().tolist()) | {0}
