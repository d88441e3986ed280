"""An interrupted map goes on, anew if anything changed, and nothing is published half-done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.map_data import scene, write
from maps.progress import FinishedMaps, WorkFolder, fingerprint, image_fingerprints

ROOT = Path(__file__).resolve().parents[2]


def with_part(out: Path, **settings) -> WorkFolder:
    """A folder in which one part was finished, and another begun."""
    work = WorkFolder(out)
    assert work.start(settings) is None
    for name in ("00000000.tif", ".00000064-x.tif"):
        path = work.rows / "change" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return work


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_same_settings_keep_finished_parts_only(tmp_path):
    work = with_part(tmp_path, tile=64, bands=("1", "2"))
    (work.ready / "half.tif").touch()
    again = WorkFolder(tmp_path)
    assert "going on" in again.start({"tile": 64, "bands": ("1", "2")})
    assert names(again.rows / "change") == ["00000000.tif"] and names(again.ready) == []


def test_other_settings_start_anew_and_say_why(tmp_path):
    with_part(tmp_path, tile=64, threshold=0.5)
    work = WorkFolder(tmp_path)
    assert work.start({"tile": 32, "threshold": 0.5}) == (
        "starting anew: tile changed since the interrupted run"
    )
    assert names(work.rows) == []


def test_kept_values_are_computed_once(tmp_path):
    work = WorkFolder(tmp_path)
    work.start({})
    assert work.keep("moments", lambda: [0.1, 1 / 3]) == [0.1, 1 / 3]
    work.start({})
    assert work.keep("moments", lambda: pytest.fail("again")) == [0.1, 1 / 3]


def test_publishing_replaces_removes_and_leaves_no_trace(tmp_path):
    work = with_part(tmp_path)
    for name in ("change.tif", "old.tif", "mine.txt"):
        (tmp_path / name).write_text("old")
    (work.ready / "change.tif").write_text("new")
    (work.ready / "change.tif.aux.xml").write_text("names")
    assert work.publish(["old.tif", "change.tif"]) == [tmp_path / "change.tif"]
    assert names(tmp_path) == ["change.tif", "change.tif.aux.xml", "mine.txt"]
    assert (tmp_path / "change.tif").read_text() == "new"


@pytest.mark.parametrize("moves", range(4))
def test_publishing_goes_on_after_a_kill(tmp_path, moves, monkeypatch):
    work = with_part(tmp_path)
    for name in ("a.tif", "b.tif", "c.tif"):
        (work.ready / name).write_text(name)
    done, replace = [], __import__("os").replace

    def killed(source, target):
        if Path(source).parent == work.ready:
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(source)
        replace(source, target)

    monkeypatch.setattr("maps.progress.os.replace", killed)
    if moves < 3:
        with pytest.raises(KeyboardInterrupt):
            work.publish()
    else:
        work.publish()
    monkeypatch.undo()
    assert WorkFolder(tmp_path).finish_publishing() == (moves < 3)
    assert names(tmp_path) == ["a.tif", "b.tif", "c.tif"]
    assert not WorkFolder(tmp_path).finish_publishing()


def test_a_file_that_is_written_again_is_another(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("one")
    before = fingerprint(path)
    assert fingerprint(path) == before
    path.write_text("three")
    assert fingerprint(path) != before


def test_maps_that_are_finished_are_known_by_their_settings(tmp_path):
    finished = FinishedMaps(tmp_path)
    finished.add("p", {"tile": 64, "bands": ("1",)})
    again = FinishedMaps(tmp_path)
    assert again.has("p", {"tile": 64, "bands": ("1",)})
    assert not again.has("p", {"tile": 32, "bands": ("1",)}) and not again.has("q", {})
    again.forget_unless(False, "p")
    assert not again.has("p", {"tile": 64, "bands": ("1",)})
    again.remove()
    assert names(tmp_path) == []


def test_settings_are_noted_when_all_files_are_in_place_and_not_before(tmp_path, monkeypatch):
    work, noted = with_part(tmp_path), []
    (work.ready / "a.tif").write_text("a")

    replace = os.replace

    def killed(source, target):
        if Path(source).parent == work.ready:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("maps.progress.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            work.publish(settings={"threshold": 0.1}, note=noted.append)
    assert noted == []
    assert WorkFolder(tmp_path).finish_publishing(noted.append)
    assert noted == [{"threshold": 0.1}] and names(tmp_path) == ["a.tif"]


RUN = """
import sys
from pathlib import Path
from maps.progress import WorkFolder
WorkFolder(Path(sys.argv[1])).start({})
"""


def test_two_runs_in_one_folder_are_refused(tmp_path):
    work = with_part(tmp_path)
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode and "another run makes a map in" in done.stderr
    assert names(work.rows / "change")  # untouched
    work.remove()
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_an_image_changes_with_the_files_that_belong_to_it(tmp_path):
    import rasterio.shutil

    source = write(tmp_path / "source.tif", scene(20, 20)[0])
    rasterio.shutil.copy(source, tmp_path / "a.vrt", driver="VRT")
    rasterio.shutil.copy(source, tmp_path / "b.img", driver="ENVI")
    for image, part in (("a.vrt", source), ("b.img", tmp_path / "b.hdr")):
        before = image_fingerprints(tmp_path / image)
        assert image_fingerprints(tmp_path / image) == before
        os.utime(part, ns=(1, 1))
        assert image_fingerprints(tmp_path / image) != before
