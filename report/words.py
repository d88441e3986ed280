"""Texts of a report: percentages, areas, transitions, and the leading sentence of the page.

Areas have three significant digits. Percentages have one decimal, or two significant digits below
1 %. The same rules hold for the headline and the tables.
"""

from typing import Any

import numpy as np

from report.files import finite
from report.structures import Amounts, Report
from utils.structures import Scheme

GAP = "\N{NO-BREAK SPACE}"  # between a number and its unit
M2_PER_HA = 10_000


def percent(value: float | None, digits: int | None = None) -> str:
    """A ratio in per cent with `digits` decimals (None: see above); a dash if undefined."""
    number = finite(value)
    if number is None:
        return "–"
    number *= 100
    if digits is not None:
        return f"{number:.{digits}f}{GAP}%"
    if 0 < abs(number) < 0.01:
        return f"{'<' if number > 0 else '>-'}0.01{GAP}%"
    if 0 < abs(number) < 0.995:
        return f"{number:#.2g}{GAP}%"
    return f"{number:.1f}{GAP}%"


def short_number(value: float) -> str:
    """A number as a short text; empty for 0."""
    if value <= 0:
        return ""
    return "<0.1" if value < 0.05 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def area(value: float, unit: str) -> str:
    """An area in hectares (small ones in square metres), or a number of pixels."""
    if unit == "px":
        return (
            f"{_significant(value / 1e6)} million pixels"
            if value >= 1e6
            else f"{value:,.0f} pixels"
        )
    if 0 < value < 0.01:
        return f"{_significant(value * M2_PER_HA)}{GAP}m²"
    return f"{_significant(value)}{GAP}ha"


def _significant(value: float) -> str:
    """A number with three significant digits, or with all digits of its integer part."""
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    digits = 2 - int(np.floor(np.log10(value)))
    if round(value, digits) >= 10 ** (3 - digits):  # 9.996 -> 10.0
        digits -= 1
    return f"{value:.{digits}f}"


def between(origin: str, target: str) -> str:
    """A transition in words: "from tree to water", or "within tree"."""
    return f"within {origin}" if origin == target else f"from {origin} to {target}"


def largest_share(share: float) -> str:
    """The largest share of a whole in words."""
    return "all" if share >= 1 else "most" if share > 0.5 else "the largest part"


def largest(transitions: np.ndarray, count: int) -> list[tuple[int, int]]:
    """0-based (from, to) of the largest changes; transitions with no area are left out."""
    order = np.argsort(-transitions, axis=None, kind="stable")[:count]
    pairs = [divmod(int(index), transitions.shape[1]) for index in order]
    return [pair for pair in pairs if transitions[pair] > 0]


def lead(report: Report) -> str:
    """A summary of the page in one or two sentences."""
    each = [
        section.amounts for section in report.sections if section.amounts and section.amounts.total
    ]
    amounts = report.total if report.total and report.total.total else next(iter(each), None)
    number = len(report.sections) if report.maps else 1
    if amounts is not None and amounts.transitions is not None:
        return _of_change(amounts, number, report.scheme)
    if amounts is not None:
        return _of_classes(amounts, number, report.scheme)
    return _of_pseudo_labels(report.pseudo) if report.pseudo else ""


def _of_change(amounts: Amounts, maps: int, scheme: Scheme) -> str:
    total, share = area(amounts.total, amounts.unit), percent(amounts.changed / amounts.total)
    text = f"{maps} maps, {total}: {share} changed" if maps > 1 else f"{share} of {total} changed"
    if amounts.unit == "ha" and amounts.changed:
        text += f", {area(amounts.changed, 'ha')}"
    pairs = largest(amounts.transitions, 1) if scheme.classes else []
    if not pairs:
        return text + "."
    (i, j) = pairs[0]
    share = amounts.transitions[i, j] / amounts.changed
    words = f"{largest_share(share)} of it" if share > 0.5 else largest_share(share)
    words += "" if share >= 1 else f", {percent(share)},"
    return f"{text}; {words} {between(scheme.classes[i], scheme.classes[j])}."


def _of_classes(amounts: Amounts, maps: int, scheme: Scheme) -> str:
    shares = amounts.classes / amounts.total
    most = int(shares.argmax())
    in_maps = f" in {maps} maps" if maps > 1 else ""
    words = largest_share(shares[most]).capitalize()
    value = "" if shares[most] >= 1 else f": {percent(shares[most])}"
    name = scheme.classes[most]
    return f"{words} of {area(amounts.total, amounts.unit)}{in_maps} is {name}{value}."


def _of_pseudo_labels(numbers: dict[str, Any]) -> str:
    return f"{percent(numbers.get('share_labelled'))} of the unchanged pixels got a label."
