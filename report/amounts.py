"""Areas of changes and of classes: the numbers, charts and tables of a page."""

from typing import Any

from report.structures import Amounts, Report, Section
from report.words import area, between, largest, percent, short_number
from utils.figures import charts
from utils.structures import Scheme

SHOWN = 5  # number of largest changes listed


def amounts_of(amounts: Amounts, scheme: Scheme, brief: bool = False) -> dict[str, Any]:
    """Template variables: numbers, bars, charts and largest changes. `brief`: only numbers."""
    found = {"numbers": _numbers(amounts), "bars": [], "top": []}
    if not amounts.total or brief:
        return found
    if amounts.transitions is None:
        return {**found, "bars": _bars(amounts, scheme)}
    return (
        {**found, **_transitions(amounts, scheme)} if scheme.classes and amounts.changed else found
    )


def _numbers(amounts: Amounts) -> list[tuple[str, str, str]]:
    """Name, value and remark of each number."""
    total = area(amounts.total, amounts.unit)
    if amounts.transitions is None:
        numbers = [("Looked at", total, "with data")]
    else:
        numbers = [("Looked at", total, "with data at both dates")]
        if amounts.total:
            share = percent(amounts.changed / amounts.total)
            numbers.insert(0, ("Changed", share, area(amounts.changed, amounts.unit)))
    if amounts.no_data:
        share = percent(amounts.no_data / (amounts.total + amounts.no_data))
        numbers.append(("No data", area(amounts.no_data, amounts.unit), f"{share} of all"))
    return numbers


def _bars(amounts: Amounts, scheme: Scheme) -> list[tuple[str, float, str, str]]:
    """Name, share, per cent and area of each class."""
    rows = zip(scheme.classes, amounts.classes / amounts.total, amounts.classes, strict=True)
    return [(n, float(s), percent(s), area(a, amounts.unit)) for n, s, a in rows]


def _transitions(amounts: Amounts, scheme: Scheme) -> dict[str, Any]:
    """Heat map, flow chart and table of the from-to changes."""
    flow, names = amounts.transitions, scheme.classes
    shares = flow / amounts.changed

    def format_amount(amount: float) -> str:
        share = percent(amount / amounts.changed)
        return f"{area(amount, amounts.unit)}, {share} of the change"

    hints = [
        [f"{between(a, b)}: {format_amount(flow[i, j])}" for j, b in enumerate(names)]
        for i, a in enumerate(names)
    ]
    texts = [[short_number(100 * share) for share in row] for row in shares.tolist()]
    shades = (shares / max(shares.max(), 1e-9)).tolist()
    table = charts.Matrix(names, names, shades, texts, hints, "from", "to")
    within = flow.diagonal()
    return {
        "matrix": charts.matrix(table, "What changed into what, per cent of the change"),
        "flows": charts.flows(names, flow.tolist(), "Flow from class to class", format_amount),
        "top": [_row(amounts, names, i, j) for i, j in largest(flow, SHOWN)],
        "within": names[int(within.argmax())] if within.any() else "",
    }


def _row(amounts: Amounts, names: tuple[str, ...], i: int, j: int) -> dict[str, Any]:
    """Template variables of one of the largest changes, from class i to class j (from 0)."""
    amount = amounts.transitions[i, j]
    return {
        "from": names[i],
        "to": names[j],
        "i": i + 1,
        "j": j + 1,
        "amount": area(amount, amounts.unit),
        "share": percent(amount / amounts.changed),
    }


def overview(report: Report) -> dict[str, Any] | None:
    """The sum of several maps and a table row for each; None for a single map or for tiles."""
    if report.total is None:
        return None
    return {
        "rows": [
            _map_row(section, number, report) for number, section in enumerate(report.sections)
        ],
        "amounts": amounts_of(report.total, report.scheme),
        "shown": sum(not section.brief for section in report.sections),
        "mixed": len({section.amounts.unit for section in report.sections}) > 1,
    }


def _map_row(section: Section, number: int, report: Report) -> dict[str, Any]:
    amounts = section.amounts
    row = {"name": section.title, "number": number, "total": area(amounts.total, amounts.unit)}
    if not amounts.total:
        return {**row, "amount": "–", "share": "–"}
    if amounts.transitions is not None:
        share = percent(amounts.changed / amounts.total)
        return {**row, "amount": area(amounts.changed, amounts.unit), "share": share}
    most = int(amounts.classes.argmax())
    share = percent(amounts.classes[most] / amounts.total)
    return {**row, "amount": report.scheme.classes[most], "share": share}
