"""Generated Sentinel patches in the real layouts: tiny for tests, or a learnable data set.

`PYTHONPATH=.:tests python -m helpers.sentinel_data OUT --layout sen12ms --patches 300 --size 128`
writes the larger one.
Optical bands tell all ten classes apart; VV and VH alone confuse several of them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.tiny_data import write_tiff
from utils.cli import Parser, positive_int, run

# reflectance of DFC2020's classes (0-based) in the 13 bands, and VV and VH in decibel
SPECTRA = {
    0: ([300, 250, 400, 250, 700, 1900, 2300, 2500, 2600, 900, 20, 1200, 550], (-9, -15)),
    1: ([700, 680, 800, 950, 1250, 1500, 1600, 1700, 1850, 800, 20, 2600, 1900], (-11, -17.5)),
    2: ([400, 380, 650, 600, 1050, 1700, 1900, 2000, 2150, 850, 20, 1900, 1050], (-10.5, -17)),
    3: ([350, 350, 900, 400, 1300, 3100, 3900, 4200, 4300, 1200, 20, 2000, 900], (-12.5, -19)),
    4: ([450, 420, 550, 420, 650, 1000, 1100, 1200, 1250, 500, 15, 600, 300], (-11.5, -18)),
    5: ([600, 700, 1000, 1100, 1500, 2200, 2500, 2700, 2900, 1000, 20, 2200, 1400], (-12, -19)),
    6: ([1300, 1500, 1700, 1800, 1900, 2000, 2100, 2200, 2200, 900, 30, 2300, 2100], (-3, -10)),
    7: ([8800, 9000, 8900, 8700, 8500, 8400, 8200, 8100, 7900, 3000, 60, 900, 700], (-13.5, -20)),
    8: ([1500, 1700, 2300, 2900, 3100, 3200, 3300, 3400, 3500, 1400, 30, 4200, 3700], (-14, -21)),
    9: ([800, 600, 500, 300, 250, 200, 180, 150, 140, 80, 10, 60, 40], (-20, -24)),
}
FEW = (0, 5, 6, 9)  # classes that are separable with few pixels
AT_ONCE = 4  # maximum number of classes in a patch
# stored by SEN12MS for these classes
IGBP = {
    0: (1, 2, 3, 4, 5), 1: (6, 7), 2: (8, 9), 3: (10,), 4: (11,),
    5: (12, 14), 6: (13,), 7: (15,), 8: (16,), 9: (17,),
}  # fmt: skip
SEASONS = ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter")
DFC_FOLDERS = {"val": "ROIs0000_validation/s2_validation", "test": "ROIs0000_test/s2_0"}
LAYOUTS = ("sen12ms", "dfc2020", "tiff_dir")
AREA_SHARE = 1 / 20  # size of an area, as a share of the side of a patch
PIXEL_M = 10


def make_patch(
    rng: np.random.Generator, size: int, classes: Sequence[int] = FEW
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sentinel-2 (13, H, W) uint16, Sentinel-1 (2, H, W) float32 with NaN, classes (H, W) uint8.

    In every patch a class is a bit brighter or darker (optical: 12 %; radar: 1.5 dB) than in
    others; optical noise is 8 %, speckle 3 dB. One radar pixel in a thousand is NaN.
    """
    present = rng.choice(classes, min(AT_ONCE, len(classes)), replace=False)
    area = make_areas(rng, size, len(present))
    spectra, decibels = (np.array([SPECTRA[i][k] for i in present], float) for k in (0, 1))
    spectra *= rng.normal(1, 0.12, (len(present), 1)) * rng.normal(1, 0.05, spectra.shape)
    decibels += rng.normal(0, 1.5, (len(present), 1)) + rng.normal(0, 0.5, decibels.shape)
    optical, radar = (of_class.T[:, area] for of_class in (spectra, decibels))
    optical = optical * rng.normal(1, 0.08, optical.shape)
    radar = radar + rng.normal(0, 3, radar.shape)
    radar[:, rng.random(area.shape) < 0.001] = np.nan
    return optical.clip(0, 65535).astype(np.uint16), radar.astype(np.float32), present[area]


def make_areas(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """(H, W) integers in 0..count-1 in irregular areas: argmax of smooth random fields."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    smooth = np.exp(-2 * (np.pi * frequency * size * AREA_SHARE) ** 2)
    noise = np.fft.rfft2(rng.normal(size=(count, size, size)))
    return np.fft.irfft2(noise * smooth, s=(size, size)).argmax(0)


def _write_patch(
    root: Path,
    folder: str,
    name: str,
    label: str | None,
    *,
    size: int,
    seed: tuple,
    classes: Sequence[int] = FEW,
) -> None:
    """Writes the files of a patch; `folder` and `name` are those of Sentinel-2."""
    rng = np.random.default_rng(seed)
    optical, radar, truth = make_patch(rng, size, classes)
    images = {"s2": optical, "s1": radar}
    if label == "lc":  # band 1 is IGBP's; the others are other legends
        stored = np.array([rng.choice(IGBP[i]) for i in range(len(IGBP))])[truth]
        images["lc"] = np.stack([stored] * 4).astype(np.uint8)
    if label == "dfc":
        images["dfc"] = (truth[None] + 1).astype(np.uint8)
    parent, _, last = folder.rpartition("/")
    step_m = size * PIXEL_M
    place = {"left": 300000 + step_m * seed[-1], "top": 6000000 + step_m * sum(seed[:-1])}
    for kind, image in images.items():
        file = f"{name.replace('_s2_', f'_{kind}_')}.tif"
        path = root / parent / last.replace("s2", kind) / file
        write_tiff(path, image, pixel_m=PIXEL_M, **place)


def make_sen12ms(
    root: Path,
    scenes: dict[str, int] | None = None,
    held_out: Sequence[str] = (),
    *,
    size: int = 32,
    seed: int = 1,
    classes: Sequence[int] = FEW,
) -> Path:
    """Writes patches of SEN12MS and the list of held-out scenes.

    `scenes`: patches by scene, such as {"ROIs1158_spring/s2_1": 2}; `held_out`: some of them.
    """
    scenes = scenes or {"ROIs1158_spring/s2_1": 2, "ROIs1868_summer/s2_146": 2}
    for number, (scene, count) in enumerate(scenes.items()):
        season, _, last = scene.partition("/")
        for i in range(count):
            name, key = f"{season}_{last}_p{i + 1}", (seed, number, i)
            _write_patch(root, scene, name, "lc", size=size, seed=key, classes=classes)
    lines = "".join(scene.replace("/s2_", "/s1_") + "\n" for scene in held_out)
    root.mkdir(parents=True, exist_ok=True)
    (root / "SEN12MS_holdOutScenes.txt").write_text(lines)
    return root


def make_dfc2020(
    root: Path,
    val: int = 2,
    test: int = 2,
    *,
    size: int = 32,
    seed: int = 2,
    classes: Sequence[int] = FEW,
) -> Path:
    """Writes patches of DFC2020's validation and test parts, labels included."""
    for number, (part, count) in enumerate({"val": val, "test": test}.items()):
        folder = DFC_FOLDERS[part]
        for i in range(count):
            name, key = f"{folder.partition('/')[0]}_s2_0_p{i}", (seed, number, i)
            _write_patch(root, folder, name, "dfc", size=size, seed=key, classes=classes)
    return root


def make_tiff_dir(
    root: Path, count: int = 2, *, size: int = 32, seed: int = 3, classes: Sequence[int] = FEW
) -> Path:
    """Writes unlabelled patches as s1 and s2."""
    for i in range(count):
        key = (seed, i)
        _write_patch(root, "s2", f"town_s2_{i}", None, size=size, seed=key, classes=classes)
    return root


def make_learnable(root: Path, layout: str, patches: int, size: int, seed: int) -> Path:
    """Writes patches of all ten classes.

    SEN12MS: two scenes of each season, the second one of summer and of winter held out (a quarter
    of the patches); DFC2020: a quarter validates.
    """
    options = {"size": size, "seed": 10 + seed, "classes": tuple(SPECTRA)}
    if layout == "sen12ms":
        scenes = [f"{season}/s2_{number}" for number in (1, 2) for season in SEASONS]
        counts = dict(zip(scenes, _shares(patches, len(scenes)), strict=True))
        return make_sen12ms(root, counts, [scenes[5], scenes[7]], **options)
    if layout == "dfc2020":
        return make_dfc2020(root, patches // 4, patches - patches // 4, **options)
    return make_tiff_dir(root, patches, **options)


def _shares(total: int, count: int) -> list[int]:
    """`count` integers, as equal as possible, that sum to `total`."""
    return [total * (i + 1) // count - total * i // count for i in range(count)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Write Sentinel patches that a network can learn.", prog="sentinel_data.py")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--layout", choices=LAYOUTS, default="sen12ms", help="of the folders")
    parser.add_argument("--patches", type=positive_int, default=300, help="how many in all")
    parser.add_argument("--size", type=positive_int, default=128, help="side in px")
    parser.add_argument("--seed", type=int, default=0, help="at least 0; others give other patches")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Writes the data set chosen on the command line."""
    args = parse_args(argv)
    make_learnable(args.out, args.layout, args.patches, args.size, args.seed)
    print(f"{args.patches} patches of {args.size} px written to {args.out}")


if __name__ == "__main__":
    run(main)
