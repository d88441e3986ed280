"""Tiny random pairs in the real SECOND layout."""

import warnings
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
    """Truncates a file to a share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def write_tiff(
    path: Path,
    bands: np.ndarray,
    *,
    left: float = 500000,
    top: float = 6000000,
    pixel_m: float = 2,
    crs: str | None = "EPSG:32637",
    **options,
) -> Path:
    """Writes (C, H, W) as a GeoTIFF; georeferenced only with `crs`."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(pixel_m, 0, left, 0, -pixel_m, top)
    place = {"crs": crs, "transform": transform} if crs else {}
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as file:
        file.write(bands)
    return path


def write_envi(path: Path, bands: np.ndarray) -> Path:
    """Writes (C, H, W) uint8 as raw band-sequential pixels, and `<path>.hdr` beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bands.tobytes())
    count, lines, samples = bands.shape
    path.with_name(path.name + ".hdr").write_text(
        f"ENVI\nsamples = {samples}\nlines = {lines}\nbands = {count}\nheader offset = 0\n"
        "file type = ENVI Standard\ndata type = 1\ninterleave = bsq\nbyte order = 0\n"
    )
    return path


def make_change(
    rng: np.random.Generator, height: int, width: int, bands: int = 3, most: int = 255
) -> tuple[np.ndarray, np.ndarray]:
    """Images (2, C, H, W) int64 in 0..most, and change (H, W) of one rectangle, about a tenth."""
    images = rng.integers(0, most // 2, (1, bands, height, width)).repeat(2, 0)
    images[1] += rng.integers(0, most // 20, images[1].shape)
    change = np.zeros((height, width), np.uint8)
    high, wide = height // 3, width // 3
    top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
    change[top : top + high, left : left + wide] = 1
    images[1][:, change == 1] += most // 3
    return images, change


def make_binary(
    root: Path, parts: dict[str, int] | None = None, size: int = 64, coding: str = "0255"
) -> Path:
    """Writes RGB PNG and labels as folders A, B and label, of parts or (part "") of root."""
    for part, count in (parts or {"train": 4}).items():
        for index in range(count):
            images, change = make_change(np.random.default_rng((len(part), index)), size, size)
            for folder, image in zip("AB", images.astype(np.uint8), strict=True):
                write(root / part / folder / f"{index:03d}.png", image.transpose(1, 2, 0))
            stored = change if coding == "01" else change * 255
            write(root / part / "label" / f"{index:03d}.png", stored)
    return root


def make_rucode(root: Path, train: int = 3, test: int = 2, size: tuple = (80, 72)) -> Path:
    """Writes 8-band composites of 10 bits, masks of the first of them, and the sample submission.

    Heights grow from scene to scene, as the real sizes differ.
    """
    names = [f"KVI_2018_SCN{i}__KV1_2019_SCN{i}" for i in range(train + test)]
    for index, name in enumerate(names):
        rng = np.random.default_rng(index)
        images, change = make_change(rng, size[0] + 8 * index, size[1], 4, 1023)
        composite = images.astype(np.uint16).reshape(8, *change.shape)
        write_tiff(root / f"Images_composit/Images_composit/8_ch/{name}.tif", composite)
        if index < train:
            write_tiff(root / f"mask/mask/{name}.tif", change[None])
    lines = ["Id,mask", *(f"{name},2 1" for name in reversed(names[train:]))]
    (root / "sample_submission.csv").write_text("\n".join(lines) + "\n")
    return root


def make_land_cover(
    rng: np.random.Generator, height: int, width: int, num_classes: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 and its classes (H, W) uint8 in 0..K-1, in blocks, learnable."""
    side = max(1, min(height, width) // 4)
    blocks = rng.integers(num_classes, size=(-(-height // side), -(-width // side)))
    classes = blocks.repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)
    colours = np.random.default_rng(5).integers(20, 220, (num_classes, 3))
    return (colours[classes] + rng.integers(0, 30, (height, width, 3))).astype(np.uint8), classes


def make_naic2020(root: Path, train: int = 6, test: int = 2, size: tuple = (32, 32)) -> Path:
    """Writes the contest's raw layout: train/image, train/label, image_A; no lists."""
    for folder, count in (("train", train), ("image_A", test)):
        for index in range(count):
            image, classes = make_land_cover(np.random.default_rng((len(folder), index)), *size)
            if folder == "train":
                write(root / f"train/image/{index + 1}.tif", image)
                write(root / f"train/label/{index + 1}.png", (classes + np.uint16(1)) * 100)
            else:
                write(root / f"image_A/{index + 1}.tif", image)
    return root


def make_folder(
    root: Path,
    parts: dict[str, int] | None = None,
    num_classes: int = 3,
    size: int = 32,
    coding: str = "index",
) -> Path:
    """Writes images, labels (of indices or "rgb") and classes.yaml with colours, of parts or ""."""
    palette = np.random.default_rng(6).integers(0, 255, (num_classes, 3)).astype(np.uint8)
    for part, count in (parts or {"": 4}).items():
        for index in range(count):
            rng = np.random.default_rng((len(part), index))
            image, classes = make_land_cover(rng, size, size, num_classes)
            write(root / part / f"images/{index}.png", image)
            write(
                root / part / f"labels/{index}.png",
                palette[classes] if coding == "rgb" else classes,
            )
    lines = [f"class{i}: {colour.tolist()}\n" for i, colour in enumerate(palette)]
    (root / "classes.yaml").write_text("".join(lines))
    return root
