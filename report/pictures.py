"""Embedded pictures of a page: images as JPEG, classes as a PNG that the page's script decodes."""

import base64
import io

import numpy as np
from PIL import Image

from report.tiles import Picture
from utils.structures import IGNORE_INDEX, Scheme

JPEG_QUALITY = 82
UNCHANGED, CHANGED, NO_DATA = 0, 1, 2  # states of a pixel in a class map
NO_VALUE = 65535
PROBABILITY_STEPS = 250  # stored value of probability 1.0
NO_DATA_GREY = 224  # grey level of image pixels where the map has no data


def picture_data(picture: Picture, scheme: Scheme) -> dict[str, object]:
    """The data of one tile for the page's script, as plain values without arrays.

    Returns:
        name, width, height, step, score, verdict; before, after: data URIs or None; map: data URI
        of `class_map`; third: kind of its values, "truth", "probability" or ""; everywhere:
        whether unchanged pixels also have classes; no_data: whether any pixel has no data.
    """
    pixels, third = class_map(picture, scheme)
    no_data = (picture.pred == IGNORE_INDEX).any(0)
    images = () if picture.images is None else picture.images
    dates = [jpeg_uri(_greyed(image, no_data)) for image in images]
    return {
        "name": picture.name,
        "width": pixels.shape[1],
        "height": pixels.shape[0] // 2,
        "step": round(picture.step, 2),
        "score": None if picture.score is None else round(picture.score, 4),
        "verdict": picture.verdict,
        "before": dates[0] if dates else None,
        "after": dates[1] if len(dates) > 1 else None,
        "map": png_uri(pixels),
        "third": third,
        "everywhere": picture.changed is not None,
        "no_data": bool(no_data.any()),
    }


def _greyed(image: np.ndarray, no_data: np.ndarray) -> np.ndarray:
    return np.where(no_data[..., None], np.uint8(NO_DATA_GREY), image)


def class_map(picture: Picture, scheme: Scheme) -> tuple[np.ndarray, str]:
    """Encodes classes, state and a value of each pixel in two pictures, one above the other.

    Upper picture: class at date 1 (0 = unchanged, class unknown), class at date 2, and UNCHANGED,
    CHANGED or NO_DATA. Lower picture: a value in two bytes, high byte first, and 0. The value is
    the true from-to code of maps.transitions, or the probability times PROBABILITY_STEPS; NO_VALUE
    if there is none.

    Returns:
        (2 h, w, 3) uint8; and the kind of the value, "truth", "probability" or "".
    """
    first, last = picture.pred[0].astype(np.int32), picture.pred[-1].astype(np.int32)
    no_data = (first == IGNORE_INDEX) | (last == IGNORE_INDEX)
    changed = (first > 0) & (last > 0) if picture.changed is None else picture.changed
    if scheme.task == "land_cover":
        changed = np.zeros_like(changed)
    state = np.where(no_data, NO_DATA, np.where(changed, CHANGED, UNCHANGED))
    above = [np.where(no_data, 0, first), np.where(no_data, 0, last), state]
    values, third = _values(picture, scheme)
    below = [values >> 8, values & 255, np.zeros_like(values)]
    both = [np.stack(bands, axis=-1) for bands in (above, below)]
    return np.concatenate(both).astype(np.uint8), third


def _values(picture: Picture, scheme: Scheme) -> tuple[np.ndarray, str]:
    """(h, w) values in 0..65535, and their kind: "truth", "probability" or ""."""
    if picture.truth is not None:
        return _truth_codes(picture.truth.astype(np.int32), scheme), "truth"
    if picture.probability is None:
        return np.full(picture.pred.shape[1:], NO_VALUE, np.int32), ""
    known = np.isfinite(picture.probability)
    steps = np.rint(np.where(known, picture.probability, 0).clip(0, 1) * PROBABILITY_STEPS)
    return np.where(known, steps, NO_VALUE).astype(np.int32), "probability"


def _truth_codes(truth: np.ndarray, scheme: Scheme) -> np.ndarray:
    unknown = (truth == IGNORE_INDEX).any(0)
    if scheme.task != "semantic_change":
        return np.where(unknown, NO_VALUE, truth[0])
    codes = (truth[0] - 1) * scheme.num_classes + truth[-1]
    return np.where(unknown, NO_VALUE, np.where(truth[0] > 0, codes, 0))


def jpeg_uri(image: np.ndarray | Image.Image) -> str:
    """(H, W, 3) uint8 as the data URI of a JPEG."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(image))
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return _uri("image/jpeg", data.getvalue())


def png_uri(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 as the data URI of a PNG (lossless)."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    return _uri("image/png", data.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
