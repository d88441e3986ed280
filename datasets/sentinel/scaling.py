"""Scales Sentinel-2 digital numbers and Sentinel-1 decibels to 0..1."""

import numpy as np

from utils.rasters.raster import Units

S2_MOST = 10000  # digital number that is scaled to 1.0
S1_LEAST = -25.0  # decibel that are scaled to 0.0; 0 dB to 1.0


def scale_s2(stored: np.ndarray, units: Units | None = None) -> np.ndarray:
    """Scales digital numbers, or what `units` makes reflectance, to float32 in 0..1."""
    if units is not None:
        stored = (stored * units.scale + units.offset) * S2_MOST
    scaled = np.clip(stored, 0, S2_MOST).astype(np.float32)
    scaled /= np.float32(S2_MOST)
    return scaled


def scale_s1(decibel: np.ndarray, units: Units | None = None) -> np.ndarray:
    """Scales decibel, also by `units`, to float32 in 0..1; NaN counts as 0 dB, which becomes 1."""
    if units is not None:
        decibel = decibel * units.scale + units.offset
    decibel = decibel.astype(np.float32)
    decibel[np.isnan(decibel)] = 0
    return np.clip(decibel, S1_LEAST, 0) / np.float32(-S1_LEAST) + np.float32(1)
