import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from utils.rasters.writing import BLOCK_PX, NpzStripWriter, PngStripWriter, StripWriter, open_strips

PALETTE = ((255, 255, 255), (220, 20, 60))
CRS, TRANSFORM = rasterio.CRS.from_epsg(32650), from_origin(500000, 3500000, 4, 4)


def write_in_strips(path: Path, array: np.ndarray, seed: int = 0, **options) -> None:
    """Writes (H, W) or (bands, H, W) in five strips, in random order."""
    rng = np.random.default_rng(seed)
    height, width = array.shape[-2:]
    cuts = [0, *sorted(rng.choice(np.arange(1, height), 4, replace=False)), height]
    with open_strips(path, height, width, array.dtype, **options) as out:
        for i in rng.permutation(5):
            out.write(int(cuts[i]), array[..., cuts[i] : cuts[i + 1], :])


def read(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read()


def random_array(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(1).random(shape)
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else (values * 200).astype(dtype)


@pytest.mark.parametrize("shape", [(300, 700), (20, 9), (3, 600, 270)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_strips_in_any_order_read_back_with_their_georeference(tmp_path, dtype, shape):
    array = random_array(dtype, shape)
    bands = shape[0] if len(shape) == 3 else 1
    write_in_strips(tmp_path / "a.tif", array, crs=CRS, transform=TRANSFORM, bands=bands)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert (file.crs, file.transform, file.dtypes) == (CRS, TRANSFORM, (dtype,) * bands)
        np.testing.assert_array_equal(file.read(), array.reshape(bands, *shape[-2:]))


def test_file_is_tiled_deflated_and_predicts_as_suits_the_type(tmp_path):
    for dtype, predictor in [("uint16", "2"), ("float32", "3")]:
        write_in_strips(tmp_path / "a.tif", random_array(dtype, (600, 600)))
        with rasterio.open(tmp_path / "a.tif") as file:
            assert file.block_shapes == [(BLOCK_PX, BLOCK_PX)]
            structure = file.tags(ns="IMAGE_STRUCTURE")
            assert structure["COMPRESSION"] == "DEFLATE" and structure["PREDICTOR"] == predictor


def test_mask_has_colours_nodata_and_words(tmp_path):
    mask = random_array("uint8", (50, 60)) % 2
    options = {"palette": PALETTE, "nodata": 255, "descriptions": ["1 = changed"]}
    write_in_strips(tmp_path / "a.tif", mask, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "a.tif") as file:
            colours = file.colormap(1)
            assert [colours[0], colours[1]] == [(*rgb, 255) for rgb in PALETTE]
            assert file.nodata == 255 and file.descriptions == ("1 = changed",)
            assert file.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", "1") == "1"
    assert Image.open(tmp_path / "a.tif").mode == "P"  # any viewer shows the colours
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], mask)


def test_no_georeference_gives_no_warning_and_no_geo_tags(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_in_strips(tmp_path / "a.tif", random_array("uint8", (20, 30)))
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(tmp_path / "a.tif") as file:
        assert file.crs is None and file.transform == rasterio.Affine.identity()
    geo_tags = {33550, 33922, 34264, 34735}
    assert not geo_tags & set(Image.open(tmp_path / "a.tif").tag_v2)


def test_half_floats_and_bools_are_stored_in_what_every_reader_has(tmp_path):
    probs = random_array("float16", (20, 30))
    write_in_strips(tmp_path / "a.tif", probs)
    assert read(tmp_path / "a.tif").dtype == np.float32
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], probs.astype(np.float32))
    write_in_strips(tmp_path / "b.tif", probs > 0.5)
    np.testing.assert_array_equal(read(tmp_path / "b.tif")[0], (probs > 0.5).astype(np.uint8))


def test_png_is_a_palette_mask(tmp_path):
    mask = random_array("uint8", (50, 60)) % 2
    write_in_strips(tmp_path / "new" / "a.png", mask, palette=PALETTE, crs=CRS)
    image = Image.open(tmp_path / "new" / "a.png")
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), mask)


def test_npz_holds_probabilities_of_change(tmp_path):
    probs = random_array("float32", (50, 60))
    write_in_strips(tmp_path / "a.npz", probs)
    with np.load(tmp_path / "a.npz") as file:
        assert file.files == ["change"] and file["change"].dtype == np.float16
        np.testing.assert_array_equal(file["change"], probs.astype(np.float16))


@pytest.mark.parametrize("suffix", ["tif", "png", "npz"])
def test_an_error_inside_leaves_no_file_and_keeps_the_old_one(tmp_path, suffix):
    dtype = "float32" if suffix == "npz" else "uint8"
    palette = None if suffix == "npz" else PALETTE
    path = tmp_path / f"a.{suffix}"
    for expected in ([], [path.name]):
        with pytest.raises(KeyError), open_strips(path, 4, 4, dtype, palette=palette) as out:
            out.write(0, np.zeros((4, 4), dtype))
            raise KeyError("mine")
        assert [file.name for file in tmp_path.iterdir()] == expected
        path.write_text("old")
    assert path.read_text() == "old"


@pytest.mark.parametrize("suffix", ["tif", "png", "npz"])
def test_missing_rows_are_an_error_and_leave_no_file(tmp_path, suffix):
    dtype = "float32" if suffix == "npz" else "uint8"
    palette = None if suffix == "npz" else PALETTE
    with (
        pytest.raises(ValueError, match=r"2 of 4 rows were never written, the first is 1"),
        open_strips(tmp_path / f"a.{suffix}", 4, 4, dtype, palette=palette) as out,
    ):
        out.write(0, np.zeros((1, 4), dtype))
        out.write(3, np.zeros((1, 4), dtype))
    assert not list(tmp_path.iterdir())


def test_a_value_without_a_colour_leaves_no_png(tmp_path):
    with pytest.raises(ValueError, match="value 7 has no colour"):
        write_in_strips(tmp_path / "a.png", np.full((9, 9), 7, np.uint8), palette=PALETTE)
    assert not list(tmp_path.iterdir())


def test_impossible_strips_are_errors(tmp_path):
    out = open_strips(tmp_path / "a.png", 4, 3, "uint8", palette=PALETTE)
    for top, shape in [(3, (2, 3)), (-1, (2, 3)), (0, (2, 2)), (0, (2, 1, 3)), (0, (3,))]:
        with pytest.raises(ValueError, match="does not lie in a raster"):
            out.write(top, np.zeros(shape, np.uint8))
    for dtype in ("float32", "int64"):
        with pytest.raises(ValueError, match=f"holds uint8; a strip of {dtype} could lose"):
            out.write(0, np.zeros((4, 3), dtype))


def test_suffix_chooses_the_writer(tmp_path):
    kinds = {".TIF": StripWriter, ".tiff": StripWriter, ".png": PngStripWriter}
    for suffix, kind in {**kinds, ".npz": NpzStripWriter}.items():
        assert type(open_strips(tmp_path / f"a{suffix}", 4, 4, "uint8")) is kind
    with pytest.raises(ValueError, match=r"not written as '\.jpg'; choose from \.tif, "):
        open_strips(tmp_path / "a.jpg", 4, 4, "uint8")


@pytest.mark.parametrize(
    ("name", "dtype", "options", "message"),
    [
        ("a.tif", "float32", {"palette": PALETTE}, "needs 1 band of uint8, not 1 of float32"),
        ("a.tif", "uint8", {"palette": PALETTE, "bands": 2}, "not 2 of uint8"),
        ("a.tif", "uint8", {"descriptions": ["a", "b"]}, "1 bands, but 2 descriptions"),
        ("a.png", "uint8", {}, "needs a palette"),
        ("a.npz", "uint8", {}, r"1 band of floats, not 1 of uint8"),
        ("a.npz", "float32", {"bands": 3}, "not 3 of float32"),
    ],
)
def test_what_a_format_cannot_hold_is_an_error(tmp_path, name, dtype, options, message):
    with (
        pytest.raises(ValueError, match=message),
        open_strips(tmp_path / name, 4, 4, dtype, **options),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_an_error_and_leaves_no_file(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with pytest.raises(OSError, match=r"a\.tif"):
            write_in_strips(tmp_path / "a.tif", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
