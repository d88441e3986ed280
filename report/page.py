"""Turns a Report into the template variables of a page: texts, numbers, charts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from report.amounts import amounts_of, overview
from report.files import finite
from report.pictures import jpeg_uri, png_uri
from report.scores import METRICS, scores
from report.structures import Report, Section, TrainingRun
from report.words import lead, percent
from utils.figures import charts
from utils.figures.colours import hex_of, safe_palette
from utils.figures.curves import precision_recall_picture
from utils.figures.panels import legend_entries
from utils.structures import Scheme

TASKS = {
    "semantic_change": "Semantic change",
    "binary_change": "Binary change",
    "land_cover": "Land cover",
}
LOSSES = ("total", "semantic", "change")
# keys of a record that have a table of their own or are shown elsewhere
NOT_SHOWN = ("options", "versions", "command", "checkpoints", "classes", "palette", "task")
FIGURE_PX = 1200


def page(report: Report) -> dict[str, Any]:
    """The variables of the page's template."""
    scheme = report.scheme
    sections = [_section(section, number, scheme) for number, section in enumerate(report.sections)]
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
        "no_data": any(_lacks_data(section) for section in report.sections),
        "files": "maps and their QGIS styles" if report.maps else "masks",
        "overview": overview(report),
        "sections": sections,
        "runs": [_run(run) for run in report.runs if run.log],
        "pseudo": _pseudo(report) if report.pseudo else None,
        "threshold": _threshold(report.threshold) if report.threshold else "",
        "teachers": report.teachers,
        "checkpoints": report.checkpoints,
        "records": [_record(name, record) for name, record in report.records.items()],
        "data": {
            "classes": list(scheme.classes or ("changed",)),
            "task": scheme.task,
            "pseudo": [section.pseudo for section in report.sections],
            "sections": [section.pictures for section in report.sections],
        },
    }


def _own(scheme: Scheme) -> list[tuple[str, tuple[int, int, int]]]:
    entries = [(text, colour) for colour, text in legend_entries(scheme)]
    return entries[-max(scheme.num_classes, 1) :]


def _lacks_data(section: Section) -> bool:
    lacking = any(picture["no_data"] for picture in section.pictures)
    return lacking or bool(section.amounts and section.amounts.no_data)


def _section(section: Section, number: int, scheme: Scheme) -> dict[str, Any]:
    return {
        "number": number,
        "title": section.title,
        "name": section.name,
        "count": section.count,
        "pictures": bool(section.pictures),
        "gallery": len(section.pictures) > 1,
        "ranked_by": section.ranked_by if any(p["verdict"] for p in section.pictures) else "",
        "truth": any(picture["third"] == "truth" for picture in section.pictures),
        "everywhere": any(picture["everywhere"] for picture in section.pictures),
        "pseudo": section.pseudo,
        "note": section.note,
        "figures": [
            {"name": path.stem, "uri": jpeg_uri(_opened(path))} for path in section.figures
        ],
        "amounts": amounts_of(section.amounts, scheme, section.brief) if section.amounts else None,
        "metrics": scores(section.metrics, scheme) if section.metrics else None,
    }


def _opened(path: Any) -> Image.Image:
    with Image.open(path) as image:
        image.thumbnail((FIGURE_PX, FIGURE_PX))
        return image.convert("RGB")


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
            (n, (finite(s) or 0) / largest, percent(s), "" if a is None else f"{percent(a)} right")
            for n, s, a in rows
        ],
    }


def _threshold(result: Mapping[str, Any]) -> str:
    """The precision-recall picture of a threshold sweep, as a data URI."""
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
