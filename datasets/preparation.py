"""Prepares stored pixels for the networks: scaling, grey, standardisation, gaps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.bands import GREY
from datasets.sentinel.scaling import S2_MOST, scale_s1, scale_s2
from utils.rasters.raster import Raster, Units
from utils.rasters.statistics import mean_and_std, to_grey
from utils.schemes import S1_BANDS, S2_BANDS
from utils.structures import Scheme

RANGES = (  # bands; what networks read; what is wrong with values; remedy
    (
        S2_BANDS,
        f"digital numbers ({S2_MOST} = reflectance 1)",
        lambda values: values.max() <= (255 if values.dtype == np.uint8 else 2),
        "say with --scale what a value stands for (1: it is reflectance), or pass another file",
    ),
    (
        S1_BANDS,
        "decibel, mostly below 0",
        lambda values: values.min() >= 0,
        "convert them: 10 * log10(value)",
    ),
)
Moments = tuple[np.ndarray, np.ndarray]  # mean and standard deviation, (C or 1, 1, 1) float64


class Preparation:
    """Stored pixels of one date -> input of the networks' own normalisation.

    Bands named as Sentinel's are scaled to 0..1. "grey" combines red, green and blue. If the scheme
    standardises, the result is (pixel - mean) / deviation by the statistics of the whole image.
    Pixels without data become the mean.

    Args:
        scheme: bands and standardisation of the networks.
        scaled: Sentinel's bands are scaled to finite numbers as they are read.
    """

    def __init__(self, scheme: Scheme, scaled: bool = False):
        self.scheme, self._scaled_as_read = scheme, scaled  # then they are finite
        self.standardised = scheme.standardise != "none"
        self._sentinel = not scaled and scheme.bands[0] in (*S1_BANDS, *S2_BANDS)

    def check_type(self, path: Path, dtype: np.dtype) -> None:
        """Raises ValueError for complex values, or if 8-bit colours are read from another type."""
        if dtype.kind == "c":
            raise ValueError(f"{path} holds {dtype}; networks read real numbers only")
        if not self.standardised and self.scheme.scale == 255 and dtype != np.uint8:
            raise ValueError(
                f"{path} holds {dtype}, and 8-bit colours, 0..255, are read here. Scale all dates "
                "alike, for example gdal_translate -ot Byte -scale 0 3000 0 255 IN OUT; or choose "
                "bands with --bands, so that each is standardised; or networks of such images "
                "(--checkpoints)."
            )

    def check_values(self, path: Path, values: np.ndarray, units: Units | None) -> None:
        """Raises ValueError if values cannot be what networks of Sentinel bands were trained on.

        Args:
            path: for the message.
            values: (C, N) some of the stored values, with data.
            units: of the file, or as the user says.
        """
        if not self._sentinel or not values.size:
            return
        for names, sought, wrong, remedy in RANGES:
            chosen = [number for number, name in enumerate(self.scheme.bands) if name in names]
            found = values[chosen]
            if chosen and units is None and wrong(found):
                raise ValueError(
                    f"{path}: values of {found.min():g} to {found.max():g} in "
                    f"{' '.join(self.scheme.bands[number] for number in chosen)}, where these "
                    f"networks read {sought}; {remedy}"
                )

    def moments(self, dates: Sequence[tuple[Raster, Sequence[int]]]) -> list[Moments | None]:
        """Mean and deviation of the pixels of each date; None: not needed.

        Args:
            dates: rasters of a scene and the bands to read; see `mean_and_std`.
        """
        if not self.standardised:
            return [None] * len(dates)
        grey = self._is_grey(len(dates[0][1]))
        return mean_and_std(dates, joint=self.scheme.standardise == "joint", grey=grey)

    def __call__(
        self,
        pixels: np.ndarray,
        valid: np.ndarray | None,
        moments: Moments | None,
        units: Units | None = None,
    ) -> np.ndarray:
        """Prepares a window of one date.

        Args:
            pixels: (C, h, w) as stored; not changed.
            valid: (h, w) bool, where all dates have data; None: everywhere.
            moments: of the whole image, see `moments`.
            units: what the pixels stand for, reflectance or decibel; None: digital numbers of
                Sentinel-2, decibel of Sentinel-1. Without Sentinel's bands they make no difference:
                every band is standardised, or read as 8-bit colours.

        Returns:
            (C, h, w), uint8 if the pixels are and the scheme does not standardise, else float32.
            A view of `pixels` if nothing is to be done.
        """
        stored = pixels
        pixels = self._scaled(pixels, units) if self._sentinel else pixels
        pixels = to_grey(pixels) if self._is_grey(len(pixels)) else pixels
        if self.standardised:
            pixels, fill = _standardised(pixels, moments), np.zeros(len(pixels))
        else:
            fill = np.array(self.scheme.mean) * self.scheme.scale
        if pixels.dtype == np.uint8:
            fill = fill.round().astype(np.uint8)
        else:
            pixels = pixels.astype(np.float32, copy=False)
            may_gap = stored.dtype.kind == "f" and not self._scaled_as_read
            if may_gap and not (finite := np.isfinite(pixels)).all():
                pixels = np.where(finite, pixels, fill[:, None, None].astype(np.float32))
        if valid is not None and not valid.all():
            pixels = pixels.copy() if pixels is stored else pixels
            pixels[:, ~valid] = fill[:, None]
        return pixels

    def _is_grey(self, num_bands: int) -> bool:
        return tuple(self.scheme.bands) == GREY and num_bands == 3

    def _scaled(self, pixels: np.ndarray, units: Units | None) -> np.ndarray:
        """Sentinel-2 digital numbers and Sentinel-1 decibels -> 0..1, float32."""
        names = self.scheme.bands
        if all(name in S2_BANDS for name in names):
            return scale_s2(pixels, units)
        scaled = []
        for number, (name, band) in enumerate(zip(names, pixels, strict=True)):
            scale = scale_s1 if name in S1_BANDS else scale_s2
            scaled.append(scale(band, None if units is None else units.of_band(number)))
        return np.stack(scaled)


def _standardised(pixels: np.ndarray, moments: Moments) -> np.ndarray:
    """Pixels minus mean, divided by deviation, float32; band by band to save memory."""
    result = np.empty(pixels.shape, np.float32)
    each = [np.broadcast_to(m, (len(pixels), 1, 1)) for m in moments]
    for out, band, mean, std in zip(result, pixels, *each, strict=True):
        out[:] = (band.astype(np.float64) - mean) / std
    return result
