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


def mean_and_std(
    images: Sequence[tuple[Raster, Sequence[int]]], *, joint: bool = False, grey: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and population standard deviation of whole images of one place, streamed.

    Only pixels that have data in all other images count. Of a pixel in which some bands of an image
    have their nodata value, the others count.

    Args:
        images: of one size, such as the dates of a scene, each with its C bands, from 0.
        joint: one mean and deviation over all bands; otherwise per band.
        grey: of the grey value of the three bands.

    Returns:
        For each image, two float64 arrays, (C or 1, 1, 1). The deviation of a constant image (up to
        rounding) is given as 1, to allow division.
    """
    sums = [_Moments(1 if joint or grey else len(bands)) for _, bands in images]
    for window in strips(images[0][0]):
        values, known = zip(*(_measured(*image, window) for image in images), strict=True)
        for number, (one, pixels) in enumerate(zip(sums, values, strict=True)):
            for other, valid in enumerate(known):
                if other != number and valid is not None:
                    pixels[:, ~valid] = np.nan
            one.add(to_grey(pixels) if grey else pixels)
    return [one.result() for one in sums]


def _measured(
    raster: Raster, bands: Sequence[int], window: Window
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels of a window as float64, NaN where a band has no data; and `Raster.valid`."""
    pixels = raster.read(window, bands)
    missing, masked = raster.missing(pixels, bands), raster.masked(window, bands)
    values = pixels.astype(np.float64)
    if missing is not None:
        values[missing] = np.nan
    if masked is not None:
        values[:, masked] = np.nan
    return values, raster.valid(window, bands, pixels) if raster.may_have_gaps else None


class _Moments:
    """Running mean and sum of squared differences of groups of bands."""

    def __init__(self, groups: int):
        self.count, self.mean, self.squares = np.zeros((3, groups))

    def add(self, pixels: np.ndarray) -> None:
        """Combines the moments so far with those of more pixels, (C, h, w)."""
        for group, values in enumerate(pixels.reshape(len(self.count), -1)):
            values = values[np.isfinite(values)]
            if values.size:
                total = self.count[group] + values.size
                shift, mean = values.mean() - self.mean[group], values.mean()
                self.squares[group] += ((values - mean) ** 2).sum()
                self.squares[group] += shift**2 * self.count[group] * values.size / total
                self.mean[group] += shift * values.size / total
                self.count[group] = total

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, (groups, 1, 1)."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        std[std <= 1e-7 * np.abs(self.mean)] = 1
        return self.mean[:, None, None], std[:, None, None]
