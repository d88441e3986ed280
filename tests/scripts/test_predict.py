"""predict.py from end to end: maps of tiny rasters."""

import importlib.util
import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio

import predict
import test as tester
from helpers.map_data import COLOURS, PLACE, UTM, save_network, scene, warp, write, write_pair
from helpers.processes import two_processes
from helpers.tiny_data import truncate
from maps.layers import MapRows
from maps.progress import NAME, WorkFolder
from utils.rasters.grids import shifted
from utils.schemes import NAIC2020, SECOND, change_scheme

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--device", "cpu", "--amp", "fp32", "--tile-px", "64", "--overlap-px", "16"]


def run_predict(*words) -> None:
    predict.main([str(word) for word in (*words, *QUICK)])


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def maps_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file but predict.json, which tells the time, and the vectors."""
    kinds = (".tif", ".xml", ".csv")
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in kinds}


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        scheme.task: save_network(folder / f"{scheme.task}.pth", scheme)
        for scheme in (COLOURS, SECOND, NAIC2020)
    }


@pytest.fixture
def pair(tmp_path) -> list[Path]:
    return write_pair(tmp_path / "in", 150, 130)


def test_binary_change_is_what_test_py_finds(tmp_path, networks):
    images = scene(150, 130)
    for folder, image in zip("AB", images, strict=True):
        write(tmp_path / "data" / "test" / folder / "x.tif", image)
    words = ["--dataset", "binary", "--data-root", tmp_path / "data", "--tta", "none"]
    words += ["--outdir", tmp_path / "t", "--save-probs", "--num-workers", "0"]
    network = ["--checkpoints", networks["binary_change"]]
    tester.main([str(word) for word in (*words, *network, *QUICK)])
    out = tmp_path / "out"
    folders = [tmp_path / "data" / "test" / folder for folder in "AB"]
    run_predict(*folders, *network, "--out", out, "--vector", "none")
    expected = read(tmp_path / "t" / "probs" / "test" / "x.tif")
    np.testing.assert_allclose(read(out / "x" / "change_probability.tif"), expected, atol=1e-3)
    mask, sure = read(tmp_path / "t" / "masks" / "test" / "x.tif"), np.abs(expected - 0.5) > 1e-3
    assert (read(out / "x" / "change.tif") == mask)[sure].all()
    assert sure.mean() > 0.8 and 0.02 < mask.mean() < 0.98


def test_semantic_change_writes_all_maps_in_their_place(tmp_path, networks, pair):
    out = tmp_path / "out"
    run_predict(*pair, "--checkpoints", networks["semantic_change"], "--out", out)
    names = {"change", "change_probability", "date1", "date2", "transition"}
    assert {path.stem for path in out.glob("*.tif")} == names
    assert {path.stem for path in out.glob("*.qml")} == {*names, "changes"}
    assert not (out / NAME).exists()
    change, first, second = (read(out / f"{name}.tif") for name in ("change", "date1", "date2"))
    assert set(np.unique(change)) == {0, 1}
    assert ((first > 0) == (change == 1)).all() and ((second > 0) == (change == 1)).all()
    codes = np.where(change, 1 + (first.astype(int) - 1) * 6 + second - 1, 0)
    np.testing.assert_array_equal(read(out / "transition.tif"), codes)
    for path in out.glob("*.tif"):
        with rasterio.open(path) as file:
            assert (file.crs.to_string(), file.transform) == (UTM, PLACE)
    summary = json.loads((out / "summary.json").read_text())
    assert summary and (out / "changes.gpkg").exists() and (out / "summary.csv").exists()
    record = json.loads((out / "predict.json").read_text())
    assert record["images"] == [str(path) for path in pair]
    assert record["options"]["tile_px"] == 64 and record["classes"] == list(SECOND.classes)


def test_classes_everywhere_agree_with_those_of_changes(tmp_path, networks, pair):
    words = [*pair, "--checkpoints", networks["semantic_change"], "--vector", "none"]
    run_predict(*words, "--out", tmp_path / "some")
    run_predict(*words, "--out", tmp_path / "all", "--full-semantics")
    for name in ("date1", "date2"):
        some, every = (
            read(tmp_path / "some" / f"{name}.tif"),
            read(tmp_path / "all" / f"{name}.tif"),
        )
        assert every.min() >= 1
        np.testing.assert_array_equal(some, np.where(some > 0, every, 0))


def test_land_cover_of_one_image(tmp_path, networks, pair):
    words = ["--checkpoints", networks["land_cover"], "--out", tmp_path / "out"]
    run_predict(pair[0], *words)
    classes, confidence = (read(tmp_path / "out" / f"{n}.tif") for n in ("classes", "confidence"))
    assert classes.min() >= 1 and classes.max() <= 8
    assert confidence.min() >= 1 / 8 and confidence.max() <= 1
    assert not (tmp_path / "out" / "changes.gpkg").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["by_class"]["pixels"] == [int((classes == k).sum()) for k in range(1, 9)]
    # pixels of 10 m: 100 m2 each, as the projection has them
    assert summary["hectares"]["valid"] == pytest.approx(classes.size / 100, rel=2e-3)


def test_a_warped_date_2_changes_the_map_in_its_place_only(tmp_path, networks):
    """Date 2 is date 1 but for a square known by its coordinates, in another CRS."""
    image = np.full((3, 160, 160), 60, np.uint8)
    changed = image.copy()
    changed[:, 64:96, 32:80] = 220
    first = write(tmp_path / "1.tif", image)
    second = warp(write(tmp_path / "2.tif", changed), tmp_path / "3.tif", "EPSG:4326")
    network = ["--checkpoints", networks["binary_change"], "--vector", "none"]
    run_predict(first, tmp_path / "2.tif", *network, "--out", tmp_path / "plain")
    run_predict(first, second, *network, "--out", tmp_path / "warped")
    found = [read(tmp_path / n / "change_probability.tif") for n in ("plain", "warped")]
    inside = (slice(20, 140), slice(20, 140))  # date 2 ends somewhere at the edges
    assert np.isfinite(found[1][inside]).all()
    # half a pixel of nearest neighbour at the square's edges is all that may differ
    assert np.abs(found[0] - found[1])[inside].mean() < 0.1 * np.ptp(found[0])
    shift = np.abs(found[0] - np.roll(found[1], 8, 1))[inside].mean()
    assert np.abs(found[0] - found[1])[inside].mean() < shift / 2


def test_no_map_where_a_date_has_no_data(tmp_path, networks):
    before, after = scene(150, 200)
    before[:, :, :100], after[:, 100:] = 0, 0  # whole windows, and parts of some
    paths = [write(tmp_path / f"{i}.tif", x, nodata=0) for i, x in enumerate((before, after))]
    words = ["--checkpoints", networks["semantic_change"], "--vector", "none"]
    run_predict(*paths, *words, "--out", tmp_path / "out")
    valid = np.zeros((150, 200), bool)
    valid[:100, 100:] = True
    for name in ("change", "date1", "date2", "transition"):
        np.testing.assert_array_equal(read(tmp_path / "out" / f"{name}.tif") != 255, valid)
    finite = np.isfinite(read(tmp_path / "out" / "change_probability.tif"))
    np.testing.assert_array_equal(finite, valid)


def test_standardised_bands_and_several_pairs(tmp_path):
    scheme = change_scheme(("band1", "band2"), "bands")
    network = save_network(tmp_path / "n.pth", scheme)
    lines = ["before,after,name"]
    for name in ("p", "q"):
        for date, image in enumerate(scene(70, 80, 2, seed=ord(name))):
            write(tmp_path / f"{name}{date}.tif", image.astype(np.uint16) * 40)
        lines.append(f"{name}0.tif,{name}1.tif,{name}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    words = ["--checkpoints", network, network, "--vector", "none", "--tta", "d4"]
    run_predict(tmp_path / "pairs.csv", *words, "--out", tmp_path / "out")
    for name in ("p", "q"):
        probability = read(tmp_path / "out" / name / "change_probability.tif")
        assert np.isfinite(probability).all() and np.ptp(probability) > 0.05


def test_a_run_of_several_maps_goes_on_with_the_unfinished_ones(
    tmp_path, networks, monkeypatch, capsys
):
    for name in ("p", "q", "r"):
        write_pair(tmp_path / name, 70, 80, seed=ord(name))
    for date, file in enumerate(("before.tif", "after.tif")):
        for name in ("p", "q", "r"):
            path = tmp_path / str(date) / f"{name}.tif"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((tmp_path / name / file).read_bytes())
    out = tmp_path / "out"
    words = [tmp_path / "0", tmp_path / "1", "--checkpoints", networks["binary_change"]]
    words += ["--vector", "none", "--out", out]
    publish, published = WorkFolder.publish, []

    def killed(self, *words):
        if published:
            raise OSError("killed")
        published.append(self.out.name)
        return publish(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "publish", killed)
        with pytest.raises(OSError, match="killed"):
            run_predict(*words)
    assert [p.parent.name for p in out.glob("*/change.tif")] == ["p"]
    before = (out / "p" / "predict.json").read_bytes()
    capsys.readouterr()
    run_predict(*words)
    assert capsys.readouterr().out.count("finished before the run was interrupted") == 1
    assert sorted(p.parent.name for p in out.glob("*/change.tif")) == ["p", "q", "r"]
    assert (out / "p" / "predict.json").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["p", "q", "r"]  # nothing hidden is left
    with pytest.raises(ValueError, match="already; pass --overwrite"):
        run_predict(*words)


def test_polygons_and_summary_agree_with_the_maps(tmp_path, networks, pair):
    pytest.importorskip("pyogrio")
    out = tmp_path / "out"
    words = [*pair, "--checkpoints", networks["semantic_change"], "--vector", "gpkg", "geojson"]
    run_predict(*words, "--out", out, "--report")
    change = read(out / "change.tif")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["pixels"]["changed"] == (change == 1).sum()
    # pixels of 10 m: 100 m2 each, as the projection has them
    assert summary["hectares"]["changed"] == pytest.approx((change == 1).sum() / 100, rel=2e-3)
    polygons = pytest.importorskip("geopandas").read_file(out / "changes.gpkg")
    assert polygons.area_ha.sum() == pytest.approx(summary["hectares"]["changed"])
    assert polygons.crs.to_epsg() == 32633
    for name in ("changes.qml", "changes.geojson", "transition.qml", "date1.qml", "report.html"):
        assert (out / name).stat().st_size > 100


@pytest.mark.parametrize("parts", [1, 2])
def test_an_interrupted_map_goes_on_to_the_same_bytes(
    tmp_path, networks, pair, parts, monkeypatch, capsys
):
    words = [*pair, "--checkpoints", networks["semantic_change"]]
    run_predict(*words, "--out", tmp_path / "whole")
    written, write_part = [], MapRows.write

    def killed(self, folder, row, values):
        if len(written) == parts:
            raise OSError("killed")
        written.append(row)
        write_part(self, folder, row, values)

    monkeypatch.setattr(MapRows, "write", killed)
    with pytest.raises(OSError, match="killed"):
        run_predict(*words, "--out", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [NAME]  # nothing under a final name
    written.clear()
    monkeypatch.setattr(
        MapRows, "write", lambda s, f, r, v: (written.append(r), write_part(s, f, r, v))
    )
    run_predict(*words, "--out", tmp_path / "out")
    assert "going on with an interrupted run" in capsys.readouterr().out
    assert written == [0, 1, 2][parts:]
    assert maps_of(tmp_path / "out") == maps_of(tmp_path / "whole")


def test_an_interrupted_map_starts_anew_with_another_threshold(
    tmp_path, networks, pair, monkeypatch, capsys
):
    words = [*pair, "--checkpoints", networks["binary_change"], "--vector", "none"]
    with monkeypatch.context() as patch:
        patch.setattr(MapRows, "join", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_predict(*words, "--out", tmp_path / "out")
    run_predict(*words, "--out", tmp_path / "out", "--threshold", "0.3")
    output = capsys.readouterr().out
    assert "starting anew: --threshold changed since the interrupted run" in output
    found = read(tmp_path / "out" / "change_probability.tif") > 0.3
    np.testing.assert_array_equal(read(tmp_path / "out" / "change.tif") == 1, found)


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(tmp_path, networks):
    pair = write_pair(tmp_path / "in", 700, 300)
    words = [*pair, "--checkpoints", networks["binary_change"], "--vector", "none"]
    run_predict(*words, "--out", tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, "predict.py", *words, "--out", out, *QUICK]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    parts = out / NAME / "rows" / "change_probability"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("[!.]*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    count = len(list(parts.glob("[!.]*")))
    assert 3 <= count < 14 and [p.name for p in out.iterdir()] == [NAME]
    run_predict(*words, "--out", out)
    assert maps_of(out) == maps_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_make_the_same_map(tmp_path, networks, pair):
    words = [*pair, "--checkpoints", networks["semantic_change"]]
    run_predict(*words, "--out", tmp_path / "one")
    two_processes("predict.py", *words, *QUICK, "--out", tmp_path / "two")
    assert maps_of(tmp_path / "two") == maps_of(tmp_path / "one")


def test_maps_are_replaced_with_overwrite_only(tmp_path, networks, pair):
    out, words = tmp_path / "out", [*pair, "--vector", "none", "--out", tmp_path / "out"]
    run_predict(*words, "--checkpoints", networks["semantic_change"])
    (out / "mine.txt").write_text("kept")
    before = maps_of(out)
    with pytest.raises(ValueError, match=r"has change\.tif.* already; pass --overwrite"):
        run_predict(*words, "--checkpoints", networks["binary_change"])
    assert maps_of(out) == before
    run_predict(*words, "--checkpoints", networks["binary_change"], "--overwrite")
    assert {p.name.split(".")[0] for p in out.iterdir()} == {
        *("change", "change_probability", "mine", "predict", "summary")
    }
    assert (out / "mine.txt").exists()


def test_polygons_that_are_open_in_another_program_are_not_replaced(tmp_path, networks, pair):
    words = [*pair, "--checkpoints", networks["binary_change"], "--out", tmp_path]
    run_predict(*words)
    before = maps_of(tmp_path)
    with closing(sqlite3.connect(tmp_path / "changes.gpkg")) as file:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("CREATE TABLE layer_styles (id INTEGER)")
        with pytest.raises(OSError, match=r"changes\.gpkg is open in another program"):
            run_predict(*words, "--threshold", "0.4", "--overwrite")
        assert maps_of(tmp_path) == before
    run_predict(*words, "--threshold", "0.4", "--overwrite")


def test_a_map_never_replaces_what_it_is_made_of(tmp_path, networks):
    images = [write(tmp_path / f"date{i}.tif", x) for i, x in enumerate(scene(70, 80), start=1)]
    before = [path.read_bytes() for path in images]
    for task in ("semantic_change", "binary_change"):
        words = ["--checkpoints", networks[task], "--out", tmp_path, "--overwrite"]
        with pytest.raises(ValueError, match=r"would replace .*date1\.tif, of which it is made"):
            run_predict(*images, *words)
    assert [path.read_bytes() for path in images] == before


def test_a_map_that_was_killed_while_it_was_published_is_the_new_one(
    tmp_path, networks, pair, monkeypatch, capsys
):
    out = tmp_path / "out"
    words = [*pair, "--checkpoints", networks["binary_change"], "--vector", "none", "--out", out]
    run_predict(*words)
    words += ["--overwrite", "--threshold", "0.1"]

    replace = os.replace

    def killed(source, target):
        if Path(target).parent == out:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("maps.progress.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run_predict(*words)
    run_predict(*words)
    assert "finished before the run was interrupted" in capsys.readouterr().out
    found = read(out / "change_probability.tif") > 0.1
    np.testing.assert_array_equal(read(out / "change.tif") == 1, found)
    assert not list(out.glob(".*"))


def test_a_full_disk_is_an_error_and_leaves_no_map(tmp_path, networks, pair):
    out = tmp_path / "out"
    words = [*pair, "--checkpoints", networks["binary_change"], "--vector", "none", "--out", out]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*Is the disk full"):
            run_predict(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [p.name for p in out.iterdir()] == [NAME]
    run_predict(*words)
    assert (out / "change.tif").exists() and not (out / NAME).exists()


@pytest.mark.parametrize(
    ("words", "task", "message"),
    [
        (["{0}", "{1}"], "land_cover", "for land cover, which reads one image"),
        (["{0}"], "binary_change", "find change between two dates"),
        (["{0}", "{far}"], "binary_change", "do not overlap"),
        (["{0}", "{cut}"], "binary_change", "cut.tif: cut off"),
        (["{0}", "{two}"], "binary_change", "two.tif has 2 .*--bands"),
        (["{0}", "{nowhere}"], "binary_change", "missing in .*nowhere.tif"),
        (["{0}", "{deep}"], "binary_change", "holds uint16"),
        (["{0}", "{1}", "--overlap-px", "300"], "binary_change", r"must lie in 0\.\.256"),
        (["{0}", "{1}", "--full-semantics"], "binary_change", "--full-semantics: these networks"),
        (["{0}", "--threshold", "0.3"], "land_cover", "--threshold is for change"),
        (["{0}", "{1}", "--vector", "none", "gpkg"], "binary_change", "--vector none goes alone"),
        (["{0}", "{1}", "--min-area", "-1"], "binary_change", "at least 0"),
        (["{0}", "{0}"], "binary_change", "is given as both dates"),
        (["{0}", "{1}", "--vector", "none", "--min-area", "9"], "binary_change", "no polygons"),
        ([], "binary_change", "no images are named; put them first"),
        (["{far}", "{far}", "--strict-grid", "--tile-px", "0"], "binary_change", "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    tmp_path, networks, pair, words, task, message, capsys
):
    image = scene(150, 130)[1]
    write(tmp_path / "far.tif", image, transform=shifted(PLACE, 900, 0))
    truncate(write(tmp_path / "cut.tif", image))
    write(tmp_path / "two.tif", image[:2])
    write(tmp_path / "nowhere.tif", image, None, None)
    write(tmp_path / "deep.tif", image.astype(np.uint16))
    named = {n: tmp_path / f"{n}.tif" for n in ("far", "cut", "two", "nowhere", "deep")}
    words = [word.format(*pair, **named) for word in words]
    with pytest.raises((ValueError, OSError, SystemExit)) as caught:
        predict.main(
            [
                *words,
                *(["--out", str(tmp_path / "out"), "--device", "cpu"]),
                "--checkpoints",
                str(networks[task]),
            ]
        )
    assert re.search(message, f"{caught.value} {capsys.readouterr().err}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "flag"), [("shapely", "--vector gpkg"), ("jinja2", "--report")]
)
def test_a_missing_package_is_named_before_any_work(
    tmp_path, networks, pair, package, flag, monkeypatch
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    words = ["--checkpoints", networks["binary_change"], "--out", tmp_path / "out", "--report"]
    with pytest.raises(ValueError, match=rf"{flag} needs {package}: pip install {package}"):
        run_predict(*pair, *words)
    assert not (tmp_path / "out").exists()
