"""Resizing of images and labels, bit-exact with OpenCV and mmcv."""

from typing import NamedTuple

import numpy as np

from utils.structures import IGNORE_INDEX

Size = tuple[int, int]  # height, width in pixels
FIXED = 2048  # fixed-point representation of weight 1


class Fit(NamedTuple):
    """How images are resized after reading."""

    side: int  # side in px of the square to fit into; the aspect ratio is kept
    pad: bool  # pad to the square: images with the mean, labels with IGNORE_INDEX
    labels: bool  # also resize labels; else they keep the size of the file, as predictions do

    def image_size(self, stored: Size) -> Size:
        """Size of an image after resizing and padding."""
        return (self.side,) * 2 if self.pad else fit_size(stored, self.side)

    def label_size(self, stored: Size) -> Size:
        """Size of a label after resizing and padding."""
        return self.image_size(stored) if self.labels else stored

    def is_padded(self, stored: Size) -> bool:
        """Whether an image is padded, and so becomes float32."""
        return self.pad and fit_size(stored, self.side) != (self.side,) * 2

    def image(self, image: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Resizes (C, H, W) uint8; pads with `mean` (C,), which makes it float32."""
        stored = image.shape[1:]
        image = resize_image(image, fit_size(stored, self.side))
        if self.is_padded(stored):
            image = pad(image, (self.side,) * 2, mean.astype(np.float32)[:, None, None])
        return image

    def label(self, label: np.ndarray) -> np.ndarray:
        """Resizes and pads (H, W) uint8."""
        if not self.labels:
            return label
        stored = label.shape
        label = resize_label(label, fit_size(stored, self.side))
        if self.is_padded(stored):
            label = pad(label, (self.side,) * 2, np.uint8(IGNORE_INDEX))
        return label


def fit_size(size: Size, side: int) -> Size:
    """Size of an image scaled to fit into a square; keeps the aspect ratio.

    Args:
        size: (height, width) before.
        side: side of the square in pixels.
    """
    scale = side / max(size)
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear resizing between pixel centres, edges repeated, without antialiasing.

    Bit-exact with OpenCV for 8 bits: fixed point; halving a size exactly averages 2 x 2 pixels.

    Args:
        image: (C, H, W) uint8.
        size: (height, width) after.

    Returns:
        (C, height, width) uint8.
    """
    if image.shape[1:] == tuple(size):
        return image
    values = image.astype(np.int32)
    if image.shape[1:] == (2 * size[0], 2 * size[1]):
        blocks = values.reshape(len(image), size[0], 2, size[1], 2)
        return ((blocks.sum((2, 4)) + 2) >> 2).astype(np.uint8)
    first, second, weight = _interpolation_weights(image.shape[2], size[1])
    values = values[..., first] * (FIXED - weight) + values[..., second] * weight
    first, second, weight = _interpolation_weights(image.shape[1], size[0])
    above, below = (values[:, rows] >> 4 for rows in (first, second))
    weight = weight[:, None]
    return (((above * (FIXED - weight) >> 16) + (below * weight >> 16) + 2) >> 2).astype(np.uint8)


def _interpolation_weights(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the two neighbours of every new pixel along an axis, and the weight of the second.

    The weight is int32 in 0..FIXED.
    """
    place = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int32)
    weight = np.rint((place - first) * np.float32(FIXED)).astype(np.int32)
    return first.clip(0, old - 1), (first + 1).clip(0, old - 1), weight


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Nearest-neighbour resizing: new pixel i takes old pixel floor(i * old / new).

    Args:
        label: (H, W).
        size: (height, width) after.
    """
    rows, columns = (_nearest(old, new) for old, new in zip(label.shape, size, strict=True))
    return label[rows[:, None], columns]


def _nearest(old: int, new: int) -> np.ndarray:
    return np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(int), old - 1)


def pad(values: np.ndarray, size: Size, fill: float | np.ndarray) -> np.ndarray:
    """Pads at the bottom and on the right.

    Args:
        values: (..., H, W).
        size: (height, width) after.
        fill: padding value, broadcast to (..., height, width).
    """
    padded = np.empty((*values.shape[:-2], *size), np.result_type(values, np.asarray(fill).dtype))
    padded[...] = fill
    padded[..., : values.shape[-2], : values.shape[-1]] = values
    return padded
