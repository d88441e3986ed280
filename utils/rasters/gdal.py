"""The one door to rasterio, which is slow to import and wants its memory limited."""

import os
import warnings
from types import ModuleType

CACHE_MIB = 64  # of decoded blocks a process; GDAL's own choice is a share of the machine's memory


def rasterio() -> ModuleType:
    """The rasterio module with its `windows`; images without a place on earth are no news to it."""
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MIB))
    import rasterio
    import rasterio.windows

    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio
