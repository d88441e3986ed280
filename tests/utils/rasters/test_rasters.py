import numpy as np
import pytest
from PIL import Image

from helpers.tiny_data import truncate, write, write_envi, write_tiff
from utils.rasters.grids import grid_difference
from utils.rasters.reading import beyond, open_raster, read_padded, strips
from utils.rasters.statistics import mean_and_std
from utils.rasters.windows import Window

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (3, 9, 7)).astype(np.uint8)
DEEP = RNG.integers(0, 1024, (8, 9, 7)).astype(np.uint16)


def whole(raster):
    return Window(0, 0, raster.height, raster.width)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_pixels_are_read_as_written(tmp_path, suffix):
    raster = open_raster(write(tmp_path / f"a.{suffix}", RGB.transpose(1, 2, 0)))
    assert (raster.count, raster.height, raster.width) == (3, 9, 7)
    assert raster.dtype == np.uint8 and raster.crs is None and raster.transform is None
    assert np.array_equal(raster.read(whole(raster), (0, 1, 2)), RGB)
    assert np.array_equal(raster.read(Window(2, 3, 4, 2), (2, 0)), RGB[[2, 0], 2:6, 3:5])


def test_deep_and_float_geotiffs_keep_type_and_place(tmp_path):
    raster = open_raster(write_tiff(tmp_path / "a.tif", DEEP, nodata=0))
    assert (raster.count, raster.dtype, raster.nodata) == (8, np.uint16, (0,) * 8)
    assert raster.crs.to_epsg() == 32637 and raster.transform.c == 500000
    assert np.array_equal(raster.read(Window(1, 2, 3, 4), (7, 0)), DEEP[[7, 0], 1:4, 2:6])
    floats = open_raster(write_tiff(tmp_path / "b.tif", DEEP.astype(np.float32) / 3))
    assert np.array_equal(floats.read(whole(floats), [1]), DEEP[1:2].astype(np.float32) / 3)


def test_deep_grey_png(tmp_path):
    raster = open_raster(write(tmp_path / "a.png", DEEP[0]))
    assert raster.count == 1 and raster.dtype.itemsize > 1
    assert np.array_equal(raster.read(whole(raster), [0])[0], DEEP[0])


@pytest.mark.parametrize("name", ["scene", "scene.img", "scene.dat"])
def test_envi_pairs_are_read_and_a_short_one_is_an_error(tmp_path, name):
    path = write_envi(tmp_path / name, RGB)
    raster = open_raster(path)
    assert np.array_equal(raster.read(whole(raster), (0, 1, 2)), RGB)
    truncate(path)  # GDAL alone would give zeros
    with pytest.raises(OSError, match=rf"{name}: cut off: 113 bytes .* 189"):
        open_raster(path)


def test_alpha_is_dropped_and_palettes_are_colours_or_indices(tmp_path):
    rgba = np.dstack([RGB.transpose(1, 2, 0), np.full((9, 7), 9, np.uint8)])
    raster = open_raster(write(tmp_path / "a.png", rgba))
    assert raster.count == 3 and np.array_equal(raster.read(whole(raster), (0, 1, 2)), RGB)
    image = Image.fromarray((RGB[0] > 128).astype(np.uint8))
    for name, colours in (
        ("red", (255, 255, 255, 220, 20, 60)),
        ("grey", (0, 0, 0, 255, 255, 255)),
    ):
        image.putpalette(bytes(colours))
        image.save(tmp_path / f"{name}.png")
    label = open_raster(tmp_path / "red.png", indices=True)
    assert np.array_equal(label.read(whole(label), [0])[0], RGB[0] > 128)
    grey = open_raster(tmp_path / "grey.png", indices=True)
    assert np.array_equal(grey.read(whole(grey), [0])[0], (RGB[0] > 128) * 255)
    assert open_raster(tmp_path / "red.png").count == 3


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_cut_off_and_foreign_files_are_errors_with_the_name(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    truncate(path)
    with pytest.raises(OSError, match=f"a.{suffix}"):
        raster = open_raster(path)
        raster.read(whole(raster), (0, 1, 2))
    path.write_bytes(b"no image")
    with pytest.raises(OSError, match=f"a.{suffix}"):
        open_raster(path)
    with pytest.raises(FileNotFoundError):
        open_raster(tmp_path / f"b.{suffix}")


@pytest.mark.parametrize("window", [(0, 0, 9, 7), (2, 1, 3, 3), (5, 4, 8, 8), (-3, -2, 40, 33)])
def test_reflection_is_numpys(tmp_path, window):
    raster = open_raster(write_tiff(tmp_path / "a.tif", DEEP))
    padded = np.pad(DEEP, ((0, 0), (50, 50), (50, 50)), "reflect")
    top, left, height, width = window
    expected = padded[[3, 1], 50 + top : 50 + top + height, 50 + left : 50 + left + width]
    assert np.array_equal(read_padded(raster, Window(*window), (3, 1)), expected)


def test_one_row_is_reflected_too(tmp_path):
    raster = open_raster(write_tiff(tmp_path / "a.tif", DEEP[:, :1]))
    found = read_padded(raster, Window(0, 0, 4, 7), [0])
    assert np.array_equal(found[0], DEEP[0, :1].repeat(4, 0))


def test_rows_are_taken_for_the_whole_image(tmp_path):
    raster = open_raster(write_tiff(tmp_path / "a.tif", DEEP))
    found = read_padded(raster, Window(4, 0, 6, 7), [0], rows=(3, 7))
    assert np.array_equal(found[0], DEEP[0][[4, 5, 6, 5, 4, 3]])  # row 7 is never seen


def test_fill_and_beyond_mark_the_same_pixels(tmp_path):
    raster, window = open_raster(write_tiff(tmp_path / "a.tif", DEEP)), Window(5, 4, 8, 8)
    found = read_padded(raster, window, [2], fill=2000)[0]
    outside = beyond(window, (0, 9), 7)
    assert np.array_equal(found[:4, :3], DEEP[2, 5:, 4:])
    assert not outside[:4, :3].any() and outside.sum() == 64 - 12
    assert (found[outside] == 2000).all()


def test_strips_tile_the_image(tmp_path):
    raster = open_raster(write_tiff(tmp_path / "a.tif", np.zeros((1, 1100, 3), np.uint8)))
    rows = [row for w in strips(raster) for row in range(w.top, w.top + w.height)]
    assert rows == list(range(1100))


def test_streamed_moments_are_numpys(tmp_path):
    bands = RNG.integers(0, 60000, (3, 1100, 5)).astype(np.uint16)  # three strips
    bands[:, 600:] += 5000
    raster = open_raster(write_tiff(tmp_path / "a.tif", bands))
    ((mean, std),) = mean_and_std([(raster, (0, 2))])
    assert np.allclose(mean.ravel(), bands[[0, 2]].mean((1, 2)), rtol=1e-12)
    assert np.allclose(std.ravel(), bands[[0, 2]].std((1, 2)), rtol=1e-12)
    ((mean, std),) = mean_and_std([(raster, (0, 1, 2))], joint=True)
    assert np.allclose([mean.item(), std.item()], [bands.mean(), bands.std()], rtol=1e-12)
    grey = np.tensordot([0.299, 0.587, 0.114], bands, 1)
    ((mean, std),) = mean_and_std([(raster, (0, 1, 2))], grey=True)
    assert np.allclose([mean.item(), std.item()], [grey.mean(), grey.std()], rtol=1e-12)


def test_a_constant_image_divides_by_one_and_gaps_do_not_count(tmp_path):
    raster = open_raster(write_tiff(tmp_path / "a.tif", np.full((3, 700, 5), 777, np.uint16)))
    assert mean_and_std([(raster, (0, 1, 2))], grey=True)[0][1].item() == 1
    assert mean_and_std([(raster, (0,))])[0][1].item() == 1
    floats = np.array([[[1, 3, np.nan, np.inf]]], np.float32)
    ((mean, std),) = mean_and_std([(open_raster(write_tiff(tmp_path / "b.tif", floats)), (0,))])
    assert (mean.item(), std.item()) == (2, 1)


def test_grid_difference_names_crs_and_transform(tmp_path):
    def raster(name, **options):
        return open_raster(write_tiff(tmp_path / f"{name}.tif", DEEP, **options))

    first = raster("a")
    assert grid_difference(first, raster("b", left=500000.01)) is None  # 1/200 of a pixel
    assert "CRS EPSG:32637 and EPSG:32638" in grid_difference(first, raster("c", crs="EPSG:32638"))
    assert "transform [2.0" in grid_difference(first, raster("d", left=500001))
    assert "CRS EPSG:32637 and none" in grid_difference(first, raster("e", crs=None))
    assert grid_difference(raster("f", crs=None), raster("g", crs=None)) is None


def test_a_png_of_16_bits_keeps_them(tmp_path):
    import rasterio

    pixels = np.random.default_rng(0).integers(0, 1023, (3, 20, 30)).astype(np.uint16)
    shape = {"count": 3, "height": 20, "width": 30, "dtype": "uint16"}
    with rasterio.open(tmp_path / "deep.png", "w", driver="PNG", **shape) as file:
        file.write(pixels)
    raster = open_raster(tmp_path / "deep.png")
    assert raster.dtype == np.uint16 and raster.count == 3
    assert np.array_equal(raster.read(Window(0, 0, 20, 30), (0, 1, 2)), pixels)
