"""Tiny random pairs in the real SECOND layout."""

from pathlib import Path

import numpy as np
from PIL import Image

from utils.schemes import SECOND

PALETTE = SECOND.palette
NUM_CLASSES = SECOND.num_classes


def make_second(
    root: Path,
    train: int = 20,
    test: int = 0,
    val: int = 0,
    size: int = 64,
    seed: int = 0,
    label_mode: str = "P",
    image_ext: str = "png",
) -> Path:
    """Writes labelled train and test and unlabelled val; returns root.

    About a quarter of the pixels change, in blocks; all six classes appear in a folder of a few
    tiles. Images show the class as a grey level under noise, so they can be learnt from.
    """
    for part, count in (("train", train), ("val", val), ("test", test)):
        for index in range(count):
            rng = np.random.default_rng((seed, len(part), count, index))
            images, masks = make_pair(rng, size)
            for date in (1, 2):
                name = f"{index:05d}"
                write(root / part / f"im{date}" / f"{name}.{image_ext}", images[date - 1])
                if part != "val":
                    path = root / part / f"label{date}" / f"{name}.png"
                    write_label(path, masks[date - 1], label_mode)
    return root


def make_pair(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (2, H, W, 3) uint8 and masks (2, H, W) uint8 of 0..6, in blocks of size // 8."""
    blocks = -(-size // max(1, size // 8))
    dense = rng.integers(NUM_CLASSES, size=(2, blocks, blocks))
    changed = rng.random((blocks, blocks)) < 0.25
    dense[1] = np.where(
        changed, (dense[0] + 1 + dense[1] % (NUM_CLASSES - 1)) % NUM_CLASSES, dense[0]
    )
    masks = np.where(changed, dense + 1, 0)
    dense, masks = (
        values.repeat(size // 8 or 1, 1).repeat(size // 8 or 1, 2)[:, :size, :size]
        for values in (dense, masks)
    )
    noise = rng.integers(0, 30, (2, size, size, 3))
    return (dense[..., None] * 38 + noise).astype(np.uint8), masks.astype(np.uint8)


def write(path: Path, pixels: np.ndarray) -> Path:
    """Writes pixels (H, W) or (H, W, 3) uint8 as they are, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_label(path: Path, mask: np.ndarray, mode: str = "P") -> Path:
    """Writes class indices as P (with the palette), L, RGB or RGBA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if mode != "L":
        image.putpalette(bytes(np.array(PALETTE, np.uint8)))
    if mode.startswith("RGB"):
        image = image.convert(mode)
    image.save(path)
    return path


def truncate(path: Path, share: float = 0.6) -> Path:
    """Cuts a file off after that share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
