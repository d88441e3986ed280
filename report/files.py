"""Finds the files of a report and reads them at a bounded size."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils import schemes
from utils.rasters.gdal import rasterio
from utils.state_files import read_file
from utils.structures import IGNORE_INDEX, Scheme

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# folders of images (one per date), and of labels beside them
LAYOUTS = (
    (("im1", "im2"), ("label1", "label2")),
    (("A", "B"), ("label",)),
    (("images",), ()),  # labels are not read: their coding is unknown here
)


class Sources(NamedTuple):
    """Image and label files of tiles, one mapping id -> file per date; `labels` may be empty."""

    images: tuple[dict[str, Path], ...]
    labels: tuple[dict[str, Path], ...]
    changed: int = 1  # the value of a changed pixel in change labels


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or invalid."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; invalid lines are skipped."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [entry for entry in found if isinstance(entry, dict)]


def files_by_id(folder: Path) -> dict[str, Path]:
    """Images of a folder by their stem, sorted; hidden files are skipped."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        path.stem: path
        for path in paths
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    }


def read_bounded(path: Path, longest: int, smooth: bool = False) -> np.ndarray:
    """Reads an image, downsampled by GDAL so that no side is longer than `longest`.

    Args:
        path: any raster.
        longest: in pixels; smaller images keep their size.
        smooth: downsample by averaging (pictures), else by nearest neighbour (classes).

    Returns:
        (C, H, W) as stored.

    Raises:
        OSError: it cannot be read.
    """
    module = rasterio()
    from rasterio.enums import Resampling

    try:
        with module.open(path) as file:
            count = 3 if file.count == 4 and file.dtypes[0] == "uint8" else file.count
            shape = (count, *bounded((file.height, file.width), longest))
            method = Resampling.average if smooth else Resampling.nearest
            return file.read(list(range(1, count + 1)), out_shape=shape, resampling=method)
    except module.errors.RasterioError as error:
        raise OSError(f"{path} cannot be read ({error}); make the masks again") from error


def bounded(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) scaled down so that no side is longer than `longest`."""
    step = max(1.0, max(size) / longest)
    return max(1, round(size[0] / step)), max(1, round(size[1] / step))


def is_mask(path: Path) -> bool:
    """Whether an image can be a mask: one band of 8 bits."""
    module = rasterio()
    try:
        with module.open(path) as file:
            return file.dtypes == ("uint8",)
    except module.errors.RasterioError:
        return False


def read_mask(path: Path, longest: int) -> np.ndarray:
    """Reads a mask written by this program, (H, W) uint8."""
    return read_bounded(path, longest)[0].astype(np.uint8)


def read_classes(path: Path, longest: int, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Reads a label of indices or palette colours: (H, W) uint8, IGNORE_INDEX for other values.

    Args:
        path: the label.
        longest: see `read_bounded`.
        palette: K + 1 colours, the first is "unchanged".
    """
    stored = read_bounded(path, longest)
    colours = stored[:3] if len(stored) >= 3 else _own_colours(path, stored[0], palette)
    if colours is None:
        return np.where(stored[0] < len(palette), stored[0], IGNORE_INDEX).astype(np.uint8)
    classes = np.full(colours.shape[1:], IGNORE_INDEX, np.uint8)
    for index, colour in enumerate(palette):
        classes[(colours == np.reshape(colour, (3, 1, 1))).all(0)] = index
    return classes


def _own_colours(path: Path, stored: np.ndarray, palette: Sequence) -> np.ndarray | None:
    """(3, H, W) colours of a palette file that orders the known colours differently, else None."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            own = image.getpalette("RGB") if image.mode == "P" else None
    except (UnidentifiedImageError, OSError):
        return None
    used = np.unique(stored)
    if own is None or used[-1] * 3 + 2 >= len(own):
        return None
    table = np.reshape(own[: len(own) // 3 * 3], (-1, 3))
    known = {tuple(colour) for colour in palette}
    in_order = used[-1] < len(palette) and (table[used] == np.asarray(palette)[used]).all()
    if in_order or not {tuple(colour) for colour in table[used].tolist()} <= known:
        return None
    return table[stored].transpose(2, 0, 1)


def find_sources(
    part: str, names: Iterable[str], roots: Iterable[Path], folders: Mapping[str, str]
) -> Sources | None:
    """Finds the images and labels of a part's tiles; None if no root has all images.

    Args:
        part: train, val, test or any other.
        names: ids of tiles.
        roots: folders of data sets to search.
        folders: replacements of standard folder names, as in --folders.
    """
    names = set(names)
    others = {"val": ("train",), "test": ("val",)}.get(part, ())
    for root in roots:
        for base in (*(root / folders.get(p, p) for p in (part, *others)), root):
            for dates, labels in LAYOUTS:
                fields = ("im1", "im2") if len(dates) == 2 else ("images",)
                chosen = [folders.get(f, d) for f, d in zip(fields, dates, strict=True)]
                images = tuple(files_by_id(base / name) for name in chosen)
                if names and all(names <= found.keys() for found in images):
                    truth = tuple(files_by_id(base / folders.get(d, d)) for d in labels)
                    whole = all(names <= found.keys() for found in truth)
                    return Sources(images, truth if whole else ())
    return None


def data_roots(outdir: Path, options: Mapping[str, Any], given: Path | None) -> list[Path]:
    """Folders that may hold the data set of an output, most likely first, without duplicates."""
    found = [given] if given else []
    for key in read_json(outdir / "data_check.json") or {}:  # "ROOT/part" or "ROOT part"
        root, _, part = key.rpartition(" ")
        found.append(Path(root) if root and Path(part).name == part else Path(key).parent)
    if options.get("data_root"):
        found.append(Path(options["data_root"]))
    found.append(Path("data/dataset"))
    return [root for root in dict.fromkeys(found) if root.is_dir()]


def scheme_of_checkpoint(path: Path) -> Scheme | None:
    """The scheme of a checkpoint of this project; None if the file is missing or has none."""
    try:
        recipe = read_file(path)["recipe"]
        values = {field: recipe[field] for field in Scheme._fields if field in recipe}
        values["palette"] = [tuple(colour) for colour in values["palette"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Scheme(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def scheme_of_masks(path: Path, dates: int) -> Scheme:
    """Guesses the scheme from a mask's palette: a known scheme, or classes without names.

    Args:
        path: a palette PNG, or a GeoTIFF with a colour table.
        dates: number of masks of a tile; binary change also has 1.
    """
    with rasterio().open(path) as file:
        try:
            table = file.colormap(1)
        except ValueError:
            return schemes.change_scheme(("red", "green", "blue"), "none")
    palette = tuple(tuple(table[i][:3]) for i in sorted(table))
    for known in (schemes.SECOND, schemes.NAIC2020, schemes.change_scheme(("1", "2", "3"), "none")):
        if palette[: len(known.palette)] == known.palette:
            return known
    used = max(i for i, colour in enumerate(palette) if any(colour) or i == 0)
    classes = tuple(f"class {i}" for i in range(1, used + 1))
    task = "semantic_change" if dates == 2 else "land_cover"
    return Scheme(task, classes, palette[: used + 1])


def finite(value: Any) -> float | None:
    """A finite number as float; None for anything else."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None
