"""What the values of the images of a map stand for: checks of samples, and notes for the user."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datasets.bands import band_numbers, common_names, named
from datasets.preparation import Preparation
from utils.rasters.raster import Raster
from utils.rasters.windows import Window
from utils.schemes import S2_BANDS
from utils.structures import Scheme

SAMPLE_PX, SAMPLES = 64, 3  # windows of a sample: their side, and how many along each side
S2_ADDED = 1000  # digital number that Sentinel-2 products have had for reflectance 0 since 2022
DARK = 2  # percentile
SHIFT = 30  # of 255: what the darkest pixels of two dates may differ by in every band


def value_notes(
    images: Sequence[tuple[Any, Sequence[int]]], scheme: Scheme, given: Sequence[str] | None
) -> list[str]:
    """Notes on bands, gaps and values of the images of a map.

    Args:
        images: GridImages, each with the indices of the bands that are read.
        scheme: of the networks.
        given: --bands, or None.

    Raises:
        ValueError: values that the networks cannot have been trained on.
    """
    notes, darkest = [], []
    for image, bands in images:
        notes += [f"{image.path}: {note}" for note in _file_notes(image, bands, scheme, given)]
        values = sampled(image, bands)
        Preparation(scheme).check_values(image.path, values, image.units(bands))
        if (note := _offset_note(image, bands, values, scheme)) is not None:
            notes.append(f"{image.path}: {note}")
        darkest.append(np.percentile(values, DARK, axis=1) if values.size else None)
    if len(images) == 2 and scheme.scale == 255 and all(found is not None for found in darkest):
        shift = darkest[1] - darkest[0]
        if (shift > SHIFT).all() or (shift < -SHIFT).all():
            brighter = images[1 if shift[0] > 0 else 0][0].path
            notes.append(
                f"{brighter}: even its darkest pixels are brighter than those of the other date, "
                f"by {np.abs(shift).min():.0f} or more of 255 in every band. That is haze, or an "
                "offset, such as Sentinel-2's of 1000 since 2022; subtract it before images are "
                "scaled to 8 bits, or change is found where there is none"
            )
    return notes


def _file_notes(
    image: Any, bands: Sequence[int], scheme: Scheme, given: Sequence[str] | None
) -> list[str]:
    """How the file itself says that it is to be read."""
    notes = []
    if len(image.colours) < image.count:
        alpha = min({*range(image.count)} - {*image.colours})
        notes.append(
            f"band {alpha + 1} is marked as alpha, so it says where there are data",
        )
    names = named(scheme.bands) if given is None else ()
    there = common_names(image.names)
    if names and tuple(bands) != band_numbers(names):
        found = ", ".join(f"{name} {band + 1}" for name, band in zip(names, bands, strict=True))
        notes.append(f"bands are read by the names in the file: {found}")
    elif names and any(there) and not {*names} & {*there}:
        found = ", ".join(
            f"{name} is band {band + 1} ({there[band]})"
            for name, band in zip(names, bands, strict=True)
        )
        notes.append(f"{found}: by their order, as their names are others. --bands says otherwise")
    if image.by_points:
        pixel = np.hypot(*np.reshape(image.transform[:6], (2, 3))[:, 0])
        notes.append(
            f"placed by its {image.by_points} ground control points, warped onto a grid of "
            f"{image.width} x {image.height} px of {pixel:.3g} {_unit(image.crs)}"
        )
    if not image.may_have_gaps and (value := constant_corner(image, bands)) is not None:
        notes.append(
            f"a corner of {SAMPLE_PX // 2} px holds nothing but {value:g}, and the file has no "
            f"nodata value. If there are no data, pass --nodata {value:g}"
        )
    return notes


def _offset_note(
    image: Any, bands: Sequence[int], values: np.ndarray, scheme: Scheme
) -> str | None:
    """What is to be said on the offset of Sentinel-2's values; None: nothing."""
    optical = [i for i, name in enumerate(scheme.bands) if name in S2_BANDS]
    units = image.units(bands)
    if not optical:
        return None
    if units is not None:
        scale, offset = (float(numbers[optical[0], 0, 0]) for numbers in units)
        return f"reflectance is the stored value x {scale:g} {offset:+g}"
    least = values[optical].min() if values.size else 0
    if least < S2_ADDED:
        return None
    return (
        f"no value is below {least:g}. Products of Sentinel-2 since January 2022 (baseline 04.00) "
        f"have {S2_ADDED} added to all values; if this is one, pass --offset -{S2_ADDED}"
    )


def sampled(image: Raster, bands: Sequence[int]) -> np.ndarray:
    """(C, N) stored values with data, of windows spread over an image."""
    height, width = min(SAMPLE_PX, image.height), min(SAMPLE_PX, image.width)
    found = []
    for top in np.linspace(0, image.height - height, SAMPLES).astype(int):
        for left in np.linspace(0, image.width - width, SAMPLES).astype(int):
            window = Window(int(top), int(left), height, width)
            pixels = image.read(window, bands)
            valid = image.valid(window, bands, pixels)
            found.append(pixels.reshape(len(pixels), -1) if valid is None else pixels[:, valid])
    return np.concatenate(found, axis=1)


def constant_corner(image: Raster, bands: Sequence[int]) -> float | None:
    """The only value of a corner of an image, in all bands; None: all corners hold several."""
    side = min(SAMPLE_PX // 2, image.height, image.width)
    for top in (0, image.height - side):
        for left in (0, image.width - side):
            pixels = image.read(Window(top, left, side, side), bands)
            if (pixels == pixels.flat[0]).all():
                return float(pixels.flat[0])
    return None


def _unit(crs: Any) -> str:
    return "degrees" if crs.is_geographic else crs.linear_units
