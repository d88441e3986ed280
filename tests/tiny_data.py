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
    """Cuts a file off after that share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def write_tiff(
    path: Path,
    bands: np.ndarray,
    *,
    left: float = 500000,
    crs: str | None = "EPSG:32637",
    **options,
) -> Path:
    """Writes (C, H, W) as a GeoTIFF of 2 m pixels; without `crs` it has no place on earth."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(2, 0, left, 0, -2, 6000000)
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


# reflectance of some of DFC2020's classes (0-based) in the 13 bands, and VV and VH in decibel
SPECTRA = {
    0: ([300, 250, 400, 250, 700, 1900, 2300, 2500, 2600, 900, 20, 1200, 550], (-9, -15)),
    5: ([600, 700, 1000, 1100, 1500, 2200, 2500, 2700, 2900, 1000, 20, 2200, 1400], (-12, -19)),
    6: ([1300, 1500, 1700, 1800, 1900, 2000, 2100, 2200, 2200, 900, 30, 2300, 2100], (-3, -10)),
    9: ([800, 600, 500, 300, 250, 200, 180, 150, 140, 80, 10, 60, 40], (-20, -24)),
}
IGBP = {0: 1, 5: 12, 6: 13, 9: 17}  # stored by SEN12MS for these classes


def make_patch(
    rng: np.random.Generator, size: int, classes: dict = SPECTRA
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sentinel-2 (13, H, W) uint16, Sentinel-1 (2, H, W) float32, classes (H, W) uint8 of 0..9.

    Classes come in blocks of size // 4; VV and VH are noisier than the optical bands.
    """
    side = max(1, size // 4)
    blocks = rng.choice(list(classes), (-(-size // side),) * 2)
    truth = blocks.repeat(side, 0).repeat(side, 1)[:size, :size].astype(np.uint8)
    optical, radar = (np.zeros((count, size, size)) for count in (13, 2))
    for index, (spectrum, decibel) in classes.items():
        optical[:, truth == index] = np.array(spectrum)[:, None]
        radar[:, truth == index] = np.array(decibel)[:, None]
    optical = optical * rng.normal(1, 0.05, optical.shape)
    radar = radar + rng.normal(0, 3, radar.shape)
    return optical.clip(0, 65535).astype(np.uint16), radar.astype(np.float32), truth


def _write_patch(root: Path, folder: str, name: str, size: int, seed: tuple, label: str | None):
    """Writes the files of a patch; `folder` and `name` are those of Sentinel-2."""
    optical, radar, truth = make_patch(np.random.default_rng(seed), size)
    parent, _, last = folder.rpartition("/")

    def path(kind: str) -> Path:
        file = f"{name.replace('_s2_', f'_{kind}_')}.tif"
        return root / parent / last.replace("s2", kind) / file

    write_tiff(path("s2"), optical)
    write_tiff(path("s1"), radar)
    if label == "lc":
        igbp = np.array([IGBP.get(i, 0) for i in range(10)], np.uint8)[truth]
        write_tiff(path("lc"), np.stack([igbp] * 4))
    if label == "dfc":
        write_tiff(path("dfc"), truth[None] + np.uint8(1))


def make_sen12ms(
    root: Path, scenes: dict[str, int] | None = None, held_out: tuple = (), size: int = 32
) -> Path:
    """Writes patches of SEN12MS and the list of scenes that are held out.

    `scenes`: patches by scene, such as {"ROIs1158_spring/s2_1": 2}; `held_out`: some of them.
    """
    scenes = scenes or {"ROIs1158_spring/s2_1": 2, "ROIs1868_summer/s2_146": 2}
    for number, (scene, count) in enumerate(scenes.items()):
        season, _, last = scene.partition("/")
        for index in range(count):
            name = f"{season}_{last}_p{index + 1}"
            _write_patch(root, scene, name, size, (1, number, index), "lc")
    lines = "".join(scene.replace("/s2_", "/s1_") + "\n" for scene in held_out)
    root.mkdir(parents=True, exist_ok=True)
    (root / "SEN12MS_holdOutScenes.txt").write_text(lines)
    return root


def make_dfc2020(root: Path, val: int = 2, test: int = 2, size: int = 32) -> Path:
    """Writes patches of DFC2020's validation and test parts, labels included."""
    for folder, count, name in (
        ("ROIs0000_validation/s2_validation", val, "ROIs0000_validation_s2_0_p{}"),
        ("ROIs0000_test/s2_0", test, "ROIs0000_test_s2_0_p{}"),
    ):
        for index in range(count):
            _write_patch(root, folder, name.format(index), size, (2, len(name), index), "dfc")
    return root


def make_tiff_dir(root: Path, count: int = 2, size: int = 32) -> Path:
    """Writes unlabelled patches as s1 and s2."""
    for index in range(count):
        _write_patch(root, "s2", f"town_s2_{index}", size, (3, index), None)
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
