"""Imports rasterio on first use (its import is slow) and limits its memory."""

import os
import warnings
from types import ModuleType

CACHE_MIB = 64  # cache of decoded blocks per process; GDAL's default is a share of all memory


GDAL_TYPES = {  # names of numpy and GDAL
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}


def rasterio() -> ModuleType:
    """The rasterio module with `rasterio.windows`; no warning for images without georeference."""
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MIB))
    import rasterio
    import rasterio.windows

    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio
