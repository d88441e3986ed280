"""The images under a map: the bands that networks read, on the map's grid, at a bounded size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.figures.tiles import shown_bands, tile_images
from utils.rasters.gdal import rasterio
from utils.structures import Scheme


class Grid(NamedTuple):
    """Where a map lies, and how large it is shown."""

    size: tuple[int, int]  # (height, width) in pixels
    shown: tuple[int, int]  # the same of the picture
    crs: Any  # of rasterio; None for none
    transform: Any


def read_dates(
    record: Mapping[str, Any], scheme: Scheme, grid: Grid
) -> tuple[np.ndarray | None, str]:
    """The dates on the map's grid, (T, h, w, 3) uint8, stretched alike; None and why if gone.

    Args:
        record: predict.json; "images" are read, in each the bands that "band_numbers" (from 1)
            gives for the names "bands", or else those of the scheme if it has as many as the file.
        scheme: of the map.
        grid: of the map.
    """
    paths = [Path(path) for path in record.get("images", ())]
    missing = [str(path) for path in paths if not path.exists()]
    if len(paths) < scheme.num_dates or missing:
        which = ", ".join(missing) if missing else "the images"
        return None, f"{which} not found: the map is shown without what lies under it."
    paths = paths[: scheme.num_dates]
    chosen = [_chosen(path, date, record, scheme) for date, path in enumerate(paths)]
    count = min(map(len, chosen))  # three, or one: then of all
    dates = [_on_grid(p, b[:count], grid) for p, b in zip(paths, chosen, strict=True)]
    return tile_images(torch.from_numpy(_without_gaps(np.ma.stack(dates)))), ""


def _chosen(path: Path, date: int, record: Mapping[str, Any], scheme: Scheme) -> list[int]:
    """Numbers, from 1, of the bands that make a picture: three, or one."""
    with rasterio().open(path) as file:
        count = 3 if file.count == 4 and file.dtypes[0] == "uint8" else file.count
    try:
        names, numbers = list(record["bands"]), [int(n) for n in record["band_numbers"][date]]
    except (KeyError, IndexError, TypeError, ValueError):
        names = list(scheme.bands) if len(scheme.bands) == count else []
        numbers = list(range(1, count + 1))
    return [numbers[i] for i in shown_bands(len(numbers), names)]


def _on_grid(path: Path, bands: list[int], grid: Grid) -> np.ma.MaskedArray:
    """(C, h, w) of one date where the map lies, warped there if it lies elsewhere."""
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    with rasterio().open(path) as file:
        same = file.shape == grid.size
        same = same and (file.crs, file.transform) == (grid.crs, grid.transform)
        if same or grid.crs is None or file.crs is None:
            how = {"out_shape": (len(bands), *grid.shown), "resampling": Resampling.average}
            return file.read(bands, masked=True, **how)
        (height, width), (h, w) = grid.size, grid.shown
        x, y = width / w, height / h  # pixels of the map in one that is shown
        a, b, c, d, e, f = grid.transform[:6]
        scaled = type(grid.transform)(a * x, b * y, c, d * x, e * y, f)
        place = {"crs": grid.crs, "transform": scaled, "width": w, "height": h}
        with WarpedVRT(file, resampling=Resampling.bilinear, **place) as warped:
            return warped.read(bands, masked=True)


def _without_gaps(pixels: np.ma.MaskedArray) -> np.ndarray:
    """8-bit bands as they are; others as float32, with a dark value where there is no data."""
    if pixels.dtype == np.uint8:
        return pixels.filled(0)
    known = pixels.astype(np.float32).filled(np.nan)
    known[~np.isfinite(known)] = np.nan
    dark = 0.0 if np.isnan(known).all() else np.nanpercentile(known, 2)
    return np.where(np.isnan(known), np.float32(dark), known)
