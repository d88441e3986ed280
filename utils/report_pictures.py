"""Pictures inside a page: photographs as JPEG, classes as a PNG that the page's script decodes."""

import base64
import io

import numpy as np
from PIL import Image

from utils.report_tiles import Picture
from utils.structures import IGNORE_INDEX, Scheme

JPEG_QUALITY = 82
CHANGED, NO_DATA = 128, 127  # in the red channel of a class map: a flag, and no class at all
NO_VALUE = 255  # in the blue channel
PROBABILITY_STEPS = 250  # what the blue channel has for 1.0


def picture_data(picture: Picture, scheme: Scheme) -> dict[str, object]:
    """What the page's script needs to show one tile, as plain values.

    Returns:
        name, width, height, step, score, verdict; before, after: data URIs or None; map: the class
        map, see `class_map`; third: what its blue channel holds, "truth", "probability" or "".
    """
    pixels, third = class_map(picture, scheme)
    dates = [] if picture.images is None else [jpeg_uri(image) for image in picture.images]
    return {
        "name": picture.name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "step": round(picture.step, 2),
        "score": None if picture.score is None else round(picture.score, 4),
        "verdict": picture.verdict,
        "before": dates[0] if dates else None,
        "after": dates[1] if len(dates) > 1 else None,
        "map": png_uri(pixels),
        "third": third,
    }


def class_map(picture: Picture, scheme: Scheme) -> tuple[np.ndarray, str]:
    """Everything known of each pixel in three bytes.

    Red: class at date 1 (0 = unchanged and not known), plus CHANGED where it changed; NO_DATA.
    Green: class at date 2. Blue: the true from-to code as in utils.transitions, or the
    probability times PROBABILITY_STEPS; NO_VALUE where there is none.

    Returns:
        (h, w, 3) uint8, and what blue holds.
    """
    first, last = picture.pred[0].astype(np.int32), picture.pred[-1].astype(np.int32)
    no_data = (first == IGNORE_INDEX) | (last == IGNORE_INDEX)
    changed = (first > 0) & (last > 0) if picture.changed is None else picture.changed
    if scheme.task == "land_cover":
        changed = np.zeros_like(changed)
    red = np.where(no_data, NO_DATA, first + CHANGED * changed)
    blue, third = _blue(picture, scheme)
    return np.stack([red, np.where(no_data, 0, last), blue], axis=-1).astype(np.uint8), third


def _blue(picture: Picture, scheme: Scheme) -> tuple[np.ndarray, str]:
    none = np.full(picture.pred.shape[1:], NO_VALUE, np.int32)
    if picture.truth is not None and scheme.num_classes**2 + 1 < NO_VALUE:
        return _truth_codes(picture.truth.astype(np.int32), scheme), "truth"
    if picture.probability is None:
        return none, ""
    known = np.isfinite(picture.probability)
    steps = np.rint(np.where(known, picture.probability, 0).clip(0, 1) * PROBABILITY_STEPS)
    return np.where(known, steps, NO_VALUE), "probability"


def _truth_codes(truth: np.ndarray, scheme: Scheme) -> np.ndarray:
    unknown = (truth == IGNORE_INDEX).any(0)
    if scheme.task != "semantic_change":
        return np.where(unknown, NO_VALUE, truth[0])
    codes = (truth[0] - 1) * scheme.num_classes + truth[-1]
    return np.where(unknown, NO_VALUE, np.where(truth[0] > 0, codes, 0))


def jpeg_uri(image: np.ndarray | Image.Image) -> str:
    """(H, W, 3) uint8 as a data URI."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(image))
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return _uri("image/jpeg", data.getvalue())


def png_uri(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 as a data URI, to the bit."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    return _uri("image/png", data.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
