"""The maps of predict.py, read for a report: pictures at a bounded size, and sums of all pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.gdal import rasterio
from utils.report_files import bounded, read_bounded
from utils.report_tiles import Picture
from utils.results import tile_images
from utils.schemes import CHANGE_PALETTE, WHITE
from utils.structures import IGNORE_INDEX, Scheme

STRIP_PX = 1 << 22  # pixels counted at a time

Amounts = tuple[np.ndarray | None, np.ndarray | None, float, str]  # see report_data.Amounts


def find_maps(folder: Path) -> list[Path]:
    """The folders of maps: this one, or those in it; empty where there are none."""
    if is_map(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in inside if is_map(path)]


def is_map(folder: Path) -> bool:
    """Whether predict.py wrote a map here."""
    return (folder / "change.tif").exists() or (folder / "classes.tif").exists()


def scheme_of_maps(folder: Path, record: Mapping[str, Any]) -> Scheme:
    """Task, classes and palette of a map, by predict.json, or else its own tags and colours."""
    if {"task", "classes", "palette"} <= record.keys():
        palette = tuple(tuple(colour) for colour in record["palette"])
        return Scheme(record["task"], tuple(record["classes"]), palette)
    land_cover = (folder / "classes.tif").exists()
    path = folder / ("classes.tif" if land_cover else "date1.tif")
    if not path.exists():
        return Scheme("binary_change", (), CHANGE_PALETTE)
    with rasterio().open(path) as file:
        tags, table = file.tags(1), file.colormap(1)
    numbers = sorted(int(k[6:]) for k in tags if k.startswith("CLASS_") and k[6:].isdecimal())
    classes = tuple(tags[f"CLASS_{number}"] for number in numbers if number > 0)
    palette = (WHITE, *(tuple(table[number][:3]) for number in numbers if number > 0))
    return Scheme("land_cover" if land_cover else "semantic_change", classes, palette)


def read_map(
    folder: Path, record: Mapping[str, Any], scheme: Scheme, longest: int
) -> tuple[Picture, Amounts, str]:
    """One map to look at, what changed in it, and a remark.

    Args:
        folder: of the map.
        record: predict.json.
        scheme: classes and palette.
        longest: largest side of the picture in pixels.
    """
    first = folder / ("classes.tif" if scheme.task == "land_cover" else "change.tif")
    with rasterio().open(first) as file:
        size, grid = (file.height, file.width), (file.crs, file.transform)
    shown = bounded(size, longest)
    images, note = _images(
        [Path(path) for path in record.get("images", ())], scheme, size, shown, grid
    )
    maps = {name: _read(folder / f"{name}.tif", longest) for name in _names(scheme)}
    pred, changed = _masks(maps, scheme)
    probability = _read(
        folder / f"{'confidence' if scheme.task == 'land_cover' else 'change_probability'}.tif",
        longest,
    )
    name = " → ".join(Path(path).name for path in record.get("images", ())) or folder.name
    picture = Picture(
        name, images, pred, changed=changed, probability=probability, step=size[0] / shown[0]
    )
    remarks = [_place(size, grid[0], picture.step), record.get("warped"), note]
    return picture, _amounts(folder, scheme), " ".join(str(text) for text in remarks if text)


def _place(size: tuple[int, int], crs: Any, step: float) -> str:
    """Size and reference system of a map in a sentence."""
    where = f" in {crs.to_string()}" if crs and len(crs.to_string()) < 20 else ""
    smaller = f", drawn 1 : {step:.3g}" if step > 1 else ""
    return f"{size[1]:,} x {size[0]:,} pixels{where}{smaller}."


def _names(scheme: Scheme) -> tuple[str, ...]:
    if scheme.task == "land_cover":
        return ("classes",)
    return ("change", "date1", "date2") if scheme.classes else ("change",)


def _read(path: Path, longest: int) -> np.ndarray | None:
    return read_bounded(path, longest)[0] if path.exists() else None


def _masks(
    maps: Mapping[str, np.ndarray | None], scheme: Scheme
) -> tuple[np.ndarray, np.ndarray | None]:
    """Classes (D, h, w), IGNORE_INDEX = no data, and where they changed if they are everywhere."""
    if scheme.task == "land_cover":
        return maps["classes"][None], None
    change = maps["change"]
    if maps.get("date1") is None or maps.get("date2") is None:
        return change[None], None
    dates = np.stack([maps["date1"], maps["date2"]])
    changed = change == 1
    everywhere = ((dates > 0) & (dates != IGNORE_INDEX) & ~changed).any()
    return dates, changed if everywhere else None


def _amounts(folder: Path, scheme: Scheme) -> Amounts:
    """From-to sums of the whole map: hectares where its pixels have an area, else pixels."""
    transition = folder / "transition.tif"
    k = scheme.num_classes
    if scheme.task == "land_cover":
        sums, unit = _sums(folder / "classes.tif", k + 1)
        return None, sums[1:], float(sums[1:].sum()), unit
    if k and transition.exists():
        sums, unit = _sums(transition, k * k + 1)
        return sums[1:].reshape(k, k), None, float(sums.sum()), unit
    sums, unit = _sums(folder / "change.tif", 2)
    return sums[1:].reshape(1, 1), None, float(sums.sum()), unit


def _sums(path: Path, states: int) -> tuple[np.ndarray, str]:
    """Area of each value 0..states - 1, and its unit, "ha" or "px"; strip by strip."""
    from utils.areas import M2_PER_HA, PixelAreas

    total = np.zeros(states)
    with rasterio().open(path) as file:
        areas = PixelAreas(file.crs, file.transform, file.height, file.width)
        rows = max(1, STRIP_PX // file.width)
        for top in range(0, file.height, rows):
            count = min(rows, file.height - top)
            window = rasterio().windows.Window(0, top, file.width, count)
            values = file.read(1, window=window).astype(np.int64)
            known = (values >= 0) & (values < states)
            weights = _weights(areas, top, count, file.width)
            weights = None if weights is None else weights[known]
            total += np.bincount(values[known], weights, minlength=states)
    return (total, "px") if areas.method is None else (total / M2_PER_HA, "ha")


def _weights(areas: Any, top: int, rows: int, width: int) -> np.ndarray | None:
    """(rows, width) square metres of each pixel; None where areas are not known."""
    if areas.method is None:
        return None
    return np.nan_to_num(np.broadcast_to(areas.strip(top, rows), (rows, width)))


def _images(
    paths: list[Path],
    scheme: Scheme,
    size: tuple[int, int],
    shown: tuple[int, int],
    grid: tuple[Any, Any],
) -> tuple[np.ndarray | None, str]:
    """The dates on the map's grid, (T, h, w, 3) uint8; None and why where they are not there."""
    missing = [str(path) for path in paths if not path.exists()]
    if len(paths) < scheme.num_dates or missing:
        which = ", ".join(missing) if missing else "the images"
        return None, f"{which} not found: the map is shown without what lies under it."
    dates = [_on_grid(path, size, shown, grid) for path in paths[: scheme.num_dates]]
    pictures = [
        tile_images(
            torch.from_numpy(date)[None], scheme.bands if len(scheme.bands) == len(date) else ()
        )
        for date in dates
    ]
    return np.concatenate(pictures), ""


def _on_grid(
    path: Path, size: tuple[int, int], shown: tuple[int, int], grid: tuple[Any, Any]
) -> np.ndarray:
    """(C, h, w) of one date where the map lies, warped there if it lies elsewhere."""
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    crs, transform = grid
    with rasterio().open(path) as file:
        count = 3 if file.count == 4 and file.dtypes[0] == "uint8" else file.count
        bands = list(range(1, count + 1))
        same = file.shape == size and (file.crs, file.transform) == (crs, transform)
        if same or crs is None or file.crs is None:
            how = {"out_shape": (count, *shown), "resampling": Resampling.average}
            pixels = file.read(bands, masked=True, **how)
        else:
            x, y = size[1] / shown[1], size[0] / shown[0]  # pixels of the map in one that is shown
            a, b, c, d, e, f = transform[:6]
            scaled = type(transform)(a * x, b * y, c, d * x, e * y, f)
            place = {"crs": crs, "transform": scaled, "width": shown[1], "height": shown[0]}
            with WarpedVRT(file, resampling=Resampling.bilinear, **place) as warped:
                pixels = warped.read(bands, masked=True)
    return _without_gaps(pixels)


def _without_gaps(pixels: np.ma.MaskedArray) -> np.ndarray:
    """8-bit bands as they are; others as float32, with a dark value where there is no data."""
    if pixels.dtype == np.uint8:
        return pixels.filled(0)
    known = pixels.astype(np.float32).filled(np.nan)
    known[~np.isfinite(known)] = np.nan
    dark = 0.0 if np.isnan(known).all() else np.nanpercentile(known, 2)
    return np.where(np.isnan(known), np.float32(dark), known)
