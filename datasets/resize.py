"""Images and labels of another size, to the value as OpenCV and mmcv make them."""

import numpy as np
import torch

Size = tuple[int, int]  # height, width in pixels


def fit_size(size: Size, side: int) -> Size:
    """The size of an image that was scaled to fit into a square, its proportions kept.

    Args:
        size: (height, width) before.
        side: of the square in pixels.
    """
    scale = side / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear between pixel centres, edges repeated, without smoothing where it shrinks.

    Args:
        image: (C, H, W) uint8.
        size: (height, width) after.

    Returns:
        (C, height, width) uint8, halves rounded up.
    """
    if image.shape[1:] == tuple(size):
        return image
    values = torch.from_numpy(np.ascontiguousarray(image))[None].float()
    values = torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)
    return values[0].add_(0.5).floor_().to(torch.uint8).numpy()


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Nearest: pixel i takes pixel floor(i * old / new).

    Args:
        label: (H, W).
        size: (height, width) after.
    """
    rows, columns = (_nearest(old, new) for old, new in zip(label.shape, size, strict=True))
    return label[rows[:, None], columns]


def _nearest(old: int, new: int) -> np.ndarray:
    return np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(int), old - 1)


def pad(values: np.ndarray, size: Size, fill: float | np.ndarray) -> np.ndarray:
    """Fills up at the bottom and on the right.

    Args:
        values: (..., H, W).
        size: (height, width) after.
        fill: what is put there, broadcast to (..., height, width).
    """
    padded = np.empty((*values.shape[:-2], *size), np.result_type(values, np.asarray(fill).dtype))
    padded[...] = fill
    padded[..., : values.shape[-2], : values.shape[-1]] = values
    return padded
