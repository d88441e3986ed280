"""The precision-recall curve of a threshold sweep as a picture."""

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

CURVE, BEST, FRAME, FAINT = (31, 99, 176), (220, 20, 60), (196, 200, 206), (104, 110, 118)
ISO_F1 = (0.2, 0.4, 0.6, 0.8, 0.9)
SIDE_PX = 520  # side of the square of the axes
SIZE_PX, CORNER_PX = (640, 660), (64, 82)  # size of the picture; margins left of and below the axes
DPI = 100


def precision_recall_picture(result: Mapping[str, object], title: str = "") -> Image.Image:
    """Draws precision over recall, F1 as faint lines, and the chosen threshold.

    Args:
        result: of utils.thresholds.result; NaN, or None as read from JSON, is left out.
        title: one line at the top; empty: a default title.

    Returns:
        An RGB image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure([side / DPI for side in SIZE_PX], DPI)
    place = [*CORNER_PX, SIDE_PX, SIDE_PX]
    axes = figure.add_axes([part / SIZE_PX[i % 2] for i, part in enumerate(place)])
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision")
    axes.set_title(title or "Precision and recall of change", loc="left")
    axes.spines[:].set_color(_hex(FRAME))
    axes.tick_params(color=_hex(FRAME), labelcolor=_hex(FAINT))
    for f1 in ISO_F1:
        recall = np.linspace(f1 / (2 - f1), 1, SIDE_PX)  # from where precision is 1
        precision = f1 * recall / (2 * recall - f1)
        axes.plot(recall, precision, color=_hex(FRAME), linewidth=1)
        axes.text(1.01, precision[-1], f"F1 {f1}", color=_hex(FAINT), fontsize=8, va="center")
    points = [(p["recall"], p["precision"]) for p in result["curve"]]
    points = [point for point in points if all(map(_is_known, point))]
    if points:
        one = {"marker": "o"} if len(points) == 1 else {}
        axes.plot(*zip(*points, strict=True), color=_hex(CURVE), linewidth=2, clip_on=False, **one)
    if _is_known(result["threshold"]):
        _draw_best(axes, result)
    figure.text(CORNER_PX[0] / SIZE_PX[0], 0.03, _summary(result), color=_hex(FAINT), fontsize=9)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _draw_best(axes: object, result: Mapping[str, object]) -> None:
    """Draws a dot at the chosen threshold, and its label on the side with more room."""
    x, y = result["recall"], result["precision"]
    axes.plot([x], [y], "o", color=_hex(BEST), markersize=9, markeredgecolor="white", zorder=3)
    right, up = x < 0.5, y < 0.5
    axes.annotate(
        f"threshold {result['threshold']:.3g}\nF1 {result['f1']:.3f}",
        (x, y),
        xytext=(10 if right else -10, 10 if up else -10),
        textcoords="offset points",
        ha="left" if right else "right",
        va="bottom" if up else "top",
        color=_hex(BEST),
        backgroundcolor="white",
    )


def _summary(result: Mapping[str, object]) -> str:
    if not _is_known(result["threshold"]):
        return "Nothing changed in the truth: no threshold is better than another."
    names = {"precision": "precision", "recall": "recall", "iou": "IoU"}
    parts = [f"{text} {result[key]:.3f}" for key, text in names.items()]
    return "   ".join([*parts, f"average precision {result['average_precision']:.3f}"])


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _is_known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
