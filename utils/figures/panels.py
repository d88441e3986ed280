"""Figures of images, prediction and truth side by side, with a legend.

Class colours are opaque, exactly as in the legend, on a pale grey copy of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.structures import IGNORE_INDEX, Scheme

Palette = Sequence[tuple[int, int, int]]

PAPER, INK, FAINT_INK, FRAME = (255, 255, 255), (28, 30, 34), (104, 110, 118), (196, 200, 206)
GHOST_RANGE = (212, 250)  # grey of the darkest and the brightest pixels of the pale image
GHOST = (234, 234, 234)  # its representative colour in the legend
UNLABELLED = (160, 166, 174)
PANEL_PX = (256, 512)  # smallest and largest width of one panel


class Panels(NamedTuple):
    """A grid of equally large pictures with headings."""

    pictures: list[list[np.ndarray]]  # rows of (H, W, 3) uint8
    columns: list[str]  # heading above each column
    rows: list[str]  # heading left of each row; empty strings for none


def comparison(
    images: np.ndarray,
    pred: np.ndarray,
    truth: np.ndarray | None,
    scheme: Scheme,
    title: str = "",
) -> Image.Image:
    """Draws one tile: a row per date, columns image, prediction and, where known, truth.

    Args:
        images: (T, H, W, 3) uint8 RGB.
        pred: (T, H, W) integers, 0 = unchanged, 1..K = class. Binary change: (1, H, W), 1 =
            changed; then all pictures are in one row.
        truth: as `pred`, IGNORE_INDEX = not labelled. None: no labels.
        scheme: class names and palette.
        title: heading of the figure, the tile's name for example.
    """
    smallest, largest = PANEL_PX
    width = images.shape[2]
    panel_px = min(width * -(-smallest // width), largest)  # whole multiples keep pixels square
    legend = legend_entries(scheme)
    if truth is not None and (truth == IGNORE_INDEX).any():
        legend.append((UNLABELLED, "not labelled"))
    return draw(_arrange(images, pred, truth, scheme), legend, title, panel_px)


def for_tensorboard(
    images: np.ndarray,
    pred: np.ndarray,
    truth: np.ndarray | None,
    scheme: Scheme,
    title: str = "",
) -> np.ndarray:
    """The figure of `comparison` as (3, height, width) uint8."""
    figure = np.asarray(comparison(images, pred, truth, scheme, title))
    return np.ascontiguousarray(figure.transpose(2, 0, 1))


def colourise(mask: np.ndarray, palette: Palette) -> np.ndarray:
    """(H, W) indices -> (H, W, 3) uint8 colours; indices without a colour get that of 0."""
    mask = np.where((mask >= 0) & (mask < len(palette)), mask, 0)
    return np.asarray(palette, dtype=np.uint8)[mask]


def overlay(image: np.ndarray, mask: np.ndarray, palette: Palette) -> np.ndarray:
    """Class colours on a pale grey copy of the image, which is visible where the mask is 0.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) integers; 1..len(palette) - 1 are coloured, IGNORE_INDEX is grey.
        palette: RGB colours in 0..255.

    Returns:
        (H, W, 3) uint8.
    """
    coloured = (mask > 0) & (mask < len(palette))
    picture = np.where(coloured[..., None], colourise(mask, palette), ghost(image))
    picture[mask == IGNORE_INDEX] = UNLABELLED
    return picture


def heat_map(probs: np.ndarray) -> np.ndarray:
    """(H, W) in 0..1 -> (H, W, 3) uint8: black, red, yellow, white, evenly spaced."""
    levels = 3 * probs[..., None] - np.arange(3)
    return (levels.clip(0, 1) * 255).astype(np.uint8)


def ghost(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W, 1) uint8: pale grey, equally pale for dark images."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    dark, bright = np.percentile(grey, (2, 98))
    share = np.clip((grey - dark) / max(bright - dark, 1), 0, 1)
    return np.interp(share, (0, 1), GHOST_RANGE).astype(np.uint8)[..., None]


def legend_entries(scheme: Scheme) -> list[tuple[tuple[int, int, int], str]]:
    """Colour and text of each class; "unchanged" first if there are two dates."""
    classes = scheme.classes or ("changed",)
    entries = list(zip(scheme.palette[1:], classes, strict=True))
    return entries if scheme.num_dates == 1 else [(GHOST, "unchanged"), *entries]


def draw(
    panels: Panels,
    legend: Sequence[tuple[tuple[int, int, int], str]],
    title: str = "",
    panel_px: int = PANEL_PX[0],
) -> Image.Image:
    """Draws pictures, headings and legend with aligned margins.

    Args:
        panels: pictures of one size.
        legend: colour and text of each entry.
        title: one line at the top, may be empty.
        panel_px: drawn width of a picture.

    Returns:
        An RGB image.
    """
    font, title_font = load_font(panel_px / 18), load_font(panel_px / 14)
    unit = line_height(font)
    gap = unit // 2
    height, width = panels.pictures[0][0].shape[:2]
    panel_size = (panel_px, round(panel_px * height / width))
    left = unit * 2 if any(panels.rows) else unit
    top = unit + (line_height(title_font) + gap if title else 0) + unit + gap
    total_width = left + len(panels.columns) * (panel_px + gap) - gap + unit
    bottom = top + len(panels.rows) * (panel_size[1] + gap) - gap
    lines = _legend_lines(legend, font, total_width - left - unit)
    total_height = bottom + unit + len(lines) * round(1.5 * unit) + gap

    paper = Image.new("RGB", (total_width, total_height), PAPER)
    pen = ImageDraw.Draw(paper)
    if title:
        pen.text((left, unit), title, INK, title_font, anchor="la")
    for column, heading in enumerate(panels.columns):
        x = left + column * (panel_px + gap)
        pen.text((x, top - gap), heading, FAINT_INK, font, anchor="ls")
        for row, picture in enumerate(pictures[column] for pictures in panels.pictures):
            y = top + row * (panel_size[1] + gap)
            paper.paste(_resized(picture, panel_size), (x, y))
            pen.rectangle((x - 1, y - 1, x + panel_px, y + panel_size[1]), outline=FRAME)
    for row, heading in enumerate(panels.rows):
        y = top + row * (panel_size[1] + gap) + panel_size[1] // 2
        upright_text(paper, heading, font, (left - gap, y))
    for number, line in enumerate(lines):
        _draw_legend_line(pen, line, font, (left, bottom + unit + number * round(1.5 * unit)))
    return paper


def _arrange(
    images: np.ndarray, pred: np.ndarray, truth: np.ndarray | None, scheme: Scheme
) -> Panels:
    masks = {"Prediction": pred} if truth is None else {"Prediction": pred, "Truth": truth}
    dates = [f"Date {number + 1}" for number in range(len(images))]
    for name, mask in masks.items():
        if mask.shape[1:] != images.shape[1:3] or len(mask) not in (1, len(images)):
            raise ValueError(
                f"{name.lower()} {mask.shape} does not lie on images {images.shape}; expected "
                "(T, H, W) or (1, H, W) on (T, H, W, 3)."
            )
    if len(pred) < len(images):  # one map of change for both dates: all in one row
        maps = [overlay(images[-1], mask[0], scheme.palette) for mask in masks.values()]
        return Panels([[*images, *maps]], [*dates, *masks], [""])
    rows = [
        [image, *(overlay(image, mask[date], scheme.palette) for mask in masks.values())]
        for date, image in enumerate(images)
    ]
    return Panels(rows, ["Image", *masks], dates if len(dates) > 1 else [""])


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(picture)
    if size == image.size:
        return image
    enlarges = size[0] > image.width  # then pixels stay pixels, and colours those of the legend
    resample = Image.Resampling.NEAREST if enlarges else Image.Resampling.BOX
    return image.resize(size, resample)


def _legend_lines(
    legend: Sequence[tuple[tuple[int, int, int], str]], font: ImageFont.FreeTypeFont, width: int
) -> list[list[tuple[tuple[int, int, int], str]]]:
    """Breaks the entries into lines that fit into `width` pixels."""
    lines, x = [[]], 0
    for entry in legend:
        advance = _entry_width(entry[1], font)
        if lines[-1] and x + advance > width:
            lines.append([])
            x = 0
        lines[-1].append(entry)
        x += advance
    return lines


def _entry_width(text: str, font: ImageFont.FreeTypeFont) -> int:
    return round(font.getlength(text) + 2.9 * line_height(font))


def _draw_legend_line(
    pen: ImageDraw.ImageDraw,
    entries: list[tuple[tuple[int, int, int], str]],
    font: ImageFont.FreeTypeFont,
    corner: tuple[int, int],
) -> None:
    (x, y), unit = corner, line_height(font)
    for colour, text in entries:
        box = (x, y, x + round(1.4 * unit), y + unit)
        pen.rectangle(box, fill=colour, outline=FRAME if min(colour) > 200 else colour)
        pen.text((box[2] + 0.4 * unit, y + unit / 2), text, INK, font, anchor="lm")
        x += _entry_width(text, font)


def upright_text(
    paper: Image.Image, text: str, font: ImageFont.FreeTypeFont, right_middle: tuple[int, int]
) -> None:
    """Draws text rotated by 90 degrees; `right_middle`: (x, y) of the middle of its right edge."""
    if not text:
        return
    width, height = round(font.getlength(text)), round(1.3 * line_height(font))
    label = Image.new("RGB", (width, height), PAPER)
    ascent = font.getmetrics()[0]
    ImageDraw.Draw(label).text((0, ascent), text, FAINT_INK, font, anchor="ls")
    label = label.crop((0, 0, width, ascent + font.getmetrics()[1])).rotate(90, expand=True)
    x, y = right_middle
    paper.paste(label, (x - ascent, y - label.height // 2))


def load_font(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own, `size` in pixels."""
    return ImageFont.load_default(size=round(size))


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Pixels of one line."""
    return round(font.size * 1.1)
