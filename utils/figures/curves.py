"""The precision-recall curve of a threshold sweep as a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from utils.figures.panels import (
    FAINT_INK,
    FRAME,
    INK,
    PAPER,
    line_height,
    load_font,
    upright_text,
)

CURVE, BEST = (31, 99, 176), (220, 20, 60)
ISO_F1 = (0.2, 0.4, 0.6, 0.8, 0.9)
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SIDE_PX = 520  # of the square that precision and recall span
FINER = 3  # drawn so many times larger, then shrunk: smooth lines

Point = tuple[float, float]  # recall, precision


class _Plot(NamedTuple):
    """Paper with axes on it."""

    paper: Image.Image
    pen: ImageDraw.ImageDraw
    left: int
    top: int
    side: int

    def at(self, point: Point) -> tuple[float, float]:
        """The pixel of (recall, precision)."""
        recall, precision = point
        return self.left + recall * self.side, self.top + (1 - precision) * self.side


def precision_recall_picture(result: Mapping[str, object], title: str = "") -> Image.Image:
    """Draws precision over recall, F1 as faint lines, and the chosen threshold.

    Args:
        result: of utils.thresholds.result; NaN, or None as read from JSON, is left out.
        title: one line above all; empty: what the picture is.

    Returns:
        An RGB image.
    """
    plot = _empty_plot(title or "Precision and recall of change", _summary(result))
    for f1 in ISO_F1:
        _draw_iso_f1(plot, f1)
    points = [(p["recall"], p["precision"]) for p in result["curve"]]
    points = [point for point in points if all(map(_known, point))]
    if points:
        _draw_curve(plot, points)
    if _known(result["threshold"]):
        _draw_best(plot, result)
    width, height = plot.paper.size
    return plot.paper.resize((width // FINER, height // FINER), Image.Resampling.BOX)


def _empty_plot(title: str, summary: str) -> _Plot:
    """Title, labelled axes and the line at the foot."""
    side, font, title_font = SIDE_PX * FINER, load_font(15 * FINER), load_font(19 * FINER)
    unit = line_height(font)
    left, top = 4 * unit, unit + line_height(title_font) + unit
    size = (left + side + 4 * unit, top + side + 5 * unit)
    paper = Image.new("RGB", [FINER * -(-length // FINER) for length in size], PAPER)
    plot = _Plot(paper, ImageDraw.Draw(paper), left, top, side)
    plot.pen.text((left, unit), title, INK, title_font, anchor="la")
    _draw_ticks(plot)
    plot.pen.text((left + side / 2, top + side + 2 * unit), "Recall", FAINT_INK, font, anchor="ma")
    upright_text(paper, "Precision", font, (2 * unit, top + side // 2))
    plot.pen.text((left, top + side + 4 * unit), summary, FAINT_INK, font, anchor="lm")
    return plot


def _draw_ticks(plot: _Plot) -> None:
    font, gap = load_font(13 * FINER), 6 * FINER
    corners = (*plot.at((0, 1)), *plot.at((1, 0)))
    plot.pen.rectangle(corners, outline=FRAME, width=FINER)
    for tick in TICKS:
        (x, foot), (edge, y) = plot.at((tick, 0)), plot.at((0, tick))
        plot.pen.line((x, foot, x, foot + gap // 2), FRAME, FINER)
        plot.pen.line((edge - gap // 2, y, edge, y), FRAME, FINER)
        plot.pen.text((x, foot + gap), f"{tick:.1f}", FAINT_INK, font, anchor="ma")
        plot.pen.text((edge - gap, y), f"{tick:.1f}", FAINT_INK, font, anchor="rm")


def _draw_iso_f1(plot: _Plot, f1: float) -> None:
    """All points of one F1, from precision 1 to recall 1, where its label stands."""
    lowest = f1 / (2 - f1)  # recall where precision is 1
    recalls = [lowest + (1 - lowest) * i / SIDE_PX for i in range(SIDE_PX + 1)]
    points = [plot.at((recall, f1 * recall / (2 * recall - f1))) for recall in recalls]
    plot.pen.line(points, FRAME, FINER, joint="curve")
    x, y = points[-1]
    plot.pen.text((x + 6 * FINER, y), f"F1 {f1}", FAINT_INK, load_font(12 * FINER), anchor="lm")


def _draw_curve(plot: _Plot, points: Sequence[Point]) -> None:
    pixels = [plot.at(point) for point in points]
    if len(pixels) > 1:
        plot.pen.line(pixels, CURVE, round(2.5 * FINER), joint="curve")
    for pixel in pixels:
        _dot(plot, pixel, 1.25 * FINER if len(pixels) > 1 else 4 * FINER, CURVE)


def _draw_best(plot: _Plot, result: Mapping[str, object]) -> None:
    """A dot at the chosen threshold, and its words on the side that has room for them."""
    point = result["recall"], result["precision"]
    x, y = plot.at(point)
    _dot(plot, (x, y), 7 * FINER, PAPER)
    _dot(plot, (x, y), 5 * FINER, BEST)
    text = f"threshold {result['threshold']:.3g}\nF1 {result['f1']:.3f}"
    font, room = load_font(15 * FINER), 12 * FINER
    right, up = point[0] < 0.5, point[1] < 0.5
    corner = (x + room if right else x - room, y - room if up else y + room)
    align, anchor = ("left", "l") if right else ("right", "r")
    options = {"font": font, "anchor": anchor + ("d" if up else "a"), "align": align}
    left, top, right_edge, foot = plot.pen.multiline_textbbox(corner, text, **options)
    margin = 4 * FINER
    plot.pen.rectangle((left - margin, top - margin, right_edge + margin, foot + margin), PAPER)
    plot.pen.multiline_text(corner, text, BEST, **options)


def _dot(plot: _Plot, centre: tuple[float, float], radius: float, colour: tuple) -> None:
    x, y = centre
    plot.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _summary(result: Mapping[str, object]) -> str:
    if not _known(result["threshold"]):
        return "Nothing changed in the truth: no threshold is better than another."
    names = {"precision": "precision", "recall": "recall", "iou": "IoU"}
    parts = [f"{text} {result[key]:.3f}" for key, text in names.items()]
    return "   ".join([*parts, f"average precision {result['average_precision']:.3f}"])


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
