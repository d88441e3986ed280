"""Converts two images with masks of changed and unchanged pixels to the layout of `binary`.

This is the format of benchmarks with few labelled pixels: one mask of changed pixels, one of
unchanged pixels. All other pixels become 255 in the label: no loss, no metric.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.binary import SPEC
from datasets.layout import refuse_existing
from datasets.prepare.compose import add_writing
from utils.cli import positive_int
from utils.files import save_image
from utils.rasters.grids import grid_difference, shifted
from utils.rasters.raster import Raster
from utils.rasters.reading import open_raster, strips
from utils.rasters.windows import Window
from utils.rasters.writing import StripWriter
from utils.structures import IGNORE_INDEX

WRITTEN = (("im1", ".tif"), ("im2", ".tif"), ("label", ".png"))


def label_scene(
    image1: Path | str,
    image2: Path | str,
    changed: Path | str,
    unchanged: Path | str,
    out: Path | str,
    *,
    name: str | None = None,
    tile_px: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> int:
    """Writes `OUT/A`, `OUT/B` (GeoTIFF, all bands as they are) and `OUT/label` (PNG, 0, 1, 255).

    Args:
        image1: date 1, any GDAL format.
        image2: date 2; same size, bands, dtype and georeference.
        changed: mask, nonzero = changed.
        unchanged: mask, nonzero = unchanged.
        out: folder to write, such as DIR/train.
        name: id; None = the file name of date 1.
        tile_px: maximum side of tiles, which are about equal and named `<id>_<top>_<left>`; tiles
            without labelled pixels are left out. None keeps the whole scene.
        overwrite: replace files of these ids.
        dry_run: check everything, write nothing.

    Returns:
        Number of scenes or tiles.

    Raises:
        OSError: a file cannot be read.
        FileExistsError: a target file exists and `overwrite` is False.
        ValueError: files do not match, masks overlap, or a mask is empty.
    """
    images = [open_raster(path) for path in (image1, image2)]
    masks = [open_raster(path, indices=True) for path in (changed, unchanged)]
    _refuse_unlike(images, masks)
    label = _label(*masks)
    tiles = _tiles(name or Path(image1).stem, label, tile_px)
    paths = {
        tile: [
            Path(out) / {**SPEC.images, **SPEC.labels}[field] / f"{tile}{suffix}"
            for field, suffix in WRITTEN
        ]
        for tile in tiles
    }
    if not overwrite:
        refuse_existing(path for three in paths.values() for path in three)
    for tile, window in {} if dry_run else tiles.items():
        for path, image in zip(paths[tile], images, strict=False):
            _write(path, image, window)
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        save_image(paths[tile][2], Image.fromarray(label[rows, columns]))
    return len(tiles)


def _refuse_unlike(images: list[Raster], masks: list[Raster]) -> None:
    first, second = images
    for raster in (second, *masks):
        if (raster.height, raster.width) != (first.height, first.width):
            raise ValueError(
                f"{raster.path} is {raster.height} x {raster.width} and {first.path} "
                f"{first.height} x {first.width}; cut them to the same size"
            )
    if (first.count, first.dtype) != (second.count, second.dtype):
        raise ValueError(
            f"{first.path} has {first.count} bands {first.dtype} and {second.path} {second.count} "
            f"bands {second.dtype}; they must be alike"
        )
    if difference := grid_difference(first, second):
        raise ValueError(
            f"{first.path} and {second.path} have {difference}; warp them to one grid (gdalwarp)"
        )


def _label(changed: Raster, unchanged: Raster) -> np.ndarray:
    """(H, W) uint8 label: 1 = changed, 0 = unchanged, IGNORE_INDEX where neither mask is set."""
    label = np.full((changed.height, changed.width), IGNORE_INDEX, np.uint8)
    overlap = 0
    for window in strips(changed):
        rows = slice(window.top, window.top + window.height)
        marks = [
            (raster.read(window, range(raster.count)) != 0).any(0)
            for raster in (changed, unchanged)
        ]
        overlap += np.count_nonzero(marks[0] & marks[1])
        label[rows][marks[1]] = 0
        label[rows][marks[0]] = 1
    if overlap:
        raise ValueError(
            f"{changed.path} and {unchanged.path} both mark {overlap} pixel(s); a pixel is changed "
            "or not. Mend one of them."
        )
    for value, raster in ((1, changed), (0, unchanged)):
        if not (label == value).any():
            raise ValueError(
                f"{raster.path} marks no pixel (not 0 = marked); is it the right file?"
            )
    return label


def _tiles(name: str, label: np.ndarray, tile_px: int | None) -> dict[str, Window]:
    height, width = label.shape
    if tile_px is None:
        return {name: Window(0, 0, height, width)}
    tiles = {}
    for top, bottom in _cuts(height, tile_px):
        for left, right in _cuts(width, tile_px):
            if (label[top:bottom, left:right] != IGNORE_INDEX).any():
                place = Window(top, left, bottom - top, right - left)
                tiles[f"{name}_{top:05d}_{left:05d}"] = place
    return tiles


def _cuts(length: int, tile_px: int) -> list[tuple[int, int]]:
    """(start, stop) of pieces of at most `tile_px`, of about equal length."""
    count = -(-length // tile_px)
    edges = [length * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _write(path: Path, image: Raster, window: Window) -> None:
    """Writes all bands of a window as a GeoTIFF."""
    with StripWriter(
        path,
        window.height,
        window.width,
        image.dtype,
        crs=image.crs,
        transform=shifted(image.transform, window.left, window.top),
        nodata=image.nodata[0] if image.nodata else None,
        bands=image.count,
    ) as out:
        out.write(0, image.read(window, range(image.count)))


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds the command `label-scene`."""
    parser = commands.add_parser(
        "label-scene",
        help="two scenes and masks of changed and unchanged pixels -> A, B, label",
        description="Writes OUT/A, OUT/B and OUT/label for the data set binary. A mask marks "
        "pixels by any value but 0; pixels in neither become 255 in the label: not labelled.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("image1", metavar="DATE1", type=Path, help="image of date 1, any GDAL format")
    data.add_argument("image2", metavar="DATE2", type=Path, help="image of date 2")
    data.add_argument("changed", metavar="CHANGED", type=Path, help="mask of changed pixels")
    data.add_argument("unchanged", metavar="UNCHANGED", type=Path, help="mask of unchanged ones")
    data.add_argument("out", metavar="OUT", type=Path, help="folder to write, such as DIR/train")
    data.add_argument("--name", help="id of the scene (default: the file name of DATE1)")
    data.add_argument(
        "--tile-px",
        metavar="N",
        type=positive_int,
        help="cut it into about equal tiles of at most N pixels a side (default: one piece)",
    )
    add_writing(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    options = {key: value for key, value in vars(args).items() if key != "run"}
    count = label_scene(**options)
    print(f"{'would write' if args.dry_run else 'wrote'} {count} scene(s) to {args.out}")
