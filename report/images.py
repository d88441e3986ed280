"""Reads the images of a map for display: their bands, on the map's grid, at a bounded size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.figures.tiles import shown_bands, tile_images
from utils.rasters.gdal import rasterio
from utils.structures import Scheme


class Grid(NamedTuple):
    """Georeference of a map, its size, and the size of its picture."""

    size: tuple[int, int]  # (height, width) of the map in pixels
    shown: tuple[int, int]  # (height, width) of the picture in pixels
    crs: Any  # a rasterio CRS, or None
    transform: Any


def read_dates(
    record: Mapping[str, Any], scheme: Scheme, grid: Grid
) -> tuple[np.ndarray | None, str]:
    """Images of all dates on the map's grid, (T, h, w, 3) uint8, with a common contrast stretch.

    If the images are missing: None, and a text that says so; otherwise the text is empty.

    Args:
        record: predict.json with the paths "images", and the 1-based "band_numbers" of "bands".
            If it has no bands, those of the scheme are used if their number is that of the file.
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
    count = min(map(len, chosen))  # three, or one for all dates
    dates = [_on_grid(p, b[:count], grid) for p, b in zip(paths, chosen, strict=True)]
    return tile_images(torch.from_numpy(_without_gaps(np.ma.stack(dates)))), ""


def _chosen(path: Path, date: int, record: Mapping[str, Any], scheme: Scheme) -> list[int]:
    """1-based numbers of the bands to display: three, or one."""
    with rasterio().open(path) as file:
        count = 3 if file.count == 4 and file.dtypes[0] == "uint8" else file.count
    try:
        names, numbers = list(record["bands"]), [int(n) for n in record["band_numbers"][date]]
    except (KeyError, IndexError, TypeError, ValueError):
        names = list(scheme.bands) if len(scheme.bands) == count else []
        numbers = list(range(1, count + 1))
    return [numbers[i] for i in shown_bands(len(numbers), names)]


def _on_grid(path: Path, bands: list[int], grid: Grid) -> np.ma.MaskedArray:
    """(C, h, w) pixels of one date on the map's grid, warped if its grid differs."""
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
        georeference = {"crs": grid.crs, "transform": scaled, "width": w, "height": h}
        with WarpedVRT(file, resampling=Resampling.bilinear, **georeference) as warped:
            return warped.read(bands, masked=True)


def _without_gaps(pixels: np.ma.MaskedArray) -> np.ndarray:
    """8-bit bands with 0 where there is no data; others as float32 with a dark value there."""
    if pixels.dtype == np.uint8:
        return pixels.filled(0)
    known = pixels.astype(np.float32).filled(np.nan)
    known[~np.isfinite(known)] = np.nan
    dark = 0.0 if np.isnan(known).all() else np.nanpercentile(known, 2)
    return np.where(np.isnan(known), np.float32(dark), known)
