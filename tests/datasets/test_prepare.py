import sys

import numpy as np
import pytest
from PIL import Image

from datasets.codecs import read_image, read_label
from datasets.layout import DataError
from datasets.prepare import main
from datasets.prepare.convert import convert
from helpers.tiny_data import PALETTE, truncate


def run(*argv):
    try:
        main([str(word) for word in argv])
    except (ValueError, OSError) as error:  # as utils.cli.run does
        print(error, file=sys.stderr)
        return 1
    return 0


def test_converted_labels_are_palette_files_of_the_same_classes(second_root, tmp_path):
    root, out = second_root(train=3, val=1, label_mode="RGB"), tmp_path / "out"
    assert convert(root, out, progress=False) == {"train": 3, "val": 1}
    for source in (root / "train/label1").iterdir():
        image = Image.open(out / "train/label1" / source.name)
        assert image.mode == "P" and image.getpalette()[:21] == np.array(PALETTE).ravel().tolist()
        assert np.array_equal(np.array(image), read_label(source, PALETTE))
    assert sorted(path.name for path in (out / "val").iterdir()) == ["im1", "im2"]


@pytest.mark.parametrize("image_ext", ["png", "jpg"])
def test_images_are_copied_byte_for_byte(second_root, tmp_path, image_ext):
    root, out = second_root(train=2, image_ext=image_ext), tmp_path / "out"
    convert(root, out, progress=False)
    for source in (root / "train/im2").iterdir():
        assert (out / "train/im2" / source.name).read_bytes() == source.read_bytes()


def test_tiff_images_become_png_of_the_same_pixels(second_root, tmp_path):
    root, out = second_root(train=1, image_ext="tif"), tmp_path / "out"
    convert(root, out, progress=False)
    pixels = read_image(out / "train/im1/00000.png")
    assert np.array_equal(pixels, read_image(root / "train/im1/00000.tif"))


def test_converting_twice_changes_nothing(second_root, tmp_path):
    root = second_root(train=2, label_mode="RGB")
    convert(root, tmp_path / "a", progress=False)
    convert(tmp_path / "a", tmp_path / "b", progress=False)
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_renamed_folders_get_their_usual_names(second_root, tmp_path):
    root = second_root(train=1)
    (root / "train").rename(root / "SECOND_train_set")
    (root / "SECOND_train_set/im1").rename(root / "SECOND_train_set/A")
    folders = ("train=SECOND_train_set", "im1=A")
    assert run("convert", root, tmp_path / "out", "--folders", *folders) == 0
    assert (tmp_path / "out/train/im1/00000.png").is_file()


def test_files_in_the_way_are_kept_unless_overwrite(second_root, tmp_path, capsys):
    root, out = second_root(train=1), tmp_path / "out"
    old = out / "train/im1/00000.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    assert run("convert", root, out) == 1
    assert "--overwrite" in capsys.readouterr().err and old.read_bytes() == b"old"
    assert run("convert", root, out, "--overwrite") == 0
    assert [path.name for path in old.parent.iterdir()] == ["00000.png"]  # the id occurs once


def test_dry_run_writes_nothing(second_root, tmp_path, capsys):
    root, out = second_root(train=2), tmp_path / "out"
    assert run("convert", root, out, "--dry-run") == 0
    assert not out.exists() and "would write 2 pair(s)" in capsys.readouterr().out


def test_bad_source_is_converted_in_no_part(second_root, tmp_path):
    root, out = second_root(train=2), tmp_path / "out"
    truncate(root / "train/im1/00001.png")
    with pytest.raises(DataError, match="unreadable"):
        convert(root, out, progress=False)
    assert not out.exists()


def test_source_and_target_must_differ(second_root):
    root = second_root(train=1)
    with pytest.raises(ValueError, match="same folder"):
        convert(root, root / "train/..", overwrite=True, progress=False)


def test_check_says_what_is_there_or_what_is_wrong(second_root, capsys):
    root = second_root(train=2, val=1)
    assert run("check", root) == 0
    out = capsys.readouterr().out
    assert "train: 2 pair(s) with labels" in out and "val: 1 pair(s) without labels" in out
    truncate(root / "train/im1/00001.png")
    assert run("check", root) == 1
    assert "im1/00001.png" in capsys.readouterr().err
    assert run("check", root, "--folders", "im9=x") == 1
    assert "second does not use im9; its keys are train" in capsys.readouterr().err
