import json

import numpy as np
import pytest

from datasets import checks
from datasets.layout import REQUIREMENTS, DataError
from helpers.data_sets import check_dataset
from helpers.tiny_data import truncate, write, write_label


def check(root, *parts, **options):
    return check_dataset("second", parts or None, root, **options)


def failure(root, *parts, **options):
    with pytest.raises(DataError) as error:
        check(root, *parts, **options)
    return error.value


@pytest.mark.parametrize("image_ext", ["png", "jpg", "tif"])
@pytest.mark.parametrize("label_mode", ["P", "L", "RGB"])
def test_good_data_passes_in_any_coding(second_root, label_mode, image_ext):
    root = second_root(train=3, val=2, test=1, label_mode=label_mode, image_ext=image_ext)
    assert check(root) == {"train": 3, "val": 2, "test": 1}
    assert check(root, "val") == {"val": 2}


def break_mate(part):
    (part / "im2/00001.png").unlink()
    return "im2/00001.*"


def break_id(part):
    (part / "label1/00001.tif").write_bytes((part / "label1/00001.png").read_bytes())
    return "label1/00001.tif"


def break_image(part):
    truncate(part / "im1/00001.png")
    return "im1/00001.png"


def break_label_file(part):
    truncate(part / "label2/00001.png", 0.5)
    return "label2/00001.png"


def empty_file(part):
    (part / "im1/00001.png").write_bytes(b"")
    return "im1/00001.png: not an image"


def break_size(part):
    write(part / "im2/00001.png", np.zeros((8, 8, 3), np.uint8))
    return "im2/00001.png 8 x 8"


def break_label_size(part):
    for date in (1, 2):
        write_label(part / f"label{date}/00001.png", np.zeros((8, 8), np.uint8))
    return "label1/00001.png 8 x 8"


def break_values(part):
    write(part / "label1/00001.png", np.full((64, 64), 7, np.uint8))
    return "label1/00001.png: value(s) 7"


def break_colours(part):
    write(part / "label1/00001.png", np.full((64, 64, 3), 7, np.uint8))
    return "RGB (7, 7, 7)"


def break_change(part):
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, :2, :3] = 1
    masks[1, 5, 5] = 2
    for date in (1, 2):
        write_label(part / f"label{date}/00001.png", masks[date - 1])
    return "label2/00001.png: 7 pixels"


BROKEN = [
    (break_mate, "missing mate"),
    (break_id, "same id twice"),
    (break_image, "unreadable"),
    (break_label_file, "unreadable"),
    (empty_file, "unreadable"),
    (break_size, "sizes differ"),
    (break_label_size, "sizes differ"),
    (break_values, "label values"),
    (break_colours, "label values"),
    (break_change, "change differs"),
]


@pytest.mark.parametrize(("spoil", "requirement"), BROKEN)
def test_each_fault_is_found_with_file_rule_and_remedy(second_root, spoil, requirement):
    root = second_root(train=3)
    text = spoil(root / "train")
    error = failure(root)
    assert [problem.requirement for problem in error.problems] == [requirement]
    assert text in str(error) and REQUIREMENTS[requirement] in str(error)


def test_all_faults_of_all_parts_are_one_error(second_root):
    root = second_root(train=3, test=3)
    break_mate(root / "train")
    break_values(root / "test")
    (root / "test/im1/00002.png").write_bytes(b"no image")
    assert len(failure(root).problems) == 3
    assert len(failure(root, "train").problems) == 1


def test_many_files_are_listed_ten_by_rule_and_counted(second_root):
    root = second_root(train=13, size=16)
    for path in (root / "train/im1").iterdir():
        truncate(path)
    text = str(failure(root))
    assert text.count("/im1/") == 10 and "and 3 more" in text and "unreadable (13)" in text


def test_a_part_without_images_is_an_error(second_root):
    root = second_root(train=2)
    (root / "test/im1").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no images in .*test/im1"):
        check(root)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*--data-root"):
        check(root / "elsewhere")


def test_unchanged_data_that_passed_is_not_decoded_again(second_root, tmp_path, monkeypatch):
    root, seen = second_root(train=2, test=1), tmp_path / "data_check.json"
    decoded = []
    plain = checks.check_scene
    monkeypatch.setattr(checks, "check_scene", lambda *a: decoded.append(a[0].name) or plain(*a))
    assert check(root, passed_file=seen) == check(root, passed_file=seen) == {"train": 2, "test": 1}
    assert len(decoded) == 3
    write_label(root / "test/label1/00000.png", np.zeros((64, 64), np.uint8))
    failure(root, passed_file=seen)
    failure(root, passed_file=seen)  # a failed check is not remembered
    assert decoded[3:] == ["00000", "00000"]
    seen.write_text("no json")
    check(root, "train", passed_file=seen)
    assert len(decoded) == 7 and len(json.loads(seen.read_text())) == 1


def test_renamed_folders_are_checked(second_root):
    root = second_root(train=2)
    break_values(root / "train")
    (root / "train/label1").rename(root / "train/before")
    assert "before/00001.png" in str(failure(root, folders={"label1": "before"}))
