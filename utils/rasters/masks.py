"""Writes masks as palette PNG and probabilities as .npz."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from utils.files import atomic_path

Palette = Sequence[tuple[int, int, int]]

# For a 512 px mask, level 1 takes 0.6 to 1.5 ms and gives 4 to 20 KiB. Level 6 (zlib's default)
# takes two to three times as long and saves a fifth; level 9 takes up to forty times as long.
PNG_COMPRESS_LEVEL = 1


def palette_bytes(palette: Palette) -> bytes:
    """RGB colours in 0..255 as the flat bytes of a PNG palette."""
    return bytes(value for colour in palette for value in colour)


def write_mask(path: Path | str, mask: np.ndarray, palette: Palette) -> None:
    """Writes class indices as a palette PNG, which viewers show in colour.

    Args:
        path: the file, .png; parent folders are created.
        mask: (H, W) uint8 in 0..len(palette) - 1.
        palette: RGB colours in 0..255; [0] is "unchanged".

    Raises:
        ValueError: the mask is not (H, W) uint8, or holds a value without a colour.
    """
    mask = np.ascontiguousarray(mask)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"{path}: a mask must be (H, W) uint8, not {mask.shape} {mask.dtype}.")
    if mask.size and mask.max() >= len(palette):
        raise ValueError(
            f"{path}: mask value {mask.max()} has no colour in a palette of {len(palette)}; "
            "the scheme of the data set must list every class."
        )
    image = Image.fromarray(mask)
    image.putpalette(palette_bytes(palette))  # makes it mode P
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", compress_level=PNG_COMPRESS_LEVEL)


def write_probs(
    path: Path | str, semantic: np.ndarray | None = None, change: np.ndarray | None = None
) -> None:
    """Writes the probabilities of one tile as .npz, with a key for each array that is given.

    Uncompressed: compression saves little, and zlib would be slower than the network.

    Args:
        path: the file, .npz.
        semantic: (T, K, H, W) in 0..1, stored as float16.
        change: (H, W) in 0..1 = P(changed), stored as float16.
    """
    arrays = {"semantic": semantic, "change": change}
    arrays = {key: np.asarray(a, dtype=np.float16) for key, a in arrays.items() if a is not None}
    if not arrays:
        raise ValueError(f"{path}: neither semantic nor change probabilities were given.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
