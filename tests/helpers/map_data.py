"""Generated georeferenced rasters, and networks to make maps of them."""

from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.warp import Resampling, calculate_default_transform, reproject

from models.checkpoints import make_recipe, network_of
from utils.schemes import SECOND, change_scheme
from utils.state_files import save_checkpoint

TINY = "test_resnet"  # of timm, with 0.4 million weights
UTM = "EPSG:32633"
METRES = (32633, from_origin(500_000, 5_000_000, 10, 10))
PLACE = rasterio.Affine(10, 0, 500000, 0, -10, 5400000)
COLOURS = change_scheme(("red", "green", "blue"), "none")._replace(
    scale=255.0, mean=(0.5,) * 3, std=(0.25,) * 3
)


def save_network(path: Path, scheme=COLOURS, **options) -> Path:
    """A checkpoint with random weights that predicts change in about half of all pixels."""
    torch.manual_seed(0)
    recipe = make_recipe(scheme, model="fcn", backbone=TINY, **options)
    network = network_of(recipe)
    with torch.no_grad():
        for head in (network.semantic_head, network.change_head):
            if head is not None:
                last = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)][-1]
                last.weight.mul_(30)
    save_checkpoint(path, network.state_dict(), recipe)
    return path


def scene(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    """(2, C, h, w) uint8: coloured blocks, some of which differ at date 2."""
    rng = np.random.default_rng(seed)
    shape = (2, bands, -(-height // 16), -(-width // 16))
    blocks = rng.integers(20, 220, shape)
    blocks[1] = np.where(rng.random(shape[2:]) < 0.3, blocks[1], blocks[0])
    blocks = blocks.repeat(16, 2).repeat(16, 3)[..., :height, :width]
    return (blocks + rng.integers(0, 20, (2, bands, height, width))).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, crs=UTM, transform=PLACE, **options) -> Path:
    """Writes (C, h, w) as a tiled GeoTIFF; georeferenced only with `crs` and `transform`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    if transform is not None:
        options["transform"] = transform
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, **options}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, **shape, **options) as file:
        file.write(pixels)
    return path


def write_pair(folder: Path, height: int = 100, width: int = 90, seed: int = 0, **options):
    """Writes before.tif and after.tif."""
    names = ("before.tif", "after.tif")
    images = scene(height, width, seed=seed)
    return [write(folder / n, x, **options) for n, x in zip(names, images, strict=True)]


def warp(path: Path, target: Path, crs: str, resolution: float | None = None) -> Path:
    """Warps a raster to another CRS with GDAL; pixels outside are 0, the nodata value."""
    with rasterio.open(path) as file:
        transform, width, height = calculate_default_transform(
            file.crs, crs, file.width, file.height, *file.bounds, resolution=resolution
        )
        pixels = np.zeros((file.count, height, width), file.dtypes[0])
        reproject(
            rasterio.band(file, list(range(1, file.count + 1))),
            pixels,
            dst_transform=transform,
            dst_crs=crs,
            resampling=Resampling.nearest,
            dst_nodata=0,
        )
    return write(target, pixels, crs, transform, nodata=0)


SEMANTIC = SECOND


def write_layer(path, values, where=METRES, nodata=255, dtype="uint8"):
    """One band as GeoTIFF; `where`: EPSG code, or None, and transform."""
    values = np.array(values, dtype)
    epsg, transform = where
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=dtype,
        crs=None if epsg is None else f"EPSG:{epsg}",
        transform=transform,
        nodata=nodata,
    ) as file:
        file.write(values, 1)
    return path
