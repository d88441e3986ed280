"""Two rasters on the grid of the first: warping, missing data, prepared pixels."""

import warnings

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform as transform_points

from helpers.map_data import COLOURS, PLACE, UTM, scene, write
from helpers.tiny_data import truncate
from maps.image_checks import transformed
from maps.reader import MapImages
from utils.rasters.grids import shifted
from utils.rasters.reading import open_raster
from utils.rasters.statistics import mean_and_std
from utils.rasters.windows import Window
from utils.schemes import change_scheme, dfc_scheme

BANDS = change_scheme(("band1", "band2"), "bands")
JOINT = change_scheme(("band1", "band2"), "joint")
FILL = 128  # round(0.5 * 255), the mean of COLOURS


def whole(images: MapImages, window=None) -> tuple[np.ndarray, np.ndarray]:
    """Prepared pixels, and where there are data."""
    pixels, _, valid = images.samples(512, 0).reader.read(0, window)
    return pixels, np.ones(pixels.shape[-2:], bool) if valid is None else valid


def test_images_of_one_grid_are_read_as_stored(tmp_path):
    images = scene(40, 50)
    paths = [write(tmp_path / f"{i}.tif", image) for i, image in enumerate(images)]
    reader = MapImages(paths, COLOURS)
    pixels, valid = whole(reader)
    assert reader.note is None and valid.all() and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, images)
    assert (reader.crs, reader.transform) == (rasterio.CRS.from_string(UTM), PLACE)


def test_rows_are_reflected_beyond_the_edges(tmp_path):
    paths = [write(tmp_path / f"{i}.tif", image) for i, image in enumerate(scene(40, 50))]
    pixels, valid = whole(MapImages(paths, COLOURS), Window(32, 0, 16, 64))
    expected = np.pad(scene(40, 50), ((0, 0), (0, 0), (0, 8), (0, 14)), "reflect")
    np.testing.assert_array_equal(pixels, expected[:, :, 32:])
    assert valid.shape == (16, 64)


def test_a_shifted_date_2_is_read_in_its_place(tmp_path):
    image = scene(60, 70)[0]
    first = write(tmp_path / "1.tif", image)
    # the same ground from row 20 and column 30 on
    second = write(tmp_path / "2.tif", image[:, 20:, 30:], transform=shifted(PLACE, 30, 20))
    reader = MapImages([first, second], COLOURS)
    assert "size 70 x 60 px and 40 x 40 px" in reader.note
    assert "covers about 38% of it" in reader.note  # 40 * 40 / (60 * 70)
    pixels, valid = whole(reader)
    expected = np.zeros((60, 70), bool)
    expected[20:, 30:] = True
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(pixels[1][:, expected], image[:, expected])
    assert (pixels[:, :, ~expected] == FILL).all()  # at both dates: nothing seems to change


def field(xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """A smooth value of every place, in metres of UTM."""
    return 100 + 60 * np.sin((xs - 5e5) / 150) * np.cos((ys - 5.4e6) / 180)


def sampled(crs, transform, height: int, width: int) -> np.ndarray:
    """The field at the centres of a raster's pixels, (1, h, w) float32."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    there = transformed(transform, columns.ravel(), rows.ravel())
    xs, ys = map(np.asarray, transform_points(crs, UTM, *there))
    return field(xs, ys).reshape(1, height, width).astype(np.float32)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
def test_another_crs_and_resolution_shows_the_same_places(tmp_path, crs):
    first = write(tmp_path / "1.tif", sampled(UTM, PLACE, 90, 100))
    (left, _), (top, _) = transform_points(UTM, crs, [500000 - 50, 0], [5400000 + 50, 0])
    pixel = 7e-5 if crs == "EPSG:4326" else 6.0
    transform = rasterio.Affine(pixel, 0, left, 0, -pixel * 0.8, top)
    second = write(tmp_path / "2.tif", sampled(crs, transform, 330, 330), crs, transform)
    scheme = change_scheme(("band1",), "none")._replace(scale=1.0, mean=(0.5,), std=(1.0,))
    pixels, valid = whole(MapImages([first, second], scheme))
    assert valid.mean() > 0.9
    np.testing.assert_allclose(pixels[1][:, valid], pixels[0][:, valid], atol=0.3)  # 0.08 px
    with pytest.raises(ValueError, match=r"lie on different grids .*leave out --strict-grid"):
        MapImages([first, second], scheme, strict_grid=True)


@pytest.mark.parametrize("kind", ["nodata", "alpha", "mask", "nan"])
@pytest.mark.parametrize("warped", [False, True])
def test_pixels_without_data_are_known_and_filled(tmp_path, kind, warped):
    image = scene(64, 64)[0]
    hole = np.zeros((64, 64), bool)
    hole[10:30, 5:40] = True
    scheme, options, path = COLOURS, {}, tmp_path / "2.tif"
    if kind == "nodata":
        image[:, hole], options = 0, {"nodata": 0}
        image[0, 50, 50] = 0  # dark in one band is no hole
    elif kind == "nan":
        scheme = COLOURS._replace(scale=1.0)
        image = np.where(hole, np.nan, image.astype(np.float32))
        options = {"nodata": np.nan}
    elif kind == "alpha":
        image = np.concatenate([image, np.where(hole, 0, 255)[None].astype(np.uint8)])
        options = {"photometric": "RGB", "alpha": "yes"}
    place = shifted(PLACE, 0, 1) if warped else PLACE
    write(path, image, transform=place, **options)
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(~hole)
    first = write(tmp_path / "1.tif", scene(64, 64, seed=1)[0].astype(image.dtype))
    pixels, valid = whole(MapImages([first, path], scheme))
    expected = np.roll(hole, 1, 0) if warped else hole.copy()
    expected[0] |= warped  # above date 2
    np.testing.assert_array_equal(~valid, expected)
    fill = 0.5 if kind == "nan" else FILL
    assert (pixels[:, :, ~valid] == fill).all()
    shown = np.roll(image[:3], 1, 1) if warped else image[:3]
    np.testing.assert_array_equal(pixels[1][:, valid], shown[:, valid])


@pytest.mark.parametrize("scheme", [BANDS, JOINT])
def test_statistics_are_those_of_the_pixels_with_data(tmp_path, scheme):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 3000, (2, 2, 30, 40)).astype(np.uint16)
    images[:, :, :10] = 0
    paths = [write(tmp_path / f"{i}.tif", x, nodata=0) for i, x in enumerate(images)]
    reader = MapImages(paths, scheme)
    pixels, valid = whole(reader)
    np.testing.assert_array_equal(valid[:, 0], np.arange(30) >= 10)
    known = images[:, :, 10:].astype(float)
    axes = (1, 2, 3) if scheme is JOINT else (2, 3)
    expected = (known - known.mean(axes, keepdims=True)) / known.std(axes, keepdims=True)
    np.testing.assert_allclose(pixels[:, :, 10:], expected, rtol=0, atol=1e-5)
    assert (pixels[:, :, :10] == 0).all()
    ((mean, std),) = mean_and_std([(open_raster(paths[0]), (0, 1))], joint=scheme is JOINT)
    moments = reader.samples(512, 0).reader.moments(0)
    np.testing.assert_allclose(moments[0][0], mean)  # as it is in training
    np.testing.assert_allclose(moments[0][1], std)


def test_bands_are_chosen_by_name_or_by_hand(tmp_path):
    images = np.stack([scene(32, 32, 6), scene(32, 32, 6)])[:, 0]
    paths = [write(tmp_path / f"{i}.tif", x) for i, x in enumerate(images)]
    np.testing.assert_array_equal(whole(MapImages(paths, COLOURS))[0], images[:, :3])
    given = MapImages(paths, COLOURS, ["4", "3", "2"])
    np.testing.assert_array_equal(whole(given)[0], images[:, [3, 2, 1]])


def test_sentinel_bands_are_scaled_as_in_training(tmp_path):
    digits = np.random.default_rng(0).integers(0, 12000, (13, 32, 32)).astype(np.uint16)
    scheme = dfc_scheme(s1=False, s2hr=True, s2mr=False, s2lr=False)  # B2 B3 B4 B8
    pixels, _ = whole(MapImages([write(tmp_path / "a.tif", digits)], scheme))
    expected = digits[[1, 2, 3, 7]].clip(0, 10000) / 10000
    np.testing.assert_allclose(pixels[0], expected, atol=1e-6)
    with pytest.raises(ValueError, match="6 bands, these networks read 4: B2 B3 B4 B8"):
        MapImages([write(tmp_path / "b.tif", digits[:6])], scheme)


@pytest.mark.parametrize("driver", ["COG", "VRT", "ENVI", "JP2OpenJPEG", "PNG"])
def test_any_format_of_gdal_is_read(tmp_path, driver):
    import rasterio.shutil

    images = scene(300, 290)
    first = write(tmp_path / "1.tif", images[0])
    second = tmp_path / {"JP2OpenJPEG": "2.jp2", "VRT": "2.vrt", "PNG": "2.png"}.get(driver, "2")
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    rasterio.shutil.copy(write(tmp_path / "3.tif", images[1]), second, driver=driver, **options)
    reader = MapImages([first, second], COLOURS)
    pixels, valid = whole(reader, Window(100, 0, 64, 290))
    assert reader.note is None and valid.all()
    np.testing.assert_array_equal(pixels, images[:, :, 100:164])


def test_without_a_crs_pixels_lie_on_pixels(tmp_path):
    images = scene(32, 40)
    paths = [write(tmp_path / f"{i}.tif", x, None, None) for i, x in enumerate(images)]
    reader = MapImages(paths, COLOURS)
    assert reader.note is None and reader.crs is None and reader.transform is None
    np.testing.assert_array_equal(whole(reader)[0], images)


def far(path, image):
    return write(path, image, transform=shifted(PLACE, 5000, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (far, "the images do not overlap: .*before.tif spans .*in EPSG:32633 and .*after.tif"),
        (lambda p, x: write(p, x, None, None), "CRS EPSG:32633 and none.*missing in .*after.tif"),
        (lambda p, x: write(p, x[:2]), "before.tif has 3 .*after.tif has 2 .*with --bands"),
        (lambda p, x: write(p, x.astype(np.uint16)), "holds uint16.*8-bit colours.*gdal_translate"),
        (lambda p, x: truncate(write(p, x)), "after.tif: cut off: it has .*Copy it again"),
        (lambda p, x: p.write_text("no image"), "after.tif"),
        (lambda p, x: None, "there is no .*after.tif"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path, make, message):
    first, second = scene(100, 90)
    paths = [write(tmp_path / "before.tif", first), tmp_path / "after.tif"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(paths[1], second)
    with pytest.raises((ValueError, OSError), match=message):
        MapImages(paths, COLOURS)


@pytest.mark.parametrize(
    ("bands", "count", "message"),
    [
        (None, 2, r"has 2 band\(s\), but band 3 is to be read.*red green blue"),
        (["1", "2"], 4, r"2 band\(s\), but these networks read 3"),
        (["1", "2", "9"], 4, "band 9 is to be read"),
        (["1", "2", "x"], 4, "'x' is not known"),
    ],
)
def test_bands_that_are_not_there_are_refused(tmp_path, bands, count, message):
    paths = [write(tmp_path / f"{i}.tif", x) for i, x in enumerate(scene(32, 32, count))]
    with pytest.raises(ValueError, match=message):
        MapImages(paths, COLOURS, bands)


def test_a_date_2_of_other_bands_is_read_where_bands_are_named(tmp_path):
    image = scene(32, 32, 4)[0]
    paths = [write(tmp_path / "1.tif", image[:3]), write(tmp_path / "2.tif", image)]
    pixels, _ = whole(MapImages(paths, COLOURS, ["1", "2", "3"]))
    np.testing.assert_array_equal(pixels[1], pixels[0])


@pytest.mark.parametrize("warped", [False, True])
def test_a_gap_in_one_band_is_a_gap_but_in_8_bit_colours(tmp_path, warped):
    """Three gaps: of band 1, of bands 1 and 2, and of band 3, which is not read."""
    image = 100 + scene(40, 40)[0].astype(np.float32)
    image[0, 5:10, 5:10], image[:2, 20:25, 5:10], image[2, 30:35, 30:35] = -99, -99, -99
    place = shifted(PLACE, 0, 1) if warped else PLACE
    first = write(tmp_path / "1.tif", 100 + scene(40, 40)[1].astype(np.float32))
    second = write(tmp_path / "2.tif", image, transform=place, nodata=-99)
    reader = MapImages([first, second], BANDS, ["1", "2"])
    valid = whole(reader)[1]
    down = int(warped)
    assert not valid[5 + down : 10 + down, 5:10].any()
    assert not valid[20 + down : 25 + down, 5:10].any()
    assert valid[12:18, 5:10].all() and (warped or valid[30:35, 30:35].all())
    if not warped:  # each band has its own gaps, as in training
        (expected,) = mean_and_std([(open_raster(second), (0, 1))])
        moments = reader.samples(512, 0).reader.moments(0)
        for one, other in zip(moments[1], expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_warped_gap_of_the_bands_that_are_read_is_one_whatever_others_hold(tmp_path):
    image = np.concatenate([scene(40, 40)[0], np.full((1, 40, 40), 77, np.uint8)])
    image[:3, 10:20, 10:20] = 0
    options = {"nodata": 0, "photometric": "MINISBLACK", "alpha": "NO"}
    first = write(tmp_path / "1.tif", scene(40, 40)[1])
    second = write(tmp_path / "2.tif", image, transform=shifted(PLACE, 0, 1), **options)
    valid = whole(MapImages([first, second], COLOURS, ["1", "2", "3"]))[1]
    assert not valid[11:21, 10:20].any() and valid[25:, :].all()


def test_alpha_is_noted_and_is_no_band_to_read(tmp_path):
    image = np.concatenate([scene(20, 20)[0], np.full((1, 20, 20), 255, np.uint8)])
    path = write(tmp_path / "1.tif", image)  # of four bands GDAL takes the last for alpha
    reader = MapImages([path, path], COLOURS)
    assert (
        reader.notes == [f"{path}: band 4 is marked as alpha, so it says where there are data"] * 2
    )
    assert reader.numbers == [[1, 2, 3]] * 2
    with pytest.raises(ValueError, match=r"band 4 is marked as alpha.*gdal_edit.py -colorinterp_4"):
        MapImages([path, path], COLOURS, ["4", "3", "2"])


def test_a_narrow_overlap_is_one(tmp_path):
    image = scene(20, 1000)[0]
    first = write(tmp_path / "1.tif", image)
    second = write(tmp_path / "2.tif", image, transform=shifted(PLACE, 998, 0))
    valid = whole(MapImages([first, second], COLOURS))[1]
    assert valid[:, 998:].all() and not valid[:, :998].any()


@pytest.mark.parametrize("kind", ["cropped", "nodata"])
def test_statistics_are_those_of_the_ground_that_both_dates_show(tmp_path, kind):
    """The same ground at both dates, whose left half, much darker, is missing at date 2."""
    ground = np.random.default_rng(0).integers(1000, 3000, (2, 40, 60)).astype(np.uint16)
    ground[:, :, :30] //= 10
    first = write(tmp_path / "1.tif", ground)
    if kind == "cropped":
        second = write(tmp_path / "2.tif", ground[:, :, 30:], transform=shifted(PLACE, 30, 0))
    else:
        left_out = np.where(np.arange(60) < 30, 0, ground).astype(np.uint16)
        second = write(tmp_path / "2.tif", left_out, nodata=0)
    pixels, valid = whole(MapImages([first, second], BANDS))
    np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(60) >= 30, (40, 60)))
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_allclose(pixels[0][:, valid].mean(1), 0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_warped_image_has_the_nodata_of_each_band(tmp_path, dtype):
    """A VRT of files with a nodata value of their own each; half a pixel aside."""
    from rasterio.transform import Affine

    image = scene(40, 50)[0][:2].astype(dtype) + 1
    image[0, :10], image[1, :10] = 0, -9999
    image[1, 20, 20] = 0  # a value of band 2, where band 1 has it for nodata
    place, bands = shifted(PLACE, 0, 0) @ Affine.translation(0.5, 0), []
    name = {np.int16: "Int16", np.float32: "Float32"}[dtype]
    for number, (band, nodata) in enumerate(zip(image, (0, -9999), strict=True), start=1):
        write(tmp_path / f"band{number}.tif", band[None], transform=place, nodata=nodata)
        bands.append(
            f'<VRTRasterBand dataType="{name}" band="{number}"><NoDataValue>{nodata}</NoDataValue>'
            f'<ComplexSource><SourceFilename relativeToVRT="1">band{number}.tif</SourceFilename>'
            f"<SourceBand>1</SourceBand><NODATA>{nodata}</NODATA></ComplexSource></VRTRasterBand>"
        )
    second = tmp_path / "2.vrt"
    second.write_text(
        f'<VRTDataset rasterXSize="50" rasterYSize="40"><SRS>{UTM}</SRS>'
        f"<GeoTransform>{', '.join(map(str, place.to_gdal()))}</GeoTransform>"
        f"{''.join(bands)}</VRTDataset>"
    )
    first = write(tmp_path / "1.tif", scene(40, 50)[1][:2].astype(dtype) + 1)
    scheme = BANDS._replace(standardise="none", scale=1.0, mean=(0, 0), std=(1, 1))
    pixels, valid = whole(MapImages([first, second], scheme))
    assert not valid[:10].any() and valid[10:, 1:].all()
    middle = (image[:, 10:, 1:-1].astype(float) + image[:, 10:, :-2]) / 2  # bilinear
    np.testing.assert_allclose(pixels[1][:, 10:, 1:-1], middle, atol=0.51)
