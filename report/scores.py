"""Scores with names and explanations, for report.page."""

from collections.abc import Mapping, Sequence
from typing import Any

from report.files import finite
from report.words import percent, short_number
from utils.figures import charts
from utils.structures import Scheme

METRICS = {  # key: (name, meaning)
    "score": ("Score", "0.3 mIoU + 0.7 SeK, the contest's"),
    "miou": ("mIoU", "mean intersection over union"),
    "sek": ("SeK", "separated kappa: agreement on changed pixels beyond chance"),
    "fscd": ("F1 of classes", "pixels changed to the right class"),
    "f1_change": ("F1 of change", "changed against unchanged"),
    "iou_change": ("IoU of change", "changed against unchanged"),
    "precision_change": ("Precision", "share of predicted change that is real"),
    "recall_change": ("Recall", "share of real change that was found"),
    "aa": ("Mean recall", "of the classes that occur"),
    "fwiou": ("Weighted IoU", "by how often a class occurs"),
    "miou_present": ("mIoU, present", "of the classes that occur"),
    "oa": ("Accuracy", "share of right pixels"),
    "kappa": ("Kappa", "agreement beyond chance"),
    "iou_unchanged": ("IoU of unchanged", ""),
    "sek_transition": ("SeK, from-to", "the same over from-to states"),
    "threshold": ("Threshold", "changed above this probability"),
}
HIDDEN = {"dice"}  # equal to f1_change
LEADING = {  # task: the metrics shown most prominently
    "semantic_change": ("score", "miou", "sek", "fscd"),
    "binary_change": ("f1_change", "iou_change", "precision_change", "recall_change"),
    "land_cover": ("miou", "oa", "aa", "fwiou"),
}


def scores(metrics: Mapping[str, Any], scheme: Scheme) -> dict[str, Any]:
    """Template variables of metrics: numbers, bars and confusion matrix."""
    leading = [key for key in LEADING[scheme.task] if key in metrics]
    plain = [key for key in METRICS if key in metrics and key not in leading]
    others = {key for key, value in metrics.items() if isinstance(value, float)}
    plain += sorted(others - METRICS.keys() - HIDDEN)
    found = {
        "leading": [_number(key, metrics) for key in leading],
        "plain": [_number(key, metrics) for key in plain],
        "ious": [],
        "confusion": "",
    }
    ious = metrics.get("iou_per_class") or []
    if len(ious) == len(scheme.classes):
        rows = zip(scheme.classes, ious, strict=True)
        found["ious"] = [(name, finite(iou) or 0.0, percent(iou)) for name, iou in rows]
    if metrics.get("confusion"):
        found["confusion"] = confusion_chart(metrics["confusion"], scheme)
    return found


def _number(key: str, metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    """Name, value and meaning of a metric."""
    name, meaning = METRICS.get(key, (key, ""))
    return name, f"{metrics[key]:g}" if key == "threshold" else percent(metrics[key]), meaning


def confusion_chart(counts: Sequence[Sequence[int]], scheme: Scheme) -> str:
    """A confusion matrix as SVG, in per cent of each true class.

    Args:
        counts: rows = truth; K rows, or K + 1 with "unchanged" first.
        scheme: names of the classes.
    """
    names = list(scheme.classes) or ["changed"]
    names = names if len(counts) == len(names) else ["unchanged", *names]
    if len(names) != len(counts):
        names = [f"state {i}" for i in range(len(counts))]
    shares = [[cell / sum(row) if sum(row) else 0.0 for cell in row] for row in counts]
    hints = [
        [f"{a} seen as {b}: {percent(shares[i][j])}, {counts[i][j]:,} pixels"
         for j, b in enumerate(names)]
        for i, a in enumerate(names)
    ]  # fmt: skip
    texts = [[short_number(100 * share) for share in row] for row in shares]
    table = charts.Matrix(names, names, shares, texts, hints, "truth", "prediction")
    return charts.matrix(table, "Confusion matrix, per cent of each true class")
