"""Maps of real images lie where they should, and have the areas they should, in any CRS."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.warp import Resampling, reproject, transform
from torch import nn
from torch.nn.functional import avg_pool2d

import predict
from helpers.map_data import PLACE, UTM, save_network, warp, write
from inference.predictor import Member
from models.normalise import Normalise
from utils.rasters.grids import shifted
from utils.schemes import SECOND
from utils.structures import Logits

TILES = Path(__file__).resolve().parents[2].parent / "shared/data/eurosat_scd/test/im1"
SIDE, TILE = 4, 256  # tiles a side of the mosaic, pixels a side of a tile

# class k is painted as (255 - 20 k, 0, 255), which no landscape comes near
CHANGES = {  # (from, to): rows and columns of the mosaic, pixels of 10 m
    (1, 5): (slice(100, 300), slice(120, 420)),
    (2, 4): (slice(500, 620), slice(300, 700)),
    (6, 3): (slice(690, 900), slice(700, 850)),
}

pytestmark = pytest.mark.skipif(
    not TILES.is_dir(), reason="no shared/data/eurosat_scd beside the checkout"
)


class PaintReader(nn.Module):
    """Changed where both dates are painted; the class is that of the purest paint around."""

    has_gate = False

    def forward(self, images: torch.Tensor) -> Logits:
        """(B, 2, 3, H, W), values as stored."""
        paint = images[:, :, 2] - images[:, :, 1]  # (B, 2, H, W), 255 where it is pure
        purity = (paint / 255).clamp(1e-3, 1) ** 20  # an edge is a mixture with what lies beside
        red = avg_pool2d(images[:, :, 0] * purity, 5, 1, 2) / avg_pool2d(purity, 5, 1, 2)
        reds = 255 - 20 * torch.arange(1, 7).float()[:, None, None]
        semantic = -(red[:, :, None] - reds).abs()  # (B, 2, K, H, W)
        return Logits(semantic, paint.amin(1) - 140, None, None)


@pytest.fixture(scope="module")
def mosaics() -> list[np.ndarray]:
    """Two dates, (3, h, w) uint8: the same land, with painted rectangles."""
    pictures = [np.asarray(Image.open(path)) for path in sorted(TILES.iterdir())[: SIDE**2]]
    rows = [np.concatenate(pictures[i : i + SIDE], 1) for i in range(0, SIDE**2, SIDE)]
    mosaic = np.concatenate(rows).transpose(2, 0, 1)
    assert (mosaic[2].astype(int) - mosaic[1]).max() < 120  # nothing looks painted
    dates = [mosaic.copy(), mosaic.copy()]
    for classes, place in CHANGES.items():
        for date, k in zip(dates, classes, strict=True):
            date[(slice(None), *place)] = np.array([255 - 20 * k, 0, 255])[:, None, None]
    return dates


def at(crs: str, path: Path, image: np.ndarray, left=0.0, top=0.0, metres=10.0) -> Path:
    """Writes a mosaic, of which some is cut off and which has other pixels, in some CRS."""
    if (left, top, metres) != (0.0, 0.0, 10.0):
        a = metres / 10
        moved = shifted(PLACE, left, top) @ rasterio.Affine.scale(a)
        side = int(SIDE * TILE / a)
        pixels = np.zeros((3, side, side), np.uint8)
        places = {"src_transform": PLACE, "src_crs": UTM, "dst_transform": moved, "dst_crs": UTM}
        reproject(image, pixels, **places, resampling=Resampling.bilinear)
        image = pixels
    else:
        moved = PLACE
    path = write(path, image, UTM, moved, nodata=0)
    return path if crs == UTM else warp(path, path.with_suffix(".other.tif"), crs)


def corners(place: tuple[slice, slice]) -> tuple[float, float, float, float]:
    """West, south, east, north of a rectangle of the mosaic in metres of UTM."""
    rows, columns = place
    west, north = PLACE * (columns.start, rows.start)
    east, south = PLACE * (columns.stop, rows.stop)
    return west, south, east, north


@pytest.mark.parametrize(
    ("first_crs", "second_crs"), [(UTM, UTM), ("EPSG:4326", "EPSG:4326"), (UTM, "EPSG:4326")]
)
def test_a_shifted_and_rescaled_date_2_is_mapped_in_its_place(
    tmp_path, monkeypatch, mosaics, first_crs, second_crs, capsys
):
    geopandas = pytest.importorskip("geopandas")
    reader = Member(PaintReader(), Normalise(1.0, [0.0] * 3, [1.0] * 3))
    monkeypatch.setattr(predict, "load_ensemble", lambda *_: [reader])
    network = save_network(tmp_path / "n.pth", SECOND)
    first = at(first_crs, tmp_path / "1.tif", mosaics[0])
    second = at(second_crs, tmp_path / "2.tif", mosaics[1], left=31.4, top=-17.3, metres=7.3)
    out = tmp_path / "out"
    words = [first, second, "--checkpoints", network, "--out", out, "--device", "cpu"]
    predict.main([str(word) for word in words] + ["--amp", "fp32", "--tile-px", "256"])
    assert "warped" in capsys.readouterr().out

    with rasterio.open(out / "transition.tif") as maps, rasterio.open(first) as image:
        assert (maps.crs, maps.transform, maps.shape) == (image.crs, image.transform, image.shape)
        codes, nodata = maps.read(1), maps.nodata
        for (origin, target), place in CHANGES.items():
            west, south, east, north = corners(place)
            # 20 m, which is two pixels, inside and outside of each corner and edge
            code = 1 + (origin - 1) * 6 + target - 1
            for step, expected in ((20, code), (-20, 0)):
                xs = [west + step, east - step, (west + east) / 2]
                ys = [south + step, north - step, (south + north) / 2]
                points = [(x, y) for x in xs for y in ys][: -1 if step < 0 else None]
                eastings, northings = transform(UTM, maps.crs, *zip(*points, strict=True))
                rows, columns = rasterio.transform.rowcol(maps.transform, eastings, northings)
                found = codes[np.array(rows, int), np.array(columns, int)]
                assert (found == expected).all(), (origin, target, step, found)
    assert (codes == nodata).any()  # date 2 does not reach the edges

    summary = json.loads((out / "summary.json").read_text())
    polygons = geopandas.read_file(out / "changes.gpkg")
    assert polygons.crs == first_crs
    in_metres = polygons.to_crs(UTM)
    for (origin, target), place in CHANGES.items():
        west, south, east, north = corners(place)
        hectares = (east - west) * (north - south) / 1e4
        assert summary["matrix"]["hectares"][origin][target] == pytest.approx(hectares, rel=0.01)
        names = SECOND.classes[origin - 1], SECOND.classes[target - 1]
        chosen = (polygons["from_class"] == names[0]) & (polygons["to_class"] == names[1])
        assert polygons[chosen].area_m2.sum() / 1e4 == pytest.approx(hectares, rel=0.01)
        np.testing.assert_allclose(
            in_metres[chosen].total_bounds, (west, south, east, north), atol=15
        )
