import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_folders import LOG, make_land_cover_map, make_maps, make_outdir, read, write_checkpoint
from tiny_data import write, write_tiff

from utils import charts, report
from utils.colour_vision import smallest_difference
from utils.colours import SAFE, contrast, ink_on, luminance, ramp, safe_palette
from utils.files import write_json
from utils.report import write_report
from utils.report.amounts import amounts_of
from utils.report.data import collect
from utils.report.files import bounded, files_by_id, read_bounded, read_classes, read_json
from utils.report.maps import read_map, scheme_of_map
from utils.report.parts import Amounts, Part, Report
from utils.report.pictures import CHANGED, NO_DATA, NO_VALUE, class_map, jpeg_uri
from utils.report.sums import read_amounts
from utils.report.tiles import Picture, Tiles, choose, tile_score, with_coding
from utils.report.words import GAP, area, lead, percent
from utils.schemes import NAIC2020, SECOND, WHITE, change_scheme, dfc_scheme
from utils.structures import Scheme
from utils.summary import write_class_summary, write_summary

BINARY = change_scheme(("red", "green", "blue"), "none")
CSS = (report.TEMPLATES / "report.css").read_text(encoding="utf-8")


# --- colours


def test_contrast_of_black_and_white_is_21_and_of_equals_1():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((12, 200, 7), (12, 200, 7)) == 1
    assert luminance((255, 0, 0)) == pytest.approx(0.2126)


def test_numbers_in_heat_maps_can_be_read_at_every_shade():
    for share in np.linspace(0, 1, 101):
        assert contrast(ramp(share), ink_on(ramp(share))) >= 4.5


@pytest.mark.parametrize(
    "scheme",
    [SECOND, NAIC2020, BINARY, dfc_scheme(True, True, True, True)],
    ids=["second", "naic2020", "binary", "dfc"],
)
def test_safe_palettes_are_told_apart_with_every_colour_vision(scheme):
    palette = safe_palette(scheme)
    assert len(palette) == len(scheme.palette) and palette[0] == scheme.palette[0]
    assert len(set(palette)) == len(palette)
    assert smallest_difference(np.array(palette[1:])) >= 15


def test_all_safe_colours_together_are_told_apart():
    assert smallest_difference(np.array(list(SAFE.values()))) >= 15


def test_water_stays_blue_and_trees_green():
    palette = dict(zip(("unchanged", *SECOND.classes), safe_palette(SECOND), strict=True))
    assert palette["water"] == SAFE["blue"] and palette["tree"] == SAFE["green"]


def test_more_classes_than_safe_colours_keep_their_own():
    own = tuple((i, 0, 0) for i in range(20))
    palette = safe_palette(Scheme("land_cover", tuple(f"c{i}" for i in range(20)), (WHITE, *own)))
    assert len(palette) == 21 and set(palette) - set(own) >= set(SAFE.values())


def tokens(block: str) -> dict[str, tuple[int, ...]]:
    found = re.findall(r"(--[\w]+): #([0-9a-f]{6});", block)
    return {name: tuple(bytes.fromhex(value)) for name, value in found}


LIGHT = tokens(CSS[: CSS.index("@media")])
DARK = tokens(CSS[CSS.index("@media (prefers-color-scheme: dark)") : CSS.index("* {")])
PRINT = tokens(CSS[CSS.index("@media print") :])


@pytest.mark.parametrize("theme", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_text_and_lines_reach_wcag_aa(theme):
    for ground in ("--paper", "--card"):
        for ink in ("--ink", "--soft", "--accent"):
            assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
        for line in ("--edge", "--s1", "--s2", "--s3"):
            assert contrast(theme[line], theme[ground]) >= 3, (line, ground)
    assert contrast((255, 255, 255), (20, 22, 26)) >= 4.5  # tags on pictures
    assert contrast((31, 99, 176), (255, 255, 255)) >= 3  # focus of the divider


def test_right_and_wrong_are_told_apart_with_every_colour_vision():
    colours = [LIGHT[name] for name in ("--hit", "--missed", "--alarm", "--confused")]
    assert smallest_difference(np.array(colours)) >= 15


# --- charts


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_matrix_has_a_cell_for_every_pair_and_escapes_names():
    table = charts.Matrix(
        ["<a>", "b"], ["<a>", "b"], [[0, 1], [0.5, None]], [["", "9"], ["5", "0"]],
        [["h"] * 2] * 2, "from", "to",
    )  # fmt: skip
    root = parsed(charts.matrix(table, 'a "title"'))
    assert root.get("aria-label") == 'a "title"'
    assert len(root.findall("rect")) == 3  # None is no cell
    assert [t.text for t in root.findall("text[@class='cell']")] == ["9", "5"]
    assert "<a>" in [t.text for t in root.findall("text")]


def test_flows_are_as_thick_as_their_amounts():
    amounts = [[0, 30], [10, 0]]
    root = parsed(charts.flows(["x", "y"], amounts, "t", str))
    nodes = [float(rect.get("height")) for rect in root.findall("rect")]
    assert len(nodes) == 4
    assert nodes[0] == pytest.approx(3 * nodes[1], abs=0.3)  # x sends 30, y 10
    assert nodes[2] == pytest.approx(nodes[1], abs=0.1)  # x gets 10
    hints = [path.find("title").text for path in root.findall("path")]
    assert hints == ["x → y: 30", "y → x: 10"]
    paths = [list(map(float, re.findall(r"-?[\d.]+", p.get("d")))) for p in root.findall("path")]
    assert [p[8] - p[7] for p in paths] == pytest.approx([nodes[0], nodes[1]], abs=0.3)


def test_flow_chart_of_nothing_is_no_error():
    assert parsed(charts.flows(["x"], [[0]], "t", str)).findall("path") == []


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.31, 0.35), (3, 3), (0, 0), (-2, 5), (1e-6, 3e-6), (0, 536)]
)
def test_ticks_are_few_even_and_span_the_values(low, high):
    ticks = charts._ticks(low, high, 4)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 6
    steps = np.diff(ticks)
    assert (steps > 0).all() and np.allclose(steps, steps[0])


def test_curves_leave_out_what_is_no_number_and_need_a_point():
    series = [charts.Series("loss", [(0, 1.0), (1, float("nan")), (2, None), (3, 0.5)])]
    path = parsed(charts.curves(series, "t")).findall("path[@class='curve s1']")[-1]
    assert path.get("d").count("L") == 1
    assert charts.curves([charts.Series("loss", [(0, None)])], "t") == ""


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
    from utils.report.files import Sources
    from utils.report.tiles import read_truth

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
    parts = [Part("a", "a", 1, [], [], amounts, None)] * maps
    sums = amounts if maps > 1 else None
    text = lead(Report(Path("x"), scheme, parts, [], None, [], [], {}, None, True, sums))
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
    parts = [Part("a", "a", 1, [], [], amounts, None)]
    report = Report(Path("x"), scheme, parts, [], None, [], [], {}, None, True)
    assert lead(report).replace(GAP, " ") == text


# --- folders


class Page(HTMLParser):
    """Headings, references to anything outside, and tags that were not closed."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open, self.outside, self.words, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "action") and not value.startswith(("data:", "#")):
                self.outside.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.outside == []
    assert "url(" not in text and "@import" not in text
    return page


def embedded(path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


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
    tiles = embedded(path)["parts"][0]
    assert [tile["verdict"] for tile in tiles] == ["best", "best", "worst", "worst"]
    assert {tiles[2]["name"], tiles[3]["name"]} == {"00000", "00001"}
    assert tiles[0]["score"] == 1 and tiles[2]["score"] < 0.9


def test_sums_are_those_of_the_masks(outdir):
    amounts = collect(outdir, 2, 99).parts[0].amounts
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
    assert [part.name for part in report.parts] == ["val"]  # its last line of the log
    log = outdir / "runs" / "one" / "log.jsonl"
    text = log.read_text(encoding="utf-8")
    log.write_text(text.replace(str(LOG[-1]["score"]), "0.99"), encoding="utf-8")
    assert collect(outdir / "runs" / "one", 1, 99).parts == []
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
    assert embedded(path)["parts"][0][0]["before"] is None
    moved = write_report(outdir, data_root=tmp_path / "moved")
    assert embedded(moved)["parts"][0][0]["before"].startswith("data:image/jpeg;base64,")


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


# --- maps


def picture_of(folder: Path, longest: int = 99) -> Picture:
    """The picture of a map."""
    record = read_json(folder / "predict.json")
    return read_map(folder, record, scheme_of_map(folder, record), longest)[0]


def test_page_of_a_map_has_hectares_and_its_images(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    path = write_report(out)
    page = page_of(path)
    # 600 of 39 * 60 pixels
    assert "25.6 % of 23.4 ha changed, 6.00 ha; all of it from water to building." in page.text
    tile = embedded(path)["parts"][0][0]
    assert tile["third"] == "probability" and tile["after"].startswith("data:image/jpeg")
    assert "All maps" not in page.text and "QGIS styles have the colours" in page.text


def test_date_2_is_warped_to_the_map(tmp_path):
    picture = picture_of(make_maps(tmp_path / "town", tmp_path / "in"))
    assert picture.images.shape == (2, 40, 60, 3)
    assert (picture.images[0, :10] == 200).all() and (picture.images[0, 10:] == 60).all()
    assert (picture.images[1, 1:-1, 1:-1] == 90).all()  # unwarped, it would end 100 m too early


def test_gaps_in_images_of_any_depth_do_not_spoil_the_rest(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    deep = np.tile(np.linspace(1000, 3000, 60, dtype=np.float32), (1, 40, 1))
    write_deep(tmp_path / "in" / "after.tif", deep)
    deep[:, :20] = -9999
    write_deep(tmp_path / "in" / "before.tif", deep)
    image = picture_of(tmp_path / "town").images[0]
    assert (image[:20] < 10).all() and image[30, 0].max() < 10 and image[30, 59].min() > 245


def write_deep(path: Path, bands: np.ndarray) -> None:
    """An input of `make_maps` where the map lies."""
    place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633"}
    write_tiff(path, bands.astype(np.float32), pixel_m=10, nodata=-9999, **place)


def test_both_dates_are_stretched_alike(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    ramp_up = np.tile(np.linspace(1000, 2000, 60), (1, 40, 1))
    for name, factor in (("before", 1), ("after", 2)):
        write_deep(tmp_path / "in" / f"{name}.tif", factor * ramp_up)
    images = picture_of(tmp_path / "town").images.astype(int)
    assert abs(images[0, 20, 59] - images[1, 20, 0]).max() <= 1  # 2000 at both dates
    assert images[0, 20, 59, 0] < 100 and images[1, 20, 59, 0] > 245


def test_bands_are_those_that_the_networks_read(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    for date, name in enumerate(("before", "after")):
        bands = np.zeros((5, 40, 60), np.uint8)
        bands[:] = 10 * np.arange(1, 6)[:, None, None] + date
        place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633"}
        write_tiff(tmp_path / "in" / f"{name}.tif", bands, pixel_m=10, **place)
    record = read_json(out / "predict.json")
    record |= {
        "bands": ["nir", "red", "green", "blue"],
        "band_numbers": [[1, 4, 5, 2], [5, 3, 2, 1]],
    }
    write_json(out / "predict.json", record)
    images = picture_of(out).images
    assert images[:, 20, 20].tolist() == [[40, 50, 20], [31, 21, 11]]
    write_json(out / "predict.json", {**record, "bands": ["a"], "band_numbers": [[3], [4]]})
    assert picture_of(out).images[:, 20, 20].tolist() == [[30] * 3, [41] * 3]


def test_large_maps_are_shown_small_and_counted_whole(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    picture = picture_of(tmp_path / "town", 30)
    assert picture.pred.shape == (2, 20, 30) and picture.step == 2
    part = collect(tmp_path / "town", 1, 30).parts[0]
    assert (part.pictures[0]["height"], part.pictures[0]["width"]) == (20, 30)
    assert part.amounts.transitions[0, 4] == pytest.approx(6.0)
    assert part.amounts.total == pytest.approx(39 * 60 / 100)
    assert part.amounts.no_data == pytest.approx(60 / 100)


def test_amounts_are_those_of_the_summary_and_counted_without_one(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    counted = read_amounts(out, SECOND)
    summary = write_summary(out, out / "transition.tif", SECOND)
    told = read_amounts(out, SECOND)
    assert told.transitions == pytest.approx(counted.transitions)
    assert told[2:] == pytest.approx(counted[2:]) and told.unit == "ha"
    assert read_amounts(out, SECOND, in_pixels=True).total == 39 * 60
    summary["hectares"]["valid"] = 77.0
    write_json(out / "summary.json", summary)
    assert read_amounts(out, SECOND).total == 77
    for broken in ({**summary, "matrix": None}, {**summary, "classes": ["x"]}, [], None):
        write_json(out / "summary.json", broken)
        assert read_amounts(out, SECOND).total == counted.total


def test_amounts_of_a_land_cover_are_those_of_the_summary(tmp_path):
    out = make_land_cover_map(tmp_path / "town", tmp_path / "in")
    scheme = scheme_of_map(out, read_json(out / "predict.json"))
    counted = read_amounts(out, scheme)
    write_class_summary(out, out / "classes.tif", scheme)
    told = read_amounts(out, scheme)
    assert told.classes.tolist() == counted.classes.tolist() == [400, 400]
    assert told[2:] == counted[2:] == (800, "px", 0)


def test_classes_everywhere_are_told_from_change(tmp_path):
    picture = picture_of(make_maps(tmp_path / "town", tmp_path / "in", everywhere=True))
    pixels, _ = class_map(picture, SECOND)
    assert pixels[0, 0].tolist() == [1, 5, CHANGED] and pixels[20, 0].tolist() == [2, 2, 0]


def test_map_without_its_images_says_so(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    (tmp_path / "in" / "after.tif").unlink()
    assert "after.tif not found" in page_of(write_report(tmp_path / "town")).text


def test_no_data_has_a_colour_a_legend_entry_and_a_number(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    path = write_report(out)
    page = page_of(path)
    assert (
        "No data 0.600 ha 2.5 % of all" in page.text
        and 'class="swatch no-data"' in path.read_text()
    )
    grey = picture_of(out).images[0].copy()
    grey[39] = 224
    assert embedded(path)["parts"][0][0]["before"] == jpeg_uri(grey)
    whole = write_report(make_land_cover_map(tmp_path / "whole", tmp_path / "in"))
    assert "no data" not in page_of(whole).text.lower()


def test_map_without_crs_says_that_areas_are_pixels(tmp_path):
    out = make_land_cover_map(tmp_path / "town", tmp_path / "in")
    assert "No CRS: areas in pixels only." in page_of(write_report(out)).text
    out = make_land_cover_map(tmp_path / "placed", tmp_path / "in", "EPSG:32637")
    assert "No CRS" not in page_of(write_report(out)).text


def make_several(root: Path, names: str = "abcd") -> Path:
    """Maps side by side; in each, a row less is changed than in the one before."""
    for number, name in enumerate(names):
        out = make_maps(root / "out" / name, root / f"in_{name}")
        for file in ("change", "date1", "date2", "transition"):
            path = out / f"{file}.tif"
            values = read_bounded(path, 99)
            values[0, :number] = 0
            place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633"}
            write_tiff(path, values, pixel_m=10, nodata=255, **place)
    return root / "out"


def test_page_of_several_maps_sums_them_and_links_to_each(tmp_path):
    path = write_report(make_several(tmp_path))
    page = page_of(path)
    # 10, 9, 8, 7 of 39 rows of 0.6 ha each: 34 / 156 = 21.8 %
    assert (
        "4 maps, 93.6 ha: 21.8 % changed, 20.4 ha; all of it from water to building." in page.text
    )
    assert "a 23.4 ha 6.00 ha 25.6 % b 23.4 ha 5.40 ha 23.1 %" in page.text
    text = path.read_text(encoding="utf-8")
    for number, name in enumerate("abcd"):
        assert f'<a href="#part-{number}">{name}</a>' in text
        assert text.count(f'id="part-{number}"') == 1
    assert [part.title for part in collect(tmp_path / "out", 1, 99).parts] == list("abcd")


def test_number_of_pictures_of_maps_is_bounded_and_the_rest_keep_their_numbers(tmp_path):
    out = make_several(tmp_path)
    shutil.move(out / "a", out / "z")  # the one with the most change comes last
    path = write_report(out, images=2)
    assert [len(pictures) for pictures in embedded(path)["parts"]] == [1, 0, 0, 1]
    page = page_of(path)
    assert "4 maps; pictures of 2, those with the most change" in page.text
    assert "c 23.4 ha 4.80 ha 20.5 %" in page.text and "4 maps, 93.6 ha" in page.text
    assert page.tags.count("figure") == 3 * 2 + 2  # viewer and two charts each, charts of the sum


def test_only_the_maps_that_are_named_are_reported_on(tmp_path):
    out = make_several(tmp_path)
    page = page_of(write_report(out, maps=[out / "b", out / "d"]))
    assert "2 maps, 46.8 ha" in page.text
    one = collect(out, 1, 99, maps=[out / "b"])
    assert one.total is None and [part.title for part in one.parts] == ["b"]


def test_maps_with_and_without_areas_are_summed_in_pixels(tmp_path):
    for name, crs in (("a", "EPSG:32637"), ("b", None)):
        make_land_cover_map(tmp_path / "out" / name, tmp_path / name, crs)
    path = write_report(tmp_path / "out", images=1)
    assert [len(pictures) for pictures in embedded(path)["parts"]] == [1, 0]  # equal: the first
    page = page_of(path)
    assert "part of 1,600 pixels in 2 maps is water: 50.0 %." in page.text
    assert "Some of the maps have no CRS: the sums are of pixels." in page.text


def test_maps_of_different_kinds_are_an_error_that_names_both(tmp_path):
    make_maps(tmp_path / "out" / "a", tmp_path / "in")
    make_land_cover_map(tmp_path / "out" / "b", tmp_path / "in")
    with pytest.raises(ValueError, match=r"out/a .*out/b .*Report each folder by itself"):
        write_report(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "b")
    other = SECOND._replace(classes=("x", *SECOND.classes[1:]))
    make_maps(tmp_path / "out" / "b", tmp_path / "in", other)
    with pytest.raises(ValueError, match="the same classes"):
        write_report(tmp_path / "out")


def test_classes_of_a_map_are_its_own_though_the_checkpoint_was_replaced(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    other = SECOND._replace(classes=tuple("uvwxyz"), bands=("nir", "red", "green"))
    write_checkpoint(tmp_path / "net.pth", other)
    record = {**read_json(out / "predict.json"), "checkpoints": [str(tmp_path / "net.pth")]}
    write_json(out / "predict.json", record)
    assert collect(out, 1, 99).scheme == SECOND
    write_checkpoint(tmp_path / "net.pth", SECOND._replace(bands=("nir", "red", "green")))
    assert collect(out, 1, 99).scheme.bands == ("nir", "red", "green")
    for key in ("task", "classes", "palette"):
        del record[key]
    assert scheme_of_map(out, record).classes == SECOND.classes  # old: by the checkpoint


def test_checkpoints_are_read_only_where_they_are_needed_and_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("utils.report.maps.scheme_of_checkpoint", lambda path: read.append(path))
    out = make_several(tmp_path)
    collect(out, 1, 99)
    assert read == [Path("gone.pth")]  # four maps without "bands"
    for path in out.glob("*/predict.json"):
        write_json(path, {**read_json(path), "bands": ["nir", "red", "green"]})
    assert collect(out, 1, 99).scheme.bands == ("nir", "red", "green") and len(read) == 1


def test_page_of_a_land_cover_map_counts_classes(tmp_path):
    path = write_report(make_land_cover_map(tmp_path / "town", tmp_path / "in"))
    page = page_of(path)
    assert "How much of what" in page.text and "50.0 %" in page.text
    assert "400 pixels" in page.text and "From what to what" not in page.text
    assert "The largest part of 800 pixels is water: 50.0 %." in page.text
    assert "Looked at 800 pixels with data" in page.text and "what changed" not in page.text
    assert embedded(path)["parts"][0][0]["after"] is None


# --- command line


def test_command_line(outdir, tmp_path, capsys):
    page = tmp_path / "page.html"
    report.main([str(outdir), "--out", str(page), "--images", "1"])
    assert str(page) in capsys.readouterr().out
    assert len(embedded(page)["parts"][0]) == 1


def test_sizes_of_files_are_never_0():
    sizes = [12, 34_567, 1_000_000, 12_345_678]
    assert [report.size_in_words(n) for n in sizes] == ["1 kB", "35 kB", "1.0 MB", "12.3 MB"]


def test_errors_of_options_are_headed_by_what_one_types(capsys):
    with pytest.raises(SystemExit):
        report.parse_args([])
    assert capsys.readouterr().err.startswith("python -m utils.report: error:")


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
    assert lines == [f"  python -m utils.report {top / name}" for name in found]
    for number in range(3, 6):
        write_json(top / "a" / f"net{number}" / "runs" / "x" / "args.json", {})
    with pytest.raises(FileNotFoundError) as error:
        write_report(top)
    assert str(error.value).splitlines()[-2:] == [
        f"  python -m utils.report {top / 'a' / 'net3'}", "  ..."
    ]  # fmt: skip
