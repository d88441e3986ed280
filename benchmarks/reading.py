"""Speed of one worker that reads Sentinel patches from files, and of listing very many files.

`python -m benchmarks.reading` writes patches as in SEN12MS, and compressed ones, to a temporary
folder, reads each as the published program does and as this project does, prints a table and
writes JSON. Ratios are those of medians. Files are in the page cache; --cold removes them before
each read.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import rasterio

from benchmarks.machine import machine
from datasets.build import Source
from datasets.samples import SceneSamples
from datasets.sentinel.patch_index import list_patches
from datasets.sentinel.reader import IGBP_TO_DFC, chosen_bands
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.schemes import dfc_scheme

FILES = {  # how the files are stored: options of rasterio
    "strips": {},  # as in SEN12MS
    "deflate": {"compress": "deflate"},
    "deflate, bands apart": {"compress": "deflate", "interleave": "band"},
    "deflate, tiles": {"compress": "deflate", "tiled": True, "blockxsize": 128, "blockysize": 128},
}
GROUPS = {  # bands that are read: Sentinel-1, then those of 10, 20 and 60 m
    "hr mr s1": (True, True, True, False),
    "all": (True, True, True, True),
    "s1": (True, False, False, False),
}
WARM_UP = 1  # uncounted turns
SCENE = "ROIs1158_spring"
FOLDERS = 750  # as in SEN12MS
LONG_AGO_NS = 10**18  # the index does not keep folders that have just changed


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Measure the reading of Sentinel patches.", prog="python -m benchmarks.reading")
    group = parser.add_argument_group("measurement")
    group.add_argument("--patches", type=positive_int, default=32, help="of each kind of file")
    group.add_argument("--size", type=positive_int, default=256, help="side of a patch in px")
    group.add_argument("--repeats", type=positive_int, default=9, help="times each patch is read")
    group.add_argument("--cold", action="store_true", help="from the disk, not the page cache")
    group.add_argument("--files", type=positive_int, default=180_000, help="empty files to list")
    group.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    group.add_argument("--out", default="outdir/benchmarks/reading.json", help="JSON to write")
    args = parser.parse_args(argv)
    if args.quick:
        args.patches, args.size, args.repeats, args.files = 2, 64, 2, 2 * FOLDERS
    return args


def main(argv: list[str] | None = None) -> None:
    """Measures everything, prints the tables."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for stored in FILES for row in measure(args, Path(folder, "data"), stored)]
        print(table(rows))
        index = measure_index(Path(folder), args.files)
    print(
        f"index of {args.files} files: {index['first_s']:.2f} s the first time, "
        f"{index['again_s']:.2f} s from its file"
    )
    result = {"machine": machine(), "options": vars(args), "rows": rows, "index": index}
    write_json(args.out, result)
    print(f"written to {args.out}")


def measure(args: argparse.Namespace, root: Path, stored: str) -> list[dict]:
    """One row for each choice of bands, of files stored in one way."""
    write_patches(root, args.patches, args.size, FILES[stored])
    rows = []
    for chosen, groups in GROUPS.items():
        dataset = Source("sen12ms", root).build("train", dfc_scheme(*groups))
        rows.append({"files": stored, "bands": chosen, **compare(args, dataset)})
    return rows


def write_patches(root: Path, count: int, side: int, options: dict) -> None:
    """Writes patches in SEN12MS layout (smooth fields with noise); replaces existing ones.

    Args:
        root: of the layout.
        count: patches, all of one scene.
        side: in px.
        options: of rasterio.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    for i in range(count):
        wave = np.sin(5 * rows + i) * np.cos(7 * columns - i)
        kinds = {
            "s2": (1500 + 800 * wave + rng.normal(0, 60, (13, side, side))).astype(np.uint16),
            "s1": (-14 + 4 * wave + rng.normal(0, 3, (2, side, side))).astype(np.float32),
            "lc": np.stack([(9 + 8 * wave).astype(np.uint8)] * 4),
        }
        for kind, image in kinds.items():
            write_image(root / f"{SCENE}/{kind}_1/{SCENE}_{kind}_1_p{i}.tif", image, options)
    (root / "SEN12MS_holdOutScenes.txt").write_text("")


def write_image(path: Path, image: np.ndarray, options: dict) -> None:
    """Writes (C, H, W) as a GeoTIFF of 10 m pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    shape = {"count": count, "height": height, "width": width, "dtype": image.dtype}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as file:
        file.write(image)


def compare(args: argparse.Namespace, dataset: SceneSamples) -> dict[str, float]:
    """Both sides in turns, the published one in two ways: reading all bands, or the chosen ones.

    Returns:
        Medians in patches per second; ratios (> 1: ours is faster) of medians, and the lowest and
        highest of a turn.
    """
    sides = {
        "plain": partial(plain_item, dataset, every=True),
        "plain_chosen": partial(plain_item, dataset, every=False),
        "ours": dataset.__getitem__,
    }
    refuse_differences(dataset)
    turns = [take_turns(sides, dataset, args.cold) for _ in range(WARM_UP + args.repeats)]
    seconds = {side: [turn[side] for turn in turns[WARM_UP:]] for side in sides}
    row = {
        f"{side}_patches_per_s": len(dataset) / statistics.median(values)
        for side, values in seconds.items()
    }
    for side in ("plain", "plain_chosen"):
        ratios = [a / b for a, b in zip(seconds[side], seconds["ours"], strict=True)]
        row[f"ratio_{side}"] = row["ours_patches_per_s"] / row[f"{side}_patches_per_s"]
        row[f"lowest_{side}"], row[f"highest_{side}"] = min(ratios), max(ratios)
    return row


def take_turns(sides: dict[str, Callable], dataset: SceneSamples, cold: bool) -> dict[str, float]:
    """Seconds of each side for all patches; every patch is read by all sides before the next."""
    seconds = dict.fromkeys(sides, 0.0)
    for i, name in enumerate(dataset.names):
        scene = dataset.scene_of(name)
        for side, item in sides.items():
            if cold:
                forget(scene.files)
            start = time.perf_counter()
            item(i)
            seconds[side] += time.perf_counter() - start
    return seconds


def forget(paths: Sequence[Path]) -> None:
    """Removes files from the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # pages that are not yet on the disk would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_item(dataset: SceneSamples, index: int, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """Image (C, H, W) float32 and classes (H, W) int64 of a patch, read as published.

    Args:
        dataset: defines the files and their bands.
        index: of the patch.
        every: read all bands and then select; otherwise rasterio reads only the selected bands.
    """
    scene, images = dataset.scenes[index], []
    kinds = chosen_bands(dataset.scheme)
    for (path, bands, _), kind in zip(scene.dates[0], kinds, strict=True):
        numbers = [band + 1 for band in bands]
        with rasterio.open(path) as file:
            image = file.read()[np.array(numbers) - 1] if every else file.read(numbers)
        image = image.astype(np.float32)
        if kind == "s2":
            images.append(np.clip(image, 0, 10000) / 10000)
        else:
            images.append(np.clip(np.nan_to_num(image), -25, 0) / 25 + 1)
    with rasterio.open(scene.labels[0]) as file:
        label = file.read(1)
    classes = np.take(IGBP_TO_DFC, label) - 1
    classes[classes == -1] = 255
    return np.concatenate(images), classes


def refuse_differences(dataset: SceneSamples) -> None:
    """Raises ValueError unless both sides return the same values."""
    for i in range(len(dataset)):
        ours = dataset[i]
        for every in (True, False):
            image, classes = plain_item(dataset, i, every)
            same = np.allclose(image, ours.images[0], atol=1e-6)
            if not same or not np.array_equal(classes, ours.semantic[0]):
                raise ValueError(f"{dataset.names[i]}: both sides must read the same; mend one")


def measure_index(root: Path, count: int) -> dict[str, float]:
    """Seconds to list that many empty files in the folders of SEN12MS, and to do it again."""
    folders = [f"scenes/s2_{i}" for i in range(FOLDERS)]
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for i in range(count * number // FOLDERS, count * (number + 1) // FOLDERS):
            (root / folder / f"{SCENE}_s2_{number}_p{i}.tif").touch()
        os.utime(root / folder, ns=(LONG_AGO_NS, LONG_AGO_NS))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        found = list_patches(root, folders, index_dir=root / "index")
        seconds.append(time.perf_counter() - start)
        if sum(map(len, found.values())) != count:
            raise ValueError(f"{sum(map(len, found.values()))} files listed of {count}; mend that")
    return {"files": count, "folders": FOLDERS, "first_s": seconds[0], "again_s": seconds[1]}


def table(rows: list[dict]) -> str:
    """The rows as text: patches per second, and ours over each of the others."""
    lines = [
        f"{'':33}{'patches per second':^30}{'ours / plain':^20}{'ours / chosen':^20}",
        f"{'files':22}{'bands':11}{'plain':>10}{'chosen':>10}{'ours':>10}",
    ]
    for row in rows:
        speeds = (row[f"{side}_patches_per_s"] for side in ("plain", "plain_chosen", "ours"))
        line = f"{row['files']:22}{row['bands']:11}" + "".join(f"{s:10.0f}" for s in speeds)
        for side in ("plain", "plain_chosen"):
            spread = f"({row[f'lowest_{side}']:.2f}..{row[f'highest_{side}']:.2f})"
            line += f"{row[f'ratio_{side}']:6.2f} {spread:13}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
