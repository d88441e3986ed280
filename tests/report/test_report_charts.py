"""Colours and charts of the report."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import report
from report.scores import scores
from utils.figures import charts
from utils.figures.colour_vision import smallest_difference
from utils.figures.colours import SAFE, contrast, ink_on, luminance, ramp, safe_palette
from utils.schemes import NAIC2020, SECOND, WHITE, change_scheme, dfc_scheme
from utils.structures import Scheme

CSS = (report.TEMPLATES / "report.css").read_text(encoding="utf-8")
BINARY = change_scheme(("red", "green", "blue"), "none")


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
def test_safe_palettes_differ_in_every_colour_vision(scheme):
    palette = safe_palette(scheme)
    assert len(palette) == len(scheme.palette) and palette[0] == scheme.palette[0]
    assert len(set(palette)) == len(palette)
    assert smallest_difference(np.array(palette[1:])) >= 15


def test_all_safe_colours_together_differ():
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


def test_right_and_wrong_differ_in_every_colour_vision():
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


def test_a_metric_without_a_title_is_shown_by_its_key():
    found = scores({"f1_change": 0.5, "dice": 0.5, "f2_change": 0.25, "confusion": []}, BINARY)
    assert [name for name, _, _ in found["plain"]] == ["f2_change"]
