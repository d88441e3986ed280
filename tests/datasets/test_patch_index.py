import json
import os

import pytest

from datasets.sentinel import patch_index
from datasets.sentinel.patch_index import index_path, list_patches

OLD = 10**18  # long ago, in nanoseconds


@pytest.fixture
def root(tmp_path):
    """Two folders of three files, last changed long ago."""
    for folder in ("a/s2_1", "a/s2_2"):
        path = tmp_path / "root" / folder
        path.mkdir(parents=True)
        for name in ("p2.tif", "p1.tif", "p10.tif", "notes.txt", ".hidden.tif"):
            (path / name).touch()
        os.utime(path, ns=(OLD, OLD))
    return tmp_path / "root"


@pytest.fixture
def listed(monkeypatch):
    """Folders that were listed, by name."""
    names = []
    plain = patch_index._list
    monkeypatch.setattr(patch_index, "_list", lambda path: names.append(path.name) or plain(path))
    return names


def ask(root, *folders, **options):
    return list_patches(root, folders or ("a/s2_1", "a/s2_2"), **options)


def test_ids_are_sorted_and_other_files_left_out(root):
    assert ask(root) == {folder: ["p1", "p10", "p2"] for folder in ("a/s2_1", "a/s2_2")}
    assert ask(root, "a/s2_3") == {"a/s2_3": []}


def test_folders_that_did_not_change_are_not_listed_again(root, tmp_path, listed):
    first = ask(root, index_dir=tmp_path / "index")
    assert ask(root, index_dir=tmp_path / "index") == first and listed == ["s2_1", "s2_2"]
    assert ask(root) == first and len(listed) == 4  # without an index


def test_folders_that_changed_are(root, tmp_path, listed):
    ask(root, index_dir=tmp_path)
    (root / "a/s2_2/p1.tif").rename(root / "a/s2_2/p3.tif")
    found = ask(root, index_dir=tmp_path)
    assert listed[2:] == ["s2_2"] and found["a/s2_2"] == ["p10", "p2", "p3"]
    (root / "a/s2_1/p1.tif").unlink()
    assert ask(root, index_dir=tmp_path)["a/s2_1"] == ["p10", "p2"]


def test_a_folder_of_just_now_is_listed_again(root, tmp_path, listed):
    """Its time may be too coarse to tell the next change."""
    os.utime(root / "a/s2_1")
    for _ in range(2):
        ask(root, index_dir=tmp_path)
    assert listed == ["s2_1", "s2_2", "s2_1"]


def test_a_folder_that_appears_or_goes_is_seen(root, tmp_path):
    assert ask(root, "a/s2_3", index_dir=tmp_path) == {"a/s2_3": []}
    (root / "a/s2_2").rename(root / "a/s2_3")
    assert ask(root, "a/s2_3", index_dir=tmp_path)["a/s2_3"] == ["p1", "p10", "p2"]
    assert ask(root, "a/s2_2", index_dir=tmp_path) == {"a/s2_2": []}


def test_roots_do_not_share_an_index(root, tmp_path):
    assert index_path(tmp_path, root) != index_path(tmp_path, root.parent)
    assert index_path(tmp_path, root) == index_path(tmp_path, root / "a/..")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 0}', '{"version": 1}', "x"])
def test_a_file_that_is_no_index_counts_as_none(root, tmp_path, content):
    index_path(tmp_path, root).write_text(content)
    assert ask(root, index_dir=tmp_path)["a/s2_1"] == ["p1", "p10", "p2"]
    assert json.loads(index_path(tmp_path, root).read_text())["version"] == patch_index.VERSION


def test_spoilt_entries_count_as_none(root, tmp_path):
    ask(root, index_dir=tmp_path)
    path = index_path(tmp_path, root)
    content = json.loads(path.read_text())
    content["folders"]["a/s2_1"] = ["soon"]
    path.write_text(json.dumps(content))
    assert ask(root, index_dir=tmp_path)["a/s2_1"] == ["p1", "p10", "p2"]
