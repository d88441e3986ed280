"""Checks of the images of a map: bands, data type and georeference."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.bands import (
    GREY,
    band_names,
    band_numbers,
    bands_in_file,
    common_names,
    named,
)
from utils.rasters.grids import grid_difference
from utils.rasters.reading import FileRaster
from utils.schemes import S1_BANDS, S2_BANDS
from utils.structures import Scheme

SAMPLES = 200  # points per side, to estimate the overlap of two images


def refuse_cut(file: Any, path: Path) -> None:
    """Raises OSError for a truncated TIFF; other formats raise an error when they are read.

    `file`: an open rasterio file.
    """
    if file.driver != "GTiff" or not path.is_file():
        return
    size = path.stat().st_size
    apart = file.interleaving is not None and file.interleaving.name == "band"
    for band in range(1, file.count + 1 if apart else 2):
        high, wide = file.block_shapes[band - 1]
        for y in range(-(-file.height // high)):
            for x in range(-(-file.width // wide)):
                start, length = (
                    file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=band)
                    for what in ("OFFSET", "SIZE")
                )
                if start is not None and int(start) + int(length) > size:
                    raise OSError(
                        f"cut off: it has {size} bytes, and pixels from byte {start} on are "
                        "missing. Copy it again."
                    )


def refuse_other_counts(images: Sequence[Any]) -> None:
    """Raises ValueError unless all GridImages have the same number of bands."""
    if len({len(image.colours) for image in images}) > 1:
        counts = " and ".join(f"{image.path} has {len(image.colours)} band(s)" for image in images)
        raise ValueError(f"{counts}; say which to read of both with --bands")


def refuse_other_orders(
    images: Sequence[tuple[Any, Sequence[int]]], scheme: Scheme, given: Sequence[str] | None
) -> None:
    """Raises ValueError if bands are read by number, and two dates name them differently.

    Args:
        images: GridImages, each with the indices of the bands that are read.
        scheme: of the networks.
        given: --bands, or None.
    """
    if given is not None or named(scheme.bands) or len(images) < 2:
        return
    names = []
    for image, bands in images:
        there = common_names(image.names)
        names.append([there[band] for band in bands])
    if any(a != b and a is not None and b is not None for a, b in zip(*names, strict=True)):
        texts = [
            f"{image.path}: {' '.join(map(str, one))}"
            for (image, _), one in zip(images, names, strict=True)
        ]
        raise ValueError(
            f"the dates name their bands differently ({'; '.join(texts)}), and these networks read "
            f"{' '.join(scheme.bands)} by number. Store them in one order, for example with "
            "gdal_translate -b 3 -b 2 -b 1, or pass --bands if the names are wrong."
        )


def bands_to_read(
    image: Any, scheme: Scheme, given: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Indices in `image.colours` of the bands to read, in the order of the scheme's bands.

    Args:
        image: a GridImage.
        scheme: of the networks.
        given: --bands; None = by the scheme's names, see `bands_in_file`. Sentinel bands are found
            by their descriptions. Without, they are taken in order if the image has exactly as many
            as the scheme, or by number if it has all Sentinel-2 bands.

    Raises:
        ValueError: the image has too few bands, or `given` has not as many as the networks read.
    """
    wanted, there = scheme.bands, len(image.colours)
    needed = 3 if wanted == GREY and there > 1 else len(wanted)
    if given is not None:
        names = band_names(given)
        numbers = band_numbers(names)
        if len(numbers) != needed:
            raise ValueError(
                f"--bands {' '.join(given)}: {len(numbers)} band(s), but these networks read "
                f"{needed} ({' '.join(wanted)}); name them in that order"
            )
        numbers = bands_in_file(image.path, image.colour_names, named(names), numbers)
    elif wanted == GREY and there == 1:
        numbers = (0,)
    elif wanted[0] in (*S1_BANDS, *S2_BANDS):
        numbers = _sentinel_numbers(image, wanted)
    else:
        numbers = band_numbers(wanted)
        numbers = bands_in_file(image.path, image.colour_names, named(wanted), numbers)
    if there <= max(numbers) < image.count:
        raise ValueError(
            f"{image.path}: band {max(numbers) + 1} is marked as alpha, which says where there are "
            "data and is no band to read. If it holds measurements, such as near infrared, say so "
            f"in the file: gdal_edit.py -colorinterp_{max(numbers) + 1} undefined {image.path}"
        )
    if max(numbers) >= there:
        raise ValueError(
            f"{image.path} has {there} band(s), but band {max(numbers) + 1} is to be read; these "
            f"networks read {' '.join(wanted)}. Choose bands with --bands, or other networks "
            "(--checkpoints)."
        )
    return numbers


def _sentinel_numbers(image: Any, wanted: Sequence[str]) -> tuple[int, ...]:
    there, names = len(image.colours), [*map(sentinel_name, image.colour_names)]
    if all(names.count(name) == 1 for name in wanted):
        return tuple(map(names.index, wanted))
    if there == len(wanted):
        return tuple(range(there))
    if there == len(S2_BANDS) and set(wanted) <= set(S2_BANDS):
        return tuple(map(S2_BANDS.index, wanted))
    raise ValueError(
        f"{image.path} has {there} bands, these networks read {len(wanted)}: {' '.join(wanted)}. "
        "Say which they are with --bands."
    )


def sentinel_name(text: str | None) -> str | None:
    """B2 for a band that is described as b2 or b02."""
    return None if text is None else re.sub(r"^B0(?=\d)", "B", text.upper())


def compare_grids(first: FileRaster, second: FileRaster, strict: bool = False) -> str | None:
    """Describes how the grids of two images differ, and how much of the first the second covers.

    Returns:
        A text for the user; None if the grids are the same, so that date 2 needs no warping.

    Raises:
        ValueError: grids differ with `strict`, or without a CRS; or the images do not overlap.
    """
    sizes = [(image.height, image.width) for image in (first, second)]
    faults = [grid_difference(first, second)]
    if sizes[0] != sizes[1]:
        faults.insert(0, "size " + " and ".join(f"{w} x {h} px" for h, w in sizes))
    what = ", ".join(fault for fault in faults if fault)
    if not what:
        return None
    if strict:
        raise ValueError(
            f"{first.path} and {second.path} lie on different grids ({what}); leave out "
            "--strict-grid to have date 2 warped"
        )
    lacking = [i.path for i in (first, second) if i.crs is None or i.transform is None]
    if lacking:
        raise ValueError(
            f"{first.path} and {second.path} differ ({what}), and where on earth they lie is "
            f"missing in {' and '.join(map(str, lacking))}. Add CRS and corners (gdal_edit.py "
            "-a_srs EPSG:... -a_ullr ...), or pass images of one size, none with a CRS."
        )
    share = covered(first, second)
    if share == 0 and covered(second, first) == 0:
        extents = " and ".join(f"{i.path} spans {_span(i)}" for i in (first, second))
        raise ValueError(f"the images do not overlap: {extents}; check which belong together")
    return f"{what}; date 2 is warped onto the grid of date 1 and covers about {share:.0%} of it"


def covered(first: FileRaster, second: FileRaster) -> float:
    """Share of the first image's area that the second covers, 0..1, estimated at grid points."""
    from rasterio.warp import transform

    columns, rows = (_samples(size) for size in (first.width, first.height))
    columns, rows = np.meshgrid(columns, rows)
    xs, ys = transformed(first.transform, columns.ravel(), rows.ravel())
    try:
        xs, ys = map(np.asarray, transform(first.crs, second.crs, xs, ys))
    except Exception:  # PROJ: out of the projection's domain
        return 0.0
    columns, rows = transformed(~second.transform, xs, ys)
    inside = (columns >= 0) & (columns < second.width) & (rows >= 0) & (rows < second.height)
    return float(inside.mean())


def _samples(size: int) -> np.ndarray:
    """Positions along a side of an image, in pixels; includes the centres of the outer pixels."""
    return np.linspace(0.5, size - 0.5, min(size, SAMPLES))


def transformed(transform: Any, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Applies an affine transform to points."""
    a, b, c, d, e, f = transform[:6]
    return a * xs + b * ys + c, d * xs + e * ys + f


def _span(image: FileRaster) -> str:
    xs, ys = transformed(image.transform, np.array([0, image.width]), np.array([0, image.height]))
    digits = 5 if image.crs.is_geographic else 0
    corners = zip(xs, ys, strict=True)
    numbers = " to ".join(f"({x:.{digits}f}, {y:.{digits}f})" for x, y in corners)
    return f"{numbers} in {image.crs.to_string()[:40]}"
