"""What stored values stand for: bands by name, gaps, reflectance, and where images lie."""

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from helpers.map_data import COLOURS, PLACE, UTM, scene, write
from maps.checks import MapOptions, check_options
from maps.reader import MapImages, Told
from utils.schemes import change_scheme, dfc_scheme

S2 = dfc_scheme(s1=False, s2hr=True, s2mr=False, s2lr=False)
MEASURED = change_scheme(("red", "green", "blue", "nir"), "bands")


def read(images: MapImages) -> tuple[np.ndarray, np.ndarray]:
    """Images (T, C, H, W) as networks get them, and where there are data."""
    window = images.samples(4096, 0)
    pixels, _, valid = window.reader.read(0)
    return pixels, np.ones(pixels.shape[-2:], bool) if valid is None else valid


def reflectance(seed: int = 0, side: int = 80) -> np.ndarray:
    """(4, H, W) in 0.02..0.4."""
    return np.random.default_rng(seed).uniform(0.02, 0.4, (4, side, side)).round(4)


def describe(path, names=(), colours=(), scales=None, offsets=None):
    with rasterio.open(path, "r+") as file:
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
        if colours:
            file.colorinterp = [ColorInterp[name] for name in colours]
        if scales is not None:
            file.scales, file.offsets = [scales] * file.count, [offsets] * file.count
    return path


# ------------------------------------------------------------------- which band is which


@pytest.mark.parametrize(
    ("order", "how"),
    [
        ((2, 1, 0, 3), {"names": ("Blue", "green", "RED", "near infrared")}),
        ((2, 1, 0, 3), {"colours": ("blue", "green", "red", "undefined")}),
        ((3, 0, 1, 2), {"names": ("nir", "red", "green", "blue")}),
        ((2, 1, 0, 3), {"names": ("B02", "B03", "B04", "B08")}),
        ((0, 1, 2, 3), {"names": (None, None, None, "quality")}),
    ],
)
def test_bands_are_read_by_the_names_that_the_file_gives_them(tmp_path, order, how):
    rgbn = scene(70, 60, 4)
    plain = write(tmp_path / "a.tif", rgbn[0], photometric="MINISBLACK")
    other = write(tmp_path / "b.tif", rgbn[1][list(order)], photometric="MINISBLACK")
    images = MapImages([plain, describe(other, **how)], COLOURS)
    assert np.array_equal(read(images)[0], rgbn[:, :3])
    told = [note for note in images.notes if "by the names in the file" in note]
    assert len(told) == (order != (0, 1, 2, 3))
    if told:
        assert f"red {order.index(0) + 1}, green {order.index(1) + 1}" in told[0]


def test_numbers_win_over_names_and_names_may_be_given(tmp_path):
    bgr = scene(70, 60, 3)[:, ::-1]
    paths = [write(tmp_path / f"{i}.tif", x) for i, x in enumerate(bgr)]
    for path in paths:
        describe(path, names=("blue", "green", "red"))
    assert np.array_equal(read(MapImages(paths, COLOURS, ["1", "2", "3"]))[0], bgr)
    named = MapImages(paths, COLOURS, ["red", "green", "blue"])
    assert np.array_equal(read(named)[0], bgr[:, ::-1])


def test_names_that_contradict_the_order_are_refused(tmp_path):
    path = describe(write(tmp_path / "a.tif", scene(64, 64, 4)[0]), ("nir", "red", "green", "x"))
    with pytest.raises(ValueError, match=r"a\.tif: no band is named blue, and band 3 is green"):
        MapImages([path, path], COLOURS)


def test_names_of_others_are_told_and_read_in_order(tmp_path):
    image = scene(70, 60, 3)[0]
    path = describe(write(tmp_path / "a.tif", image), ("B2", "B3", "B4"))
    images = MapImages([path, path], COLOURS)
    assert np.array_equal(read(images)[0][0], image)
    assert "red is band 1 (b2), green is band 2 (b3)" in images.notes[0]


def test_dates_that_name_their_bands_differently_are_refused_where_read_by_number(tmp_path):
    rgb = scene(70, 60, 3)
    scheme = change_scheme(("band1", "band2", "band3"), "bands")
    paths = [write(tmp_path / f"{i}.tif", x) for i, x in enumerate(rgb)]
    describe(paths[0], ("red", "green", "blue"))
    MapImages(paths, scheme)  # the other has no names
    describe(paths[1], ("blue", "green", "red"))
    with pytest.raises(ValueError, match=r"name their bands differently .*1\.tif: blue green red"):
        MapImages(paths, scheme)
    MapImages(paths, scheme, ["1", "2", "3"])


def test_sentinel_bands_are_found_by_their_descriptions(tmp_path):
    stored = (reflectance() * 1e4).astype(np.uint16)
    path = describe(write(tmp_path / "a.tif", stored), ("B08", "b2", "B3", "B04"))
    assert np.allclose(read(MapImages([path], S2))[0][0], stored[[1, 2, 3, 0]] / 1e4, atol=1e-6)


# ------------------------------------------------------------------- what a value stands for


def test_tags_of_scale_and_offset_are_reflectance(tmp_path):
    truth = reflectance()
    old = write(tmp_path / "old.tif", (truth * 1e4).round().astype(np.uint16))
    new = write(tmp_path / "new.tif", (truth * 1e4 + 1000).round().astype(np.uint16))
    float_tagged = write(tmp_path / "float.tif", truth.astype(np.float32) * 100)
    describe(float_tagged, scales=0.01, offsets=0.0)
    images = MapImages([new], S2, told=[Told(offset=-1000)])
    assert np.allclose(read(images)[0], truth, atol=1e-4)
    untagged = MapImages([new], S2)
    assert any("no value is below" in n and "--offset -1000" in n for n in untagged.notes)
    assert not MapImages([old], S2).notes
    describe(new, scales=1e-4, offsets=-0.1)
    tagged = MapImages([new], S2)
    assert np.allclose(read(tagged)[0], read(MapImages([old], S2))[0], atol=1e-6)
    assert any("x 0.0001 -0.1" in note for note in tagged.notes)
    assert np.allclose(read(MapImages([float_tagged], S2))[0], truth, atol=1e-4)


@pytest.mark.parametrize("warped", [False, True])
def test_tags_hold_for_warped_images(tmp_path, warped):
    scheme = S2._replace(task="binary_change", classes=(), palette=S2.palette[:2])
    truth = reflectance()
    paths = [write(tmp_path / "a.tif", (truth * 1e4).round().astype(np.uint16))]
    place = PLACE * rasterio.Affine.translation(8, 0) if warped else PLACE
    shifted = np.roll(truth, -8, axis=2) if warped else truth
    stored = (shifted * 1e4 + 1000).round().astype(np.uint16)
    paths.append(write(tmp_path / "b.tif", stored, transform=place))
    describe(paths[1], scales=1e-4, offsets=-0.1)
    pixels, valid = read(MapImages(paths, scheme))
    assert valid.mean() == (0.9 if warped else 1)
    assert np.allclose(pixels[0][:, valid], pixels[1][:, valid], atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda r: r.astype(np.float32), r"values of 0\.0\d+ to 0\.\d+ in B2 B3 B4 B8.*--scale"),
        (lambda r: (r * 255 / 0.4).astype(np.uint8), r"values of 1\d to 25\d in .*digital numbers"),
    ],
)
def test_values_that_the_networks_cannot_know_are_refused(tmp_path, values, message):
    path = write(tmp_path / "a.tif", values(reflectance()), photometric="MINISBLACK")
    with pytest.raises(ValueError, match=message):
        MapImages([path], S2)


def test_reflectance_is_read_where_the_user_says_so(tmp_path):
    truth = reflectance()
    path = write(tmp_path / "a.tif", truth.astype(np.float32))
    assert np.allclose(read(MapImages([path], S2, told=[Told(scale=1)]))[0], truth, atol=1e-6)


def test_radar_in_linear_power_is_refused(tmp_path):
    scheme = dfc_scheme(s1=True, s2hr=False, s2mr=False, s2lr=False)
    path = write(tmp_path / "a.tif", reflectance()[:2].astype(np.float32))
    with pytest.raises(ValueError, match=r"in VV VH, where .* decibel.*10 \* log10"):
        MapImages([path], scheme)
    decibel = write(tmp_path / "b.tif", (10 * np.log10(reflectance()[:2])).astype(np.float32))
    MapImages([decibel], scheme)


def test_a_date_that_is_brighter_throughout_is_told(tmp_path):
    images = scene(90, 90).astype(int) // 2
    paths = [write(tmp_path / "a.tif", images[0].astype(np.uint8))]
    paths.append(write(tmp_path / "b.tif", (images[1] + 85).astype(np.uint8)))
    (note,) = MapImages(paths, COLOURS).notes
    assert note.startswith(f"{paths[1]}: even its darkest pixels") and "1000 since 2022" in note
    (note,) = MapImages(paths[::-1], COLOURS).notes
    assert note.startswith(f"{paths[1]}: even its darkest pixels")
    assert not MapImages([paths[0], paths[0]], COLOURS).notes


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        (MEASURED, {"offset": [0.0, -1000.0]}, "--offset is for .* each image is standardised"),
        (COLOURS, {"scale": [1.0]}, "--scale is for .* convert the images beforehand"),
        (S2, {"offset": [0.0, -1000.0]}, "--offset 0 -1000: 2 values for 1 image"),
        (COLOURS, {"nodata": [0.0, 1.0, 2.0]}, "--nodata 0 1 2: 3 values for 2 image"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, scheme, options, message):
    with pytest.raises(ValueError, match=message):
        check_options(MapOptions(tmp_path, **options), scheme)


# ------------------------------------------------------------------- where there are data


@pytest.mark.parametrize("warped", [False, True])
@pytest.mark.parametrize(("dtype", "scheme"), [(np.uint8, COLOURS), (np.uint16, MEASURED)])
def test_nodata_that_is_told_equals_the_tag(tmp_path, dtype, scheme, warped):
    images = scene(80, 80, 4).astype(dtype)[:, : len(scheme.bands)]
    images[1][:, :, :40] = 0
    first = write(tmp_path / "a.tif", images[0])
    place = PLACE * rasterio.Affine.translation(0.5, 0) if warped else PLACE
    tagged = write(tmp_path / "tagged.tif", images[1], transform=place, nodata=0)
    untagged = write(tmp_path / "untagged.tif", images[1], transform=place)
    told = [Told(), Told(nodata=0)]
    want = read(MapImages([first, tagged], scheme))
    got = read(MapImages([first, untagged], scheme, told=told))
    assert 0.4 < want[1].mean() < 0.6
    for a, b in zip(want, got, strict=True):
        assert np.array_equal(a, b)


def test_a_constant_corner_is_told_and_a_value_that_cannot_be_is_refused(tmp_path):
    images = scene(100, 100)
    images[1][:, :40, :40] = 0
    paths = [write(tmp_path / f"{i}.tif", image) for i, image in enumerate(images)]
    (note,) = MapImages(paths, COLOURS).notes
    assert note.startswith(f"{paths[1]}: a corner") and note.endswith("pass --nodata 0")
    assert not MapImages(paths, COLOURS, told=[Told(nodata=0)] * 2).notes
    for value in (-9999, 0.5, float("nan")):
        with pytest.raises(ValueError, match=rf"--nodata {value:g}: .*1\.tif holds uint8"):
            MapImages(paths, COLOURS, told=[Told(), Told(nodata=value)])


# ------------------------------------------------------------------- where on earth


def write_by_points(path, image, left: float, **options):
    """Placed by nine control points: pixels of 1e-4 degrees, from `left` and 48 degrees."""
    height, width = image.shape[1:]
    points = [
        GroundControlPoint(row=row, col=column, x=left + column * 1e-4, y=48 - row * 1e-4)
        for row in (0, height / 2, height)
        for column in (0, width / 2, width)
    ]
    write(path, image, crs=None, transform=None, **options)
    with rasterio.open(path, "r+") as file:
        file.gcps = points, CRS.from_epsg(4326)
    return path


def test_images_are_placed_by_their_control_points(tmp_path):
    ground = scene(100, 140)[0]
    first = write_by_points(tmp_path / "a.tif", ground[:, :, :100], 15.0)
    second = write_by_points(tmp_path / "b.tif", ground[:, :, 40:], 15.004)  # 40 px to the east
    images = MapImages([first, second], COLOURS)
    assert images.crs == CRS.from_epsg(4326)
    assert images.transform[:6] == pytest.approx([1e-4, 0, 15, 0, -1e-4, 48], abs=1e-6)
    assert any("placed by its 9 ground control points" in note for note in images.notes)
    pixels, valid = read(images)
    assert valid[:, 45:95].all() and not valid[:, :38].any()
    differences = np.abs(pixels[0].astype(int) - pixels[1])[:, 5:95, 45:95]
    assert np.median(differences) <= 1 and differences.mean() < 3
    with pytest.raises(ValueError, match=r"different grids \(transform"):
        MapImages([first, second], COLOURS, strict_grid=True)
    beside = write(tmp_path / "c.tif", ground, "EPSG:4326", rasterio.Affine(*images.transform[:6]))
    assert read(MapImages([beside, second], COLOURS))[1][:, 45:135].all()


def test_rpcs_are_refused_with_the_remedy(tmp_path):
    path, one = write(tmp_path / "a.tif", scene(64, 64)[0], None, None), [1.0] + [0.0] * 19
    numbers = dict.fromkeys(("line_num_coeff", "samp_num_coeff"), one[::-1])
    numbers |= dict.fromkeys(("line_den_coeff", "samp_den_coeff"), one)
    for name in ("height", "lat", "line", "long", "samp"):
        numbers |= {f"{name}_off": 10.0, f"{name}_scale": 1.0}
    with rasterio.open(path, "r+") as file:
        file.rpcs = RPC(**numbers, err_bias=0.0, err_rand=0.0)
    with pytest.raises(ValueError, match=r"a\.tif is placed by RPCs.* gdalwarp -rpc"):
        MapImages([path, path], COLOURS)


def test_an_ordinary_image_has_no_notes(tmp_path):
    paths = [write(tmp_path / f"{i}.tif", x, UTM) for i, x in enumerate(scene(100, 100))]
    assert MapImages(paths, COLOURS).notes == []
