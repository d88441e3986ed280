"""Figures of predicted tiles, and conversion of images to displayable RGB."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from utils.figures.panels import comparison
from utils.files import save_image

COLOURS = (("red", "green", "blue"), ("B4", "B3", "B2"))  # the second for Sentinel-2


def draw(path: Path, *picture: np.ndarray) -> None:
    """Draws and writes one figure; `picture`: arguments of `comparison`."""
    save_image(path, comparison(*picture))


def tile_images(
    images: Tensor, bands: Sequence[str] = (), size: tuple[int, int] | None = None
) -> np.ndarray:
    """One tile's images (T, C, H, W) as read -> (T, H, W, 3) uint8 for display.

    Shows red, green and blue if `bands` has them, else the first three bands, or the first as grey.
    Images that are not 8 bit are stretched from the 2nd to the 98th percentile over all dates.

    Args:
        images: of one tile.
        bands: names of the bands.
        size: (height, width) of the result; None = that of the images.
    """
    if size is not None and images.shape[-2:] != size:
        images = F.interpolate(images.float(), size, mode="bilinear").to(images.dtype)
    images = images[:, shown_bands(images.shape[1], bands)].permute(0, 2, 3, 1).cpu().numpy()
    if images.dtype != np.uint8:
        dark, bright = np.percentile(images, (2, 98))
        images = ((images - dark) / max(bright - dark, 1e-6)).clip(0, 1) * 255
    return np.broadcast_to(images.astype(np.uint8), (*images.shape[:3], 3))


def shown_bands(count: int, bands: Sequence[str]) -> list[int]:
    """Indices of the bands to display: three, or one."""
    for colours in COLOURS:
        if set(colours) <= set(bands):
            return [list(bands).index(colour) for colour in colours]
    return [0, 1, 2] if count >= 3 else [0]
