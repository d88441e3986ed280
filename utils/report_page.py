"""Turns what utils.report_data collected into the sections of a page: words, numbers, charts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from utils import charts
from utils.colours import hex_of, safe_palette
from utils.curves import precision_recall_picture
from utils.figures import legend_entries
from utils.report_data import Amounts, Part, Report, TrainingRun
from utils.report_files import finite
from utils.report_pictures import jpeg_uri, picture_data, png_uri
from utils.report_scores import GAP, METRICS, percent, scores, short_number
from utils.structures import Scheme

TASKS = {
    "semantic_change": "Semantic change",
    "binary_change": "Binary change",
    "land_cover": "Land cover",
}
LOSSES = ("total", "semantic", "change")
# of a record: what is a table of its own, or shown elsewhere
NOT_SHOWN = ("options", "versions", "command", "checkpoints", "classes", "palette", "task")
FIGURE_PX = 1200


def page(report: Report) -> dict[str, Any]:
    """The template's variables."""
    scheme = report.scheme
    parts = [_section(part, number, scheme) for number, part in enumerate(report.parts)]
    return {
        "title": report.folder.resolve().name,
        "task": TASKS[scheme.task],
        "binary": scheme.task == "binary_change",
        "dates": scheme.num_dates,
        "lead": lead(report),
        "classes": list(scheme.classes or ("changed",)),
        "palettes": {
            "safe": [hex_of(colour) for colour in safe_palette(scheme)[1:]],
            "own": [hex_of(colour) for _, colour in _own(scheme)],
        },
        "parts": parts,
        "runs": [_run(run) for run in report.runs if run.log],
        "pseudo": _pseudo(report) if report.pseudo else None,
        "threshold": _threshold(report.threshold) if report.threshold else "",
        "teachers": report.teachers,
        "checkpoints": report.checkpoints,
        "records": [_record(name, record) for name, record in report.records.items()],
        "data": {
            "classes": list(scheme.classes or ("changed",)),
            "task": scheme.task,
            "parts": [[picture_data(p, scheme) for p in part.pictures] for part in report.parts],
        },
    }


def lead(report: Report) -> str:
    """The page in a sentence or two."""
    for part in report.parts:
        if part.amounts and part.amounts.transitions is not None and part.amounts.total:
            return _lead_of_change(part, report.scheme)
        if part.amounts and part.amounts.classes is not None and part.amounts.total:
            share = part.amounts.classes / part.amounts.total
            most = int(share.argmax())
            return f"Most of it is {report.scheme.classes[most]}: {percent(share[most])}."
    if report.pseudo:
        share = percent(report.pseudo.get("share_labelled"))
        return f"{share} of the unchanged pixels got a label."
    return ""


def _lead_of_change(part: Part, scheme: Scheme) -> str:
    amounts = part.amounts
    changed = float(amounts.transitions.sum())
    text = f"{percent(changed / amounts.total)} of {_area(amounts.total, amounts.unit)} changed"
    if amounts.unit == "ha":
        text += f", {_area(changed, 'ha')}"
    apart = amounts.transitions * (1 - np.eye(len(amounts.transitions)))
    if not scheme.classes or not apart.any():
        return text + "."
    i, j = np.unravel_index(apart.argmax(), apart.shape)
    share = percent(apart[i, j] / changed)
    names = scheme.classes
    return f"{text}; most of it from {names[i]} to {names[j]} ({share} of the change)."


def _area(value: float, unit: str) -> str:
    if unit == "px":
        return f"{value / 1e6:.1f} million pixels" if value >= 1e6 else f"{value:,.0f} pixels"
    return f"{value:,.0f}{GAP}ha" if value >= 100 else f"{value:.3g}{GAP}ha"


def _own(scheme: Scheme) -> list[tuple[str, tuple[int, int, int]]]:
    entries = [(text, colour) for colour, text in legend_entries(scheme)]
    return entries[-max(scheme.num_classes, 1) :]


def _section(part: Part, number: int, scheme: Scheme) -> dict[str, Any]:
    verdicts = {picture.verdict for picture in part.pictures}
    return {
        "number": number,
        "title": part.title,
        "name": part.name,
        "count": part.count,
        "pictures": bool(part.pictures),
        "gallery": len(part.pictures) > 1,
        "ranked_by": part.ranked_by if verdicts - {""} else "",
        "truth": any(picture.truth is not None for picture in part.pictures),
        "everywhere": any(picture.changed is not None for picture in part.pictures),
        "note": part.note,
        "figures": [{"name": path.stem, "uri": jpeg_uri(_opened(path))} for path in part.figures],
        "amounts": _amounts(part.amounts, scheme) if part.amounts else None,
        "metrics": scores(part.metrics, scheme) if part.metrics else None,
    }


def _opened(path: Any) -> Image.Image:
    with Image.open(path) as image:
        image.thumbnail((FIGURE_PX, FIGURE_PX))
        return image.convert("RGB")


def _amounts(amounts: Amounts, scheme: Scheme) -> dict[str, Any] | None:
    if not amounts.total:
        return None
    if amounts.transitions is None:
        shares = amounts.classes / amounts.total
        rows = zip(scheme.classes, shares, amounts.classes, strict=True)
        bars = [(n, float(s), percent(s), _area(a, amounts.unit)) for n, s, a in rows]
        return {"numbers": [], "bars": bars, "top": []}
    changed = float(amounts.transitions.sum())
    numbers = [
        ("Changed", percent(changed / amounts.total, 2), _area(changed, amounts.unit)),
        ("Looked at", _area(amounts.total, amounts.unit), "with data at both dates"),
    ]
    charted = _transition_charts(amounts, scheme) if scheme.classes and changed else {"top": []}
    return {"numbers": numbers, "bars": [], **charted}


def _transition_charts(amounts: Amounts, scheme: Scheme) -> dict[str, Any]:
    flow, names = amounts.transitions, scheme.classes
    changed = float(flow.sum())
    shares = flow / changed

    def describe(amount: float) -> str:
        return f"{_area(amount, amounts.unit)}, {percent(amount / changed)} of the change"

    hints = [
        [f"{a} → {b}: {describe(flow[i, j])}" for j, b in enumerate(names)]
        for i, a in enumerate(names)
    ]
    table = charts.Matrix(
        names,
        names,
        (shares / max(shares.max(), 1e-9)).tolist(),
        [[short_number(100 * share) for share in row] for row in shares.tolist()],
        hints,
        "from",
        "to",
    )
    order = np.dstack(np.unravel_index(flow.argsort(axis=None)[::-1], flow.shape))[0]
    top = [(names[i], names[j], i + 1, j + 1, flow[i, j]) for i, j in order[:5] if flow[i, j] > 0]
    return {
        "matrix": charts.matrix(table, "What changed into what, per cent of the change"),
        "flows": charts.flows(names, flow.tolist(), "Flow from class to class", describe),
        "top": [
            {
                "from": a,
                "to": b,
                "i": i,
                "j": j,
                "amount": _area(v, amounts.unit),
                "share": percent(v / changed),
            }
            for a, b, i, j, v in top
        ],
    }


def _run(run: TrainingRun) -> dict[str, Any]:
    train = [line for line in run.log if line.get("kind") == "train"]
    val = [line for line in run.log if line.get("kind") == "val"]
    best_by = next((k for k in ("score", "iou_change", "miou") if any(k in v for v in val)), None)
    keys = [k for k in ("score", "miou", "sek", "iou_change", "f1_change", "oa") if k != best_by]
    chosen = [best_by, *[k for k in keys if any(k in v for v in val)][:2]] if best_by else []
    losses = [_series(key, train) for key in LOSSES if any(key in line for line in train)]
    scores = [_series(key, val)._replace(name=METRICS[key][0], dots=True) for key in chosen]
    best = max((v for v in val if finite(v.get(best_by))), key=lambda v: v[best_by], default=None)
    options = run.record.get("options", {})
    about = [options.get("model"), options.get("backbone"), options.get("dataset")]
    return {
        "name": run.name,
        "about": " · ".join(str(item) for item in about if item),
        "loss": charts.curves(losses, f"Loss of {run.name} over steps"),
        "score": charts.curves(scores, f"Validation of {run.name} over steps, per cent", True),
        "best": best
        and f"{METRICS[best_by][0]} {percent(best[best_by], 2)} at step {best['step']}",
    }


def _series(key: str, lines: Sequence[Mapping[str, Any]]) -> charts.Series:
    points = [(line["step"], finite(line.get(key))) for line in lines if "step" in line]
    return charts.Series(key, [(x, y) for x, y in points if y is not None])


def _pseudo(report: Report) -> dict[str, Any]:
    result, names = report.pseudo, report.scheme.classes
    shares = result.get("share_per_class") or []
    right = result.get("accuracy_per_class") or [None] * len(shares)
    numbers = [
        ("Labelled", percent(result.get("share_labelled")), "of the unchanged pixels"),
        ("Teachers agree", percent(result.get("teacher_agreement")), "all of them, on both dates"),
        ("Right", percent(result.get("accuracy")), "of the labels whose true class is known"),
        ("Tiles", f"{result.get('tiles', 0):,}", f"rule: {result.get('rule', 'vote')}"),
    ]
    rows = zip(names, shares, right, strict=True) if len(names) == len(shares) else ()
    largest = max((finite(share) or 0 for share in shares), default=0) or 1
    return {
        "numbers": [row for row in numbers if row[1] != "–"],
        "bars": [
            (n, (finite(s) or 0) / largest, percent(s), f"{percent(a)} right" if a else "")
            for n, s, a in rows
        ],
    }


def _threshold(result: Mapping[str, Any]) -> str:
    """The picture of a threshold sweep as a data URI."""
    return png_uri(np.asarray(precision_recall_picture(result)))


def _record(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    options = record.get("options")
    plain = {k: v for k, v in record.items() if k not in NOT_SHOWN}
    command = record.get("command")
    return {
        "name": name,
        "command": " ".join(map(str, command)) if isinstance(command, list) else command or "",
        "tables": [
            table
            for table in (options, record.get("versions"), plain)
            if isinstance(table, dict) and table
        ],
    }
