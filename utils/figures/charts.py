"""Charts as SVG: heat map of a matrix, flows between classes, curves.

Charts are 360 units wide, so that text is readable on a phone, where a unit is about a pixel.
Colours of classes are the page's CSS variables `--c1`, `--c2`, ...
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from utils.figures.colours import hex_of, ink_on, ramp

WIDTH = 360
LABEL = 98  # width of the names of classes
LEAN = 26  # margin at the right for rotated names
LINE = 13  # height of a line of text
NAME_LETTERS = 15

Point = tuple[float, float]  # step, value


class Matrix(NamedTuple):
    """The content of a heat map."""

    rows: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float | None]]  # 0..1, the shade; None: no such cell
    texts: Sequence[Sequence[str]]  # in the cells
    hints: Sequence[Sequence[str]]  # tooltips of the cells
    row_title: str
    column_title: str


class Series(NamedTuple):
    """One curve."""

    name: str
    points: Sequence[Point]
    dots: bool = False  # few points, each marked


def matrix(table: Matrix, title: str) -> str:
    """A heat map with a name for every row and column.

    Args:
        table: content of the heat map.
        title: description for screen readers.
    """
    cell = min((WIDTH - LABEL - LEAN) / len(table.columns), 48)
    left, top = LABEL, 20 + _heading_height(table.columns)
    height = top + len(table.rows) * cell + 2
    parts = [
        _text(left + len(table.columns) * cell / 2, 11, table.column_title, "chart-axis", "middle"),
        _text(0, top - 6, table.row_title, "chart-axis"),
    ]
    for j, name in enumerate(table.columns):
        x = left + (j + 0.5) * cell
        parts.append(_text(x + 3, top - 6, name, "chart-name", "start", turn=-50))
    for i, name in enumerate(table.rows):
        y = top + (i + 0.5) * cell
        parts.append(_text(left - 6, y + 4, name, "chart-name", "end"))
        columns = range(len(table.columns))
        parts += [_cell(table, i, j, left + j * cell, top + i * cell, cell) for j in columns]
    return _svg(parts, height, title)


def flows(
    names: Sequence[str],
    amounts: Sequence[Sequence[float]],
    title: str,
    format_amount: Callable[[float], str],
    ends: tuple[str, str] = ("Date 1", "Date 2"),
) -> str:
    """A Sankey picture: classes of date 1 on the left flow into those of date 2.

    Args:
        names: of the K classes.
        amounts: K rows (from) of K (to), any unit, at least 0.
        title: description for screen readers.
        format_amount: formats an amount as text.
        ends: headings of the two sides.
    """
    out = [sum(row) for row in amounts]
    into = [sum(row[j] for row in amounts) for j in range(len(names))]
    total, gap = sum(out), 7
    height = max(200, 42 * max(sum(a > 0 for a in out), sum(a > 0 for a in into)))
    sides = [sum(amount > 0 for amount in side) for side in (out, into)]
    scale = (height - gap * (max(sides) - 1)) / total if total else 0
    starts = [_stack(side, scale, gap, height, 24) for side in (out, into)]
    left, right, bar = LABEL + 6, WIDTH - LABEL - 16, 10
    parts = [
        _text(left, 11, ends[0], "chart-axis"),
        _text(right + bar, 11, ends[1], "chart-axis", "end"),
    ]
    used = [list(side) for side in starts]
    for i, j in _by_size(amounts):
        thick = amounts[i][j] * scale
        y1, y2 = used[0][i], used[1][j]
        used[0][i], used[1][j] = y1 + thick, y2 + thick
        pair = f"within {names[i]}" if i == j else f"{names[i]} → {names[j]}"
        hint = f"{pair}: {format_amount(amounts[i][j])}"
        parts.append(_ribbon(left + bar, right, y1, y2, thick, i, hint))
    for side, (amount, x) in enumerate(((out, left), (into, right))):
        shown = [k for k in range(len(names)) if amount[k] > 0]
        middles = [starts[side][k] + amount[k] * scale / 2 for k in shown]
        for k, y in zip(shown, _apart(middles, height + 24), strict=True):
            high = max(amount[k] * scale, 1)
            hint = f"{names[k]}: {format_amount(amount[k])}"
            parts.append(
                f'<rect class="node" x="{x}" y="{starts[side][k]:.1f}" width="{bar}" '
                f'height="{high:.1f}" style="fill:var(--c{k + 1})"><title>{escape(hint)}</title>'
                "</rect>"
            )
            edge, anchor = (x - 6, "end") if side == 0 else (x + bar + 6, "start")
            parts.append(_text(edge, y + 4, names[k], "chart-name", anchor))
    return _svg(parts, height + 30, title)


def curves(series: Sequence[Series], title: str, percent: bool = False) -> str:
    """Curves of values over training steps; the axes end at round numbers.

    Args:
        series: at most six; NaN and None are left out.
        title: description for screen readers.
        percent: values are ratios, shown in per cent.
    """
    factor = 100 if percent else 1
    series = [
        s._replace(points=[(x, y * factor) for x, y in s.points if y is not None and y == y])
        for s in series
    ]
    series = [s for s in series if s.points]
    every = [point for s in series for point in s.points]
    if not every:
        return ""
    lines = _legend_lines(series)
    left, top, right, height = 40, 14 + 17 * len(lines), WIDTH - 12, 170
    ys = _ticks(min(y for _, y in every), max(y for _, y in every), 4)
    last = max(max(x for x, _ in every), 1)
    xs = [x for x in _ticks(0, last, 4) if x <= last]

    def at(x: float, y: float) -> tuple[float, float]:
        share = (y - ys[0]) / (ys[-1] - ys[0])
        return left + (right - left) * x / last, top + height * (1 - share)

    parts = [_legend(lines)]
    for y in ys:
        _, at_y = at(0, y)
        parts.append(f'<path class="grid" d="M{left} {at_y:.1f}H{right}"/>')
        parts.append(_text(left - 6, at_y + 4, f"{y:g}", "chart-tick", "end"))
    for x in xs:
        parts.append(_text(at(x, ys[0])[0], top + height + 15, f"{x:g}", "chart-tick", "middle"))
    parts.append(_text(right, top + height + 29, "step", "chart-axis", "end"))
    for number, one in enumerate(series):
        parts.append(_curve(one, number, [at(*point) for point in one.points]))
    return _svg(parts, top + height + 32, title)


def short(name: str, letters: int = NAME_LETTERS) -> str:
    """A name shortened to at most `letters` characters."""
    return name if len(name) <= letters else name[: letters - 1].rstrip() + "…"


def _cell(table: Matrix, i: int, j: int, x: float, y: float, side: float) -> str:
    share = table.shares[i][j]
    if share is None:
        return ""
    colour = ramp(share)
    box = (
        f'<rect x="{x + 0.75:.2f}" y="{y + 0.75:.2f}" width="{side - 1.5:.2f}" '
        f'height="{side - 1.5:.2f}" rx="2" style="fill:{hex_of(colour)}">'
        f"<title>{escape(table.hints[i][j])}</title></rect>"
    )
    text = table.texts[i][j]
    if side < 18 or not text:
        return box
    size = min(11, 1.7 * (side - 4) / max(len(text), 1))
    return box + (
        f'<text class="cell" x="{x + side / 2:.1f}" y="{y + side / 2 + size * 0.35:.1f}" '
        f'style="fill:{hex_of(ink_on(colour))};font-size:{size:.1f}px">{escape(text)}</text>'
    )


def _heading_height(names: Sequence[str]) -> float:
    """Height of column names rotated by 50 degrees."""
    return 10 + 0.77 * 5.8 * max(len(short(name)) for name in names)


def _stack(amounts: Sequence[float], scale: float, gap: float, height: float, top: float) -> list:
    """Top of each bar of a vertically centred column."""
    shown = [a for a in amounts if a > 0]
    y = top + (height - sum(shown) * scale - gap * max(len(shown) - 1, 0)) / 2
    starts = []
    for amount in amounts:
        starts.append(y)
        y += amount * scale + (gap if amount > 0 else 0)
    return starts


def _by_size(amounts: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """(i, j) of cells above 0, row by row, which avoids unnecessary crossings of ribbons."""
    return [(i, j) for i, row in enumerate(amounts) for j, amount in enumerate(row) if amount > 0]


def _ribbon(x1: float, x2: float, y1: float, y2: float, thick: float, i: int, hint: str) -> str:
    middle = (x1 + x2) / 2
    path = (
        f"M{x1} {y1:.1f}C{middle} {y1:.1f} {middle} {y2:.1f} {x2} {y2:.1f}V{y2 + thick:.1f}"
        f"C{middle} {y2 + thick:.1f} {middle} {y1 + thick:.1f} {x1} {y1 + thick:.1f}Z"
    )
    return (
        f'<path class="flow" d="{path}" style="fill:var(--c{i + 1})">'
        f"<title>{escape(hint)}</title></path>"
    )


def _apart(middles: Sequence[float], bottom: float) -> list[float]:
    """Heights of labels, moved so that labels do not overlap."""
    placed: list[float] = []
    for y in middles:
        placed.append(max(y, placed[-1] + LINE) if placed else y)
    limit = bottom
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], limit)
        limit = placed[k] - LINE
    return placed


def _curve(one: Series, number: int, pixels: Sequence[tuple[float, float]]) -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)
    parts = [f'<path class="curve s{number + 1}" d="{path}"/>']
    if one.dots or len(pixels) == 1:
        parts += [
            f'<circle class="dot s{number + 1}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{escape(one.name)} {value:.4g} at step {step:g}</title></circle>"
            for (x, y), (step, value) in zip(pixels, one.points, strict=True)
        ]
    return "".join(parts)


def _legend_lines(series: Sequence[Series]) -> list[list[tuple[int, str, float]]]:
    """Number, text and x position of every entry, broken into lines that fit."""
    lines, x = [[]], 40.0
    for number, one in enumerate(series):
        advance = 34 + 6 * len(one.name)
        if lines[-1] and x + advance > WIDTH:
            lines.append([])
            x = 40.0
        lines[-1].append((number, one.name, x))
        x += advance
    return lines


def _legend(lines: Sequence[Sequence[tuple[int, str, float]]]) -> str:
    parts = []
    for row, line in enumerate(lines):
        y = 8 + 17 * row
        for number, name, x in line:
            parts.append(f'<path class="curve s{number + 1}" d="M{x} {y}h16"/>')
            parts.append(_text(x + 21, y + 4, name, "chart-name", cut=False))
    return "".join(parts)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers, evenly spaced, from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m * count >= span)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(k * step, 10) for k in range(first, max(last, first + 1) + 1)]


def _text(
    x: float, y: float, text: str, kind: str, anchor: str = "start", turn: int = 0, cut: bool = True
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    if turn:
        place += f' transform="rotate({turn} {x:.1f} {y:.1f})"'
    shown = short(text) if cut and kind == "chart-name" else text
    hint = f"<title>{escape(text)}</title>" if shown != text else ""
    return f'<text class="{kind}" {place}>{escape(shown)}{hint}</text>'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
