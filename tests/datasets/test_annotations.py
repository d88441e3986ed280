import json
import os

import numpy as np
import pytest
from PIL import Image

from datasets.layout import DataError
from datasets.naic2020.annotations import annotate, read_annotations, split
from datasets.naic2020.submission import to_png, write_pkl
from datasets.prepare import main
from datasets.prepare.naic2020 import gid_classes
from helpers.tiny_data import make_naic2020, write

# what Python's random.seed(1996); random.shuffle(list(range(10))) makes
SHUFFLED = [5, 1, 0, 2, 4, 3, 6, 7, 8, 9]


def step(*argv):
    main(["naic2020", *map(str, argv)])


def test_entries_are_sorted_by_file_name(tmp_path):
    root = make_naic2020(tmp_path, train=10)
    entries = annotate(root / "train/image", root / "train/label")
    names = [os.path.basename(entry["filename"]) for entry in entries]
    assert names == ["1.tif", "10.tif", *(f"{i}.tif" for i in range(2, 10))]
    assert entries[1] == {
        "filename": str(root / "train/image/10.tif"),
        "ann": {"seg_map": str(root / "train/label/10.png")},
    }
    assert annotate(root / "image_A")[0] == {"filename": str(root / "image_A/1.tif")}


def test_labels_are_found_by_stem_whatever_the_order_of_the_names(tmp_path):
    names = ("x", "x.s", "x.q", "x-1")  # sorted with .tif and with .png they differ
    for name in names:
        for folder, suffix in (("image", "tif"), ("label", "png")):
            path = tmp_path / folder / f"{name}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    entries = annotate(tmp_path / "image", tmp_path / "label")
    stems = [
        [os.path.basename(p)[:-4] for p in (e["filename"], e["ann"]["seg_map"])] for e in entries
    ]
    assert len(stems) == 4 and all(image == label for image, label in stems)
    assert annotate(tmp_path / "image", image_ext=".tif")[0].keys() == {"filename"}
    with pytest.raises(FileNotFoundError, match=r"no images in .* \(expected \*\.jpg\)"):
        annotate(tmp_path / "image", image_ext=".jpg")


def test_images_and_labels_must_match(tmp_path):
    root = make_naic2020(tmp_path, train=3)
    (root / "train/label/2.png").rename(root / "train/label/7.png")
    with pytest.raises(DataError) as error:
        annotate(root / "train/image", root / "train/label")
    assert "label/2.*" in str(error.value) and "image/7.*" in str(error.value)
    (root / "train/label/7.png").unlink()
    with pytest.raises(DataError, match=r"label/2\.\*"):
        annotate(root / "train/image", root / "train/label")
    with pytest.raises(FileNotFoundError, match="no images in"):
        annotate(root / "elsewhere")


def test_the_published_order_of_the_split():
    train, held_out = split(list(range(10)), num_eval=3)
    assert train + held_out == SHUFFLED and held_out == [7, 8, 9]
    assert split(list(range(10)), seed=1, num_eval=3) != (train, held_out)
    for num_eval in (0, 10, 5000):
        with pytest.raises(ValueError, match=rf"--num-eval {num_eval} of 10 entries"):
            split(list(range(10)), num_eval=num_eval)


def test_annotate_and_split_write_lists(tmp_path, capsys):
    root = make_naic2020(tmp_path / "raw", train=5)
    lists = tmp_path / "data"
    folders = (root / "train/image", "--mask-dir", root / "train/label")
    step("annotate", *folders)
    assert not lists.exists() and "5 image pairs" in capsys.readouterr().out
    step("annotate", *folders, "--save-path", lists / "train.json")
    text = (lists / "train.json").read_text()
    assert text.startswith('[\n  {\n    "filename": ')
    step("split", lists / "train.json", "--num-eval", 2)
    parts = [json.loads((lists / f"{n}.json").read_text()) for n in ("train_sub", "eval_5000")]
    assert [len(part) for part in parts] == [3, 2]
    assert sorted(map(str, parts[0] + parts[1])) == sorted(map(str, json.loads(text)))
    step("split", lists / "train.json", "--num-eval", 1, "--train-save-path", tmp_path / "t.json")
    assert len(json.loads((tmp_path / "t.json").read_text())) == 4


def test_lists_are_read_in_their_order(tmp_path, monkeypatch):
    root = make_naic2020(tmp_path, train=2)
    path = tmp_path / "list.json"
    entries = [
        {"filename": f"train/image/{i}.tif", "ann": {"seg_map": f"train/label/{i}.png"}}
        for i in (2, 1)
    ]
    path.write_text(json.dumps(entries))
    patches = read_annotations(path)  # beside the list
    assert [patch.name for patch in patches] == ["2", "1"]
    assert patches[0].images[0] == root / "train/image/2.tif" and patches[0].labels[0].is_file()
    monkeypatch.chdir(tmp_path)  # as published
    assert str(read_annotations(path)[1].labels[0]) == "train/label/1.png"


def test_files_that_are_gone_and_ids_that_are_there_twice(tmp_path):
    root = make_naic2020(tmp_path, train=3)
    entries = annotate(root / "train/image", root / "train/label")
    path = tmp_path / "list.json"
    path.write_text(json.dumps([*entries, entries[0]]))
    (root / "train/image/2.tif").unlink()
    (root / "train/label/3.png").unlink()
    with pytest.raises(DataError) as error:
        read_annotations(path)
    text = str(error.value)
    assert "missing file (2): every file that a list names is there" in text
    for name in ("image/2.tif", "label/3.png", "same id twice (1)"):
        assert name in text


def test_a_list_has_labels_or_none(tmp_path):
    root = make_naic2020(tmp_path, train=2)
    entries = annotate(root / "train/image", root / "train/label")
    del entries[0]["ann"]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=r"the label of .*image/1\.tif"):
        read_annotations(tmp_path / "list.json")


@pytest.mark.parametrize(
    "text", ["[]", "{}", "[1]", '[{"file": "a"}]', '[{"filename": "a", "ann": {}}]', "[{"]
)
def test_what_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ValueError, match=r"list\.json is n(o JSON|ot of the form)"):
        read_annotations(tmp_path / "list.json")
    with pytest.raises(FileNotFoundError, match=r"no .*gone\.json. Make it with .*annotate"):
        read_annotations(tmp_path / "gone.json")


def test_colours_of_gid():
    colours = [
        (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255),
        (255, 0, 255), (255, 255, 255), (254, 0, 0), (255, 1, 0),
    ]  # fmt: skip
    found = gid_classes(np.array([colours], np.uint8))
    assert found.dtype == np.uint8 and found.tolist() == [[0, 1, 2, 3, 4, 5, 255, 255, 0, 0]]


def test_masks_of_gid_become_indices(tmp_path, capsys):
    write(tmp_path / "masks/a.tif", np.full((4, 4, 3), (0, 255, 255), np.uint8))
    write(tmp_path / "masks/b.png", np.zeros((4, 4, 3), np.uint8))
    step("gid", tmp_path / "masks", "--dry-run")
    assert "would write 2" in capsys.readouterr().out and not (tmp_path / "masks_p").exists()
    step("gid", tmp_path / "masks")
    assert (np.array(Image.open(tmp_path / "masks_p/a.png")) == 5).all()
    with pytest.raises(FileExistsError, match="--overwrite"):
        step("gid", tmp_path / "masks")
    step("gid", tmp_path / "masks", "--overwrite")
    write(tmp_path / "masks/c.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"c\.png: one band"):
        step("gid", tmp_path / "masks", "--overwrite")


def test_predictions_are_packed_in_the_order_of_the_list(tmp_path):
    import zipfile

    root = make_naic2020(tmp_path, train=0, test=2)
    step("annotate", root / "image_A", "--save-path", tmp_path / "image_A.json")
    write_pkl(tmp_path / "out.pkl", [to_png(np.full((4, 4), i, np.uint8)) for i in (3, 5)])
    out = tmp_path / "res.zip"
    step("zip", tmp_path / "image_A.json", tmp_path / "out.pkl", "--zip-file", out)
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["results/1.png", "results/2.png"]
        with archive.open("results/2.png") as file:
            assert (np.array(Image.open(file)) == 600).all()
    write_pkl(tmp_path / "out.pkl", [])
    with pytest.raises(ValueError, match=r"has 0 prediction\(s\) and .* 2 image\(s\)"):
        step("zip", tmp_path / "image_A.json", tmp_path / "out.pkl", "--zip-file", out)
