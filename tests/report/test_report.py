"""The report of what train.py, label.py and test.py write."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import report
from helpers.report_folders import (
    LOG,
    embedded,
    make_maps,
    make_outdir,
    page_of,
    read,
    write_checkpoint,
)
from helpers.tiny_data import write
from report import write_report
from report.amounts import amounts_of
from report.data import collect
from report.files import bounded, files_by_id, read_bounded, read_classes
from report.pictures import CHANGED, NO_DATA, NO_VALUE, class_map
from report.structures import Amounts, Report, Section
from report.tiles import Picture, Tiles, choose, tile_score, with_coding
from report.words import GAP, area, lead, percent
from utils.files import write_json
from utils.schemes import SECOND, change_scheme
from utils.structures import Scheme

ROOT = Path(__file__).resolve().parents[2]
BINARY = change_scheme(("red", "green", "blue"), "none")


# --- files and tiles


def test_pictures_are_read_no_larger_than_asked(tmp_path):
    path = write(tmp_path / "a.png", np.zeros((30, 90), np.uint8))
    assert read_bounded(path, 45).shape == (1, 15, 45)
    assert read_bounded(path, 500).shape == (1, 30, 90)
    assert bounded((10000, 1), 100) == (100, 1)


def test_smooth_reading_averages_and_plain_reading_keeps_classes(tmp_path):
    pixels = np.tile(np.array([[0, 200]], np.uint8), (4, 2))
    path = write(tmp_path / "a.png", pixels)
    assert (read_bounded(path, 2, smooth=True) == 100).all()
    assert set(np.unique(read_bounded(path, 2))) <= {0, 200}


def test_labels_are_read_as_indices_as_colours_and_in_any_order_of_the_palette(tmp_path):
    mask = np.array([[0, 1, 2], [3, 4, 6]], np.uint8)
    colours = np.array(SECOND.palette, np.uint8)[mask]
    other = Image.fromarray(colours).quantize(6)  # optimisers number colours as they come
    other.save(tmp_path / "p.png")
    paths = [write(tmp_path / "l.png", mask), write(tmp_path / "c.png", colours)]
    for path in [*paths, tmp_path / "p.png"]:
        assert (read_classes(path, 99, SECOND.palette) == mask).all(), path


def test_values_that_are_no_class_count_as_not_labelled(tmp_path):
    path = write(tmp_path / "l.png", np.array([[0, 9, 255]], np.uint8))
    assert read_classes(path, 99, SECOND.palette).tolist() == [[0, 255, 255]]


def test_change_labels_of_0_and_255_and_of_0_1_and_255(tmp_path):
    from report.files import Sources
    from report.tiles import read_truth

    for stored, meant in (([0, 255], [0, 1]), ([0, 1, 255], [0, 1, 255])):
        path = write(tmp_path / f"{len(stored)}.png", np.array([stored], np.uint8))
        sources = with_coding(Sources(({}, {}), ({"a": path},)))
        assert read_truth(sources, "a", 99, BINARY).tolist() == [[meant]]


def test_score_of_a_tile_by_hand():
    truth = np.array([[[1, 1, 0, 0]], [[2, 2, 0, 0]]])
    pred = np.array([[[1, 0, 0, 3]], [[2, 0, 0, 3]]])
    # pixels and dates: right 2, changed in truth 4, in prediction 4
    assert tile_score(pred, truth, SECOND) == pytest.approx(2 * 2 / (4 + 4))
    assert tile_score(truth, truth, SECOND) == 1
    assert tile_score(pred, truth[..., :2], SECOND) is None


def test_tiles_with_hardly_any_change_are_not_ranked():
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[0, 0, :3] = 1  # of 400: 0.75 %
    assert tile_score(truth, truth, BINARY) is None


def test_worst_and_best_are_chosen():
    names = [f"t{i}" for i in range(10)]
    tiles = Tiles("test", names, ({},), False)
    scores = {name: i / 10 for i, name in enumerate(names)}
    chosen = choose(tiles, scores, 4)
    assert chosen == [("t9", "best"), ("t8", "best"), ("t0", "worst"), ("t1", "worst")]
    assert [name for name, _ in choose(tiles, {}, 2)] == ["t0", "t5"]
    assert len({name for name, _ in choose(tiles, scores, 99)}) == 10


def test_hidden_files_and_others_are_no_masks(tmp_path):
    for name in (".a.png", "b.png", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert list(files_by_id(tmp_path)) == ["b"]


# --- class maps


def test_class_map_holds_both_dates_change_and_truth():
    pred = np.array([[[0, 1, 3, 255]], [[0, 2, 3, 255]]], np.uint8)
    truth = np.array([[[0, 1, 255, 2]], [[0, 6, 255, 1]]], np.uint8)
    pixels, third = class_map(Picture("a", None, pred, truth), SECOND)
    assert third == "truth" and pixels.shape == (2, 4, 3)
    assert pixels[0, :, 0].tolist() == [0, 1, 3, 0]
    assert pixels[0, :, 1].tolist() == [0, 2, 3, 0]
    assert pixels[0, :, 2].tolist() == [0, CHANGED, CHANGED, NO_DATA]
    # codes: unchanged; 1 + 0 * 6 + 5; not labelled; 1 + 1 * 6 + 0
    assert values_of(pixels) == [0, 6, NO_VALUE, 7]


def values_of(pixels: np.ndarray) -> list[int]:
    """The numbers in the lower half of a class map of one row."""
    return (256 * pixels[1, :, 0].astype(int) + pixels[1, :, 1]).tolist()


def test_class_map_holds_probabilities_where_there_is_no_truth():
    probability = np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)
    pred = np.array([[[0, 0, 1, 255]]], np.uint8)
    pixels, third = class_map(Picture("a", None, pred, probability=probability), BINARY)
    assert third == "probability" and values_of(pixels) == [0, 125, 250, NO_VALUE]


def test_class_map_holds_as_many_classes_as_masks_can():
    names = tuple(f"c{k}" for k in range(254))
    scheme = Scheme("semantic_change", names, ((0, 0, 0),) * 255)
    pred = np.array([[[127, 254, 255, 0]], [[128, 254, 255, 0]]], np.uint8)
    pixels, third = class_map(Picture("a", None, pred, pred), scheme)
    assert third == "truth"
    assert pixels[0].tolist() == [[127, 128, 1], [254, 254, 1], [0, 0, NO_DATA], [0, 0, 0]]
    assert values_of(pixels) == [1 + 126 * 254 + 127, 254 * 254, NO_VALUE, 0]


# --- words


def test_areas_have_three_digits_in_any_size():
    areas = [0, 1.2, 7, 4.65, 9.996, 99.96, 104.6, 12345.6, 0.0349, 0.00009]
    assert [area(value, "ha").replace(GAP, " ") for value in areas] == [
        "0 ha", "1.20 ha", "7.00 ha", "4.65 ha", "10.0 ha", "100 ha", "105 ha", "12,346 ha",
        "0.0349 ha", "0.900 m²",
    ]  # fmt: skip
    assert area(999_999, "px") == "999,999 pixels" and area(1.2e6, "px") == "1.20 million pixels"


def test_per_cent_have_one_decimal_and_small_ones_two_digits():
    shares = [0, 0.1197, 1, 0.0321, 0.00995, 0.0034, 0.00012, 0.00001, None]
    assert [percent(share).replace(GAP, " ") for share in shares] == [
        "0.0 %", "12.0 %", "100.0 %", "3.2 %", "1.0 %", "0.34 %", "0.012 %", "<0.01 %", "–",
    ]  # fmt: skip


def lead_of(transitions, classes=("tree", "water"), total=100.0, maps=1) -> str:
    """The headline of maps of a change, in hectares."""
    scheme = Scheme("semantic_change", classes, ((0, 0, 0),) * 3)
    amounts = Amounts(np.array(transitions, float), None, total, "ha")
    sections = [Section("a", "a", 1, [], [], amounts, None)] * maps
    sums = amounts if maps > 1 else None
    text = lead(Report(Path("x"), scheme, sections, [], None, [], [], {}, None, True, sums))
    return text.replace(GAP, " ")


def test_headline_says_most_above_half_only():
    assert lead_of([[0, 6], [4, 0]]) == (
        "10.0 % of 100 ha changed, 10.0 ha; most of it, 60.0 %, from tree to water."
    )
    assert lead_of([[0, 5], [5, 0]]) == (
        "10.0 % of 100 ha changed, 10.0 ha; the largest part, 50.0 %, from tree to water."
    )
    assert lead_of([[0, 0], [4, 0]]).endswith("4.00 ha; all of it from water to tree.")
    assert lead_of([[0, 0], [0, 0]]) == "0.0 % of 100 ha changed."


def test_headline_agrees_with_the_table_on_change_within_a_class():
    transitions = [[6, 3], [1, 0]]
    assert lead_of(transitions).endswith("most of it, 60.0 %, within tree.")
    scheme = Scheme("semantic_change", ("tree", "water"), ((0, 0, 0),) * 3)
    found = amounts_of(Amounts(np.array(transitions, float), None, 100.0, "ha"), scheme)
    assert [(row["from"], row["to"]) for row in found["top"]] == [
        ("tree", "tree"), ("tree", "water"), ("water", "tree")
    ]  # fmt: skip
    assert found["within"] == "tree"
    for chart in (found["matrix"], found["flows"]):
        assert "within tree: 6.00" in chart and "tree → tree" not in chart
    assert amounts_of(Amounts(np.eye(2)[::-1], None, 9.0, "ha"), scheme)["within"] == ""


def test_headline_of_several_maps_counts_them():
    assert lead_of([[0, 6], [4, 0]], maps=4) == (
        "4 maps, 100 ha: 10.0 % changed, 10.0 ha; most of it, 60.0 %, from tree to water."
    )


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ([59.6, 40.4], "Most of 100 ha is tree: 59.6 %."),
        ([40, 30, 30], "The largest part of 100 ha is tree: 40.0 %."),
        ([0, 100], "All of 100 ha is water."),
    ],
)
def test_headline_of_land_cover_has_a_subject(classes, text):
    names = ("tree", "water", "ground")[: len(classes)]
    scheme = Scheme("land_cover", names, ((0, 0, 0),) * (len(names) + 1))
    amounts = Amounts(None, np.array(classes, float), 100.0, "ha")
    sections = [Section("a", "a", 1, [], [], amounts, None)]
    report = Report(Path("x"), scheme, sections, [], None, [], [], {}, None, True)
    assert lead(report).replace(GAP, " ") == text


# --- folders


@pytest.fixture(scope="module")
def outdir(tmp_path_factory):
    return make_outdir(tmp_path_factory.mktemp("report"))


def test_page_of_an_outdir_shows_all_there_is(outdir, tmp_path):
    path = write_report(outdir, tmp_path / "page.html", images=4)
    page = page_of(path)
    for words in (
        "Predictions of test", "Validation", "Training", "best Score 35.00 % at step 40",
        "From what to what", "IoU of each class", "Networks and options",
        "pspnet_resnet18_35.00.pth", "low vegetation", "of 6 tiles",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.tags.count("svg") == 7  # grip, matrix, flow, 2 confusions, loss, score
    tiles = embedded(path)["sections"][0]
    assert [tile["verdict"] for tile in tiles] == ["best", "best", "worst", "worst"]
    assert {tiles[2]["name"], tiles[3]["name"]} == {"00000", "00001"}
    assert tiles[0]["score"] == 1 and tiles[2]["score"] < 0.9


def test_sums_are_those_of_the_masks(outdir):
    amounts = collect(outdir, 2, 99).sections[0].amounts
    masks = np.stack(
        [
            [read(outdir / "masks/test" / f"im{d}" / f"{i:05d}.png") for d in (1, 2)]
            for i in range(6)
        ]
    ).astype(int)  # (6, 2, 32, 32)
    assert amounts.total == 6 * 32 * 32
    assert amounts.transitions.sum() == (masks[:, 0] > 0).sum()
    assert amounts.transitions[2, 4] == ((masks[:, 0] == 3) & (masks[:, 1] == 5)).sum() > 0


def test_page_lies_in_the_folder_unless_told(outdir):
    path = write_report(outdir, images=1)
    assert path == outdir / "report.html" and path.exists()
    path.unlink()


def test_page_of_one_run_has_its_curves_and_no_masks(outdir, tmp_path):
    page = page_of(write_report(outdir / "runs" / "one", tmp_path / "run.html"))
    assert "Training" in page.text and "Validation" in page.text
    assert "Predictions" not in page.text


def test_page_of_one_run_leaves_out_scores_of_another(outdir, tmp_path):
    report = collect(outdir / "runs" / "one", 1, 99)
    assert [section.name for section in report.sections] == ["val"]  # its last line of the log
    log = outdir / "runs" / "one" / "log.jsonl"
    text = log.read_text(encoding="utf-8")
    log.write_text(text.replace(str(LOG[-1]["score"]), "0.99"), encoding="utf-8")
    assert collect(outdir / "runs" / "one", 1, 99).sections == []
    log.write_text(text, encoding="utf-8")


def test_page_of_a_folder_of_masks(outdir, tmp_path):
    page = page_of(write_report(outdir / "masks" / "test", tmp_path / "masks.html"))
    assert "Predictions of test" in page.text and "Training" not in page.text


def test_classes_are_known_without_checkpoint_by_the_palette(tmp_path):
    outdir = make_outdir(tmp_path, tiles=2)
    for path in outdir.glob("models/*"):
        path.unlink()
    assert collect(outdir, 1, 99).scheme == SECOND


def test_without_images_figures_are_shown_and_the_remedy_said(tmp_path):
    outdir = make_outdir(tmp_path, tiles=2)
    (tmp_path / "data").rename(tmp_path / "moved")
    write(outdir / "figures" / "test" / "00001.png", np.zeros((20, 30, 3), np.uint8))
    path = write_report(outdir)
    page = page_of(path)
    assert "--data-root" in page.text and page.tags.count("img") == 3  # two of the viewer
    assert embedded(path)["sections"][0][0]["before"] is None
    moved = write_report(outdir, data_root=tmp_path / "moved")
    assert embedded(moved)["sections"][0][0]["before"].startswith("data:image/jpeg;base64,")


def test_pseudo_labels_are_shown_with_their_numbers(tmp_path):
    outdir = make_outdir(tmp_path, tiles=2)
    write_mask_folder = outdir / "masks" / "train"
    (outdir / "masks" / "test").rename(write_mask_folder)
    record = {"checkpoints": ["a.pth of 2026-01-01 00:00:00"], "rule": "vote"}
    (write_mask_folder / "labelling.json").write_text(json.dumps(record))
    numbers = {
        "tiles": 2, "rule": "vote", "share_labelled": 0.585, "teacher_agreement": 0.5,
        "share_per_class": [0.1, 0.2, 0.1, 0.1, 0.08, 0.005], "accuracy": None,
        "accuracy_per_class": [0.9, None, 0.0, 0.5, 0.5, 0.5],
    }  # fmt: skip
    (outdir / "metrics" / "pseudo_labels.json").write_text(json.dumps(numbers))
    page = page_of(write_report(outdir))
    for words in (
        "Pseudo-labels", "58.5 %", "90.0 % right", " 0.0 % right", "a.pth of 2026-01-01",
        "In changed areas these are the true labels", "read the labels",
    ):  # fmt: skip
        assert words in page.text, words
    assert "classes of what changed" not in page.text and "changed or not" not in page.text
    assert "From what to what" not in page.text


def test_checkpoints_and_options_of_a_test_are_listed(tmp_path):
    outdir = make_outdir(tmp_path, tiles=2)
    record = {"checkpoints": ["best_of_all.pth"], "options": {"tta": "flip_rot"}}
    (outdir / "testing").mkdir()
    (outdir / "testing" / "test_options.json").write_text(json.dumps(record))
    page = page_of(write_report(outdir))
    for words in ("best_of_all.pth", "Prediction of test", "flip_rot"):
        assert words in page.text, words


def test_choice_of_a_threshold_is_shown(tmp_path):
    outdir = make_outdir(tmp_path, tiles=2)
    curve = [{"recall": 0.2, "precision": 0.9}, {"recall": 0.9, "precision": 0.3}]
    best = {"threshold": 0.4, "recall": 0.6, "precision": 0.7, "f1": 0.65, "iou": 0.5}
    result = {**best, "curve": curve, "average_precision": 0.6}
    (outdir / "metrics" / "threshold.json").write_text(json.dumps(result))
    page = page_of(write_report(outdir))
    assert "Choice of the threshold" in page.text and page.tags.count("img") == 3


def test_names_cannot_break_out_of_the_page(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    scheme = SECOND._replace(classes=(evil, *SECOND.classes[1:]))
    outdir = make_outdir(tmp_path, tiles=2)
    write_checkpoint(next(outdir.glob("models/*")), scheme)
    path = write_report(outdir)
    page = page_of(path)
    assert evil in page.text and embedded(path)["classes"][0] == evil
    assert page.tags.count("img") == 2 and "<img src=x" not in path.read_text(encoding="utf-8")


def test_folders_of_nothing_are_an_error_that_says_what_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match="--outdir"):
        write_report(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds neither runs, metrics nor masks"):
        write_report(tmp_path)
    write(tmp_path / "photo.png", np.zeros((9, 9, 3), np.uint8))  # no mask
    with pytest.raises(FileNotFoundError, match="holds neither runs, metrics nor masks"):
        write_report(tmp_path)


# --- command line


def test_command_line(outdir, tmp_path, capsys):
    page = tmp_path / "page.html"
    report.main([str(outdir), "--out", str(page), "--images", "1"])
    assert str(page) in capsys.readouterr().out
    assert len(embedded(page)["sections"][0]) == 1


def test_sizes_of_files_are_never_0():
    sizes = [12, 34_567, 1_000_000, 12_345_678]
    assert [report.size_in_words(n) for n in sizes] == ["1 kB", "35 kB", "1.0 MB", "12.3 MB"]


def test_errors_of_options_are_headed_by_what_one_types(capsys):
    with pytest.raises(SystemExit):
        report.parse_args([])
    assert capsys.readouterr().err.startswith("python -m report: error:")


def test_page_is_written_into_folders_that_exist_only(outdir, tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*none; make it first"):
        write_report(outdir, tmp_path / "none" / "page.html")
    assert not (tmp_path / "none").exists()


def test_error_of_an_empty_folder_lists_those_below_that_work(tmp_path):
    top = tmp_path / "top"
    make_maps(top / "maps" / "town", tmp_path / "in")
    for number in range(3):
        write_json(top / "a" / f"net{number}" / "runs" / "x" / "args.json", {})
    (top / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither") as error:
        write_report(top)
    lines = str(error.value).splitlines()[1:]
    found = ["maps", "a/net0", "a/net1", "a/net2"]
    assert lines == [f"  python -m report {top / name}" for name in found]
    for number in range(3, 6):
        write_json(top / "a" / f"net{number}" / "runs" / "x" / "args.json", {})
    with pytest.raises(FileNotFoundError) as error:
        write_report(top)
    assert str(error.value).splitlines()[-2:] == [
        f"  python -m report {top / 'a' / 'net3'}", "  ..."
    ]  # fmt: skip


def test_the_old_command_still_works_and_names_the_new_one(tmp_path):
    command = [sys.executable, "-m", "utils.report", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "python -m report" in done.stderr
    assert "nothing" in done.stderr.partition("python -m report")[2]
