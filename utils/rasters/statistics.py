"""Mean and standard deviation of whole images, streamed."""

from collections.abc import Sequence

import numpy as np

from utils.rasters.raster import Raster
from utils.rasters.reading import strips
from utils.rasters.windows import Window

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(3, h, w) red, green, blue -> (1, h, w) float64."""
    return np.tensordot(np.array(GREY), pixels.astype(np.float64), 1)[None]


def measured(raster: Raster, window: Window, bands: Sequence[int]) -> np.ndarray:
    """The pixels of a window inside an image as float64, NaN where there are no data.

    Where only some bands have their nodata value, the others count.
    """
    pixels = raster.read(window, bands)
    missing, masked = raster.missing(pixels, bands), raster.masked(window, bands)
    values = pixels.astype(np.float64)
    if missing is not None:
        values[missing] = np.nan
    if masked is not None:
        values[:, masked] = np.nan
    return values


def mean_and_std(
    raster: Raster, bands: Sequence[int], *, joint: bool = False, grey: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of a whole image, streamed.

    Pixels without data do not count, see `measured`.

    Args:
        raster: the image.
        bands: C bands, numbered from 0.
        joint: one mean and deviation over all bands; otherwise per band.
        grey: of the grey value of the three bands.

    Returns:
        Two float64 arrays, (C or 1, 1, 1). The deviation of a constant image (up to rounding) is
        given as 1, to allow division.
    """
    groups = 1 if joint or grey else len(bands)
    count, mean, squares = np.zeros((3, groups))
    for window in strips(raster):
        pixels = measured(raster, window, bands)
        pixels = to_grey(pixels) if grey else pixels
        for group, values in enumerate(pixels.reshape(groups, -1)):
            values = values[np.isfinite(values)]
            if values.size:  # combine the moments of two sets
                total, shift = count[group] + values.size, values.mean() - mean[group]
                squares[group] += ((values - values.mean()) ** 2).sum()
                squares[group] += shift**2 * count[group] * values.size / total
                mean[group] += shift * values.size / total
                count[group] = total
    std = np.sqrt(squares / np.maximum(count, 1))
    std[std <= 1e-7 * np.abs(mean)] = 1
    return mean[:, None, None], std[:, None, None]
