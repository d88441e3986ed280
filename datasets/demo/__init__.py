"""The demo data set: generated pairs of satellite images in SECOND layout.

    python -m datasets.demo --out data/demo --pairs 200 --size 256 --seed 0

A scene is a synthetic landscape at 0.75 m per pixel, drawn at two dates. Between the dates some
parcels change their use, and the appearance changes everywhere: season, sun, haze, camera, cars.
Labels hold the classes of changed pixels only. `dense1` and `dense2` hold the class of every pixel;
use them only to evaluate pseudo labels, not for training.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image
from tqdm import tqdm

from datasets.demo.canvas import COLUMN, FINE, GSD, MARGIN
from datasets.demo.render import lasting_noise, render, some_sky
from datasets.demo.scene import draw, evolve, settle
from utils.cli import Parser, positive_int
from utils.files import atomic_path, write_json
from utils.rasters.masks import write_mask
from utils.schemes import SECOND

PARTS = ("train", "test")
MARKER = "demo.json"  # file with the parameters; written last
VERSION = 1  # increase it when the same seed gives other bytes
PAIRS, SIZE_PX, SEED = 200, 256, 0
SMALLEST_PX = 32


class GeneratedScene(NamedTuple):
    """One tile at two dates on one grid."""

    image1: Image.Image  # RGB
    image2: Image.Image
    dense1: ndarray  # (H, W) uint8 in 1..6, the class of every pixel
    dense2: ndarray


def make_scene(seed: int, index: int, size: int = SIZE_PX, part: str = "train") -> GeneratedScene:
    """Generates tile `index` of a part; independent of the number of tiles.

    Args:
        seed: seed of the data set, at least 0.
        index: index of the tile in its part, at least 0.
        size: side length in px.
        part: "train" or "test".
    """
    rng = np.random.default_rng([seed, PARTS.index(part), index])
    before = settle(size * GSD, rng)
    lands = before, evolve(before, size * GSD, rng)
    still = lasting_noise(rng, (size + 2 * MARGIN) * FINE)
    images, dense = [], []
    for land in lands:
        ids, table = draw(land, size, rng)
        images.append(render(ids, table, size, some_sky(rng), still, rng))
        on_grid = slice(MARGIN * FINE, (MARGIN + size) * FINE, FINE)
        dense.append(table[:, COLUMN["cover"]].astype(np.uint8)[ids[on_grid, on_grid]])
    return GeneratedScene(*images, *dense)


def write_demo(
    out: Path | str,
    pairs: int = PAIRS,
    size: int = SIZE_PX,
    seed: int = SEED,
    overwrite: bool = False,
) -> bool:
    """Writes a data set, completely or not at all.

    Args:
        out: folder to create.
        pairs: number of tiles; a fifth of them, at least one, form the test part.
        size: side length of a tile in px.
        seed: the same seed gives the same bytes (with the same NumPy and Pillow).
        overwrite: replace a data set that was made with other parameters.

    Returns:
        False if the same data set already exists and nothing was written.

    Raises:
        ValueError: bad parameters, or `out` holds other files.
    """
    out = Path(out)
    parameters = _parameters(pairs, size, seed)
    if _is_there(out, parameters, overwrite):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        made = Path(folder) / "made"
        tiles = [("train", i) for i in range(pairs - parameters["test"])]
        tiles += [("test", i) for i in range(parameters["test"])]
        for part, index in tqdm(tiles, desc=f"making {out}", unit="pair", disable=None):
            _write_tile(made / part, f"{index:05d}.png", make_scene(seed, index, size, part))
        write_json(made / MARKER, parameters)
        _put_in_place(made, out, parameters, overwrite)
    return True


def ensure_demo(root: Path | str) -> Path:
    """Writes the default data set unless `root` already holds one, with any parameters.

    Raises:
        ValueError: `root` holds other files.
    """
    root = Path(root)
    if not (root / MARKER).is_file():
        print(
            f"making the demo data set in {root}: {PAIRS} pairs, once, about a minute", flush=True
        )
        write_demo(root)
    return root


def _parameters(pairs: int, size: int, seed: int) -> dict[str, int]:
    """Parameters that identify a data set; stored in its MARKER file."""
    if pairs < 2:
        raise ValueError(
            f"--pairs {pairs} is too few: train and test need a pair each, pass 2 or more."
        )
    if size < SMALLEST_PX:
        raise ValueError(f"--size {size} is too small: pass {SMALLEST_PX} px or more.")
    if seed < 0:
        raise ValueError(f"--seed {seed} is negative: pass 0 or more.")
    test = max(1, round(pairs / 5))
    return {"pairs": pairs, "test": test, "size": size, "seed": seed, "version": VERSION}


def _is_there(out: Path, parameters: dict[str, int], overwrite: bool) -> bool:
    """Whether `out` already is the requested data set; ValueError if it holds other files."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: pass a folder to make.")
    if not out.exists() or not any(out.iterdir()):
        return False
    try:
        found = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(
            f"--out {out} is not empty and not a finished demo data set (it has no {MARKER}): "
            "pass another folder, or remove this one if nothing in it is needed."
        ) from None
    if found == parameters:
        return True
    if not overwrite:
        differ = [
            f"{key} {found.get(key)} instead of {value}"
            for key, value in parameters.items()
            if found.get(key) != value
        ]
        raise ValueError(
            f"--out {out} holds a demo data set made with {', '.join(differ)}: "
            "pass --overwrite to replace it, or another --out."
        )
    return False


def _write_tile(part: Path, name: str, scene: GeneratedScene) -> None:
    """Writes the six files of a tile."""
    change = scene.dense1 != scene.dense2
    for date, image, dense in ((1, scene.image1, scene.dense1), (2, scene.image2, scene.dense2)):
        with atomic_path(part / f"im{date}" / name) as temporary:
            image.save(temporary, "PNG", compress_level=1)
        write_mask(
            part / f"label{date}" / name,
            np.where(change, dense, 0).astype(np.uint8),
            SECOND.palette,
        )
        write_mask(part / f"dense{date}" / name, dense, SECOND.palette)


def _put_in_place(made: Path, out: Path, parameters: dict[str, int], overwrite: bool) -> None:
    """Renames the finished folder to `out`, unless another process wrote the same data there."""
    if _is_there(out, parameters, overwrite):
        return
    if out.exists():
        os.replace(out, made.parent / "old")  # removed with the temporary folder
    try:
        os.replace(made, out)
    except OSError:
        if not _is_there(out, parameters, overwrite=False):
            raise


def parse_args(argv: list[str] | None = None):
    """Parses the command line."""
    parser = Parser(
        "Makes the demo data set: pairs of generated satellite images in SECOND layout.",
        prog="python -m datasets.demo",
    )
    group = parser.add_argument_group("data")
    group.add_argument("--out", default="data/demo", metavar="DIR", help="folder to make")
    group.add_argument(
        "--pairs",
        type=positive_int,
        default=PAIRS,
        metavar="N",
        help="pairs in all; a fifth is test",
    )
    group.add_argument(
        "--size", type=positive_int, default=SIZE_PX, metavar="PX", help="side of a tile in px"
    )
    group.add_argument("--seed", type=int, default=SEED, metavar="N", help="same seed, same bytes")
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a demo data set made with other parameters",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Writes the demo data set."""
    args = parse_args(argv)
    if write_demo(args.out, args.pairs, args.size, args.seed, args.overwrite):
        print(f"{args.out}: {args.pairs} pairs of {args.size} px, seed {args.seed}")
    else:
        print(f"{args.out} is already there with these parameters; nothing to do")
