import numpy as np
import pytest
from PIL import Image

from datasets.codecs import LabelError, read_image, read_label, unique
from helpers.tiny_data import PALETTE, make_pair, truncate, write, write_label


@pytest.fixture
def mask():
    return make_pair(np.random.default_rng(0), 32)[1][0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA"])
def test_every_label_coding_reads_the_same(tmp_path, mask, mode, suffix):
    path = write_label(tmp_path / f"a{suffix}", mask, mode)
    index = read_label(path, PALETTE)
    assert index.dtype == np.uint8
    assert np.array_equal(index, mask)


def test_each_palette_colour_has_its_index(tmp_path):
    path = write(tmp_path / "a.png", np.array([PALETTE], np.uint8))
    assert read_label(path, PALETTE).tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_palette_file_in_another_order_is_read_by_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(bytes((*PALETTE[5], *PALETTE[0], *PALETTE[3])))
    image.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", PALETTE).tolist() == [[5, 0, 3]]


def test_palette_file_of_other_colours_is_read_by_its_values(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 6]], np.uint8))
    image.putpalette(bytes(range(21)))
    image.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", PALETTE).tolist() == [[0, 1, 6]]


def test_unknown_colour_names_file_colour_and_count(tmp_path, mask):
    colours = np.array(PALETTE, np.uint8)[mask]
    colours[0, :3] = (10, 20, 30)
    path = write(tmp_path / "a.png", colours)
    with pytest.raises(LabelError, match=r"a\.png: 3 pixels in 1 colour.*RGB \(10, 20, 30\)"):
        read_label(path, PALETTE)


def test_change_mask_given_as_label_names_its_values(tmp_path):
    path = write(tmp_path / "a.png", np.array([[0, 255]], np.uint8))
    with pytest.raises(LabelError, match=r"a\.png: value\(s\) 255 where 0\.\.6 .*change mask"):
        read_label(path, PALETTE)


def test_value_above_the_last_class_is_an_error(tmp_path):
    path = write(tmp_path / "a.png", np.array([[0, 6, 7]], np.uint8))
    with pytest.raises(LabelError, match=r"value\(s\) 7 where 0\.\.6"):
        read_label(path, PALETTE)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_truncated_file_is_named(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = truncate(write(tmp_path / f"a{suffix}", pixels))
    with pytest.raises(OSError, match=rf"a\{suffix}"):
        read_image(path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "RGB"])
def test_images_become_rgb(tmp_path, mode):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    assert (pixels == grey[..., None]).all()


def test_16_bit_images_are_turned_down_with_a_remedy(tmp_path):
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / name)
        with pytest.raises(ValueError, match=r"8 bits a band.*gdal_translate"):
            read_image(tmp_path / name)


def write_tiff(path, bands):
    rasterio = pytest.importorskip("rasterio")
    options = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", dtype=bands.dtype, **options) as file:
        file.write(bands)
    return path


@pytest.mark.filterwarnings("ignore")  # no georeference
def test_first_three_bands_of_a_tiff_with_many(tmp_path):
    bands = np.random.default_rng(0).integers(0, 256, (7, 8, 9)).astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", bands)
    assert np.array_equal(read_image(path), bands[:3].transpose(1, 2, 0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [3, 7])
def test_16_bit_colour_tiff_is_not_cut_to_8_bits(tmp_path, count):
    path = write_tiff(tmp_path / "a.tif", np.full((count, 8, 9), 3000, np.uint16))
    with pytest.raises((ValueError, OSError), match=r"a\.tif.*8.bit"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_integer_tiff_labels_of_any_width(tmp_path, mask, dtype):
    path = write_tiff(tmp_path / "a.tif", mask[None].astype(dtype))
    assert np.array_equal(read_label(path, PALETTE), mask)
    path = write_tiff(tmp_path / "b.tif", np.full((1, 8, 8), 9, dtype))
    with pytest.raises(LabelError, match="9"):
        read_label(path, PALETTE)


@pytest.mark.filterwarnings("ignore")
def test_floating_point_labels_are_an_error(tmp_path, mask):
    path = write_tiff(tmp_path / "a.tif", mask[None].astype("float32"))
    with pytest.raises(LabelError, match="floating-point"):
        read_label(path, PALETTE)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 4096])
@pytest.mark.parametrize("values", [1, 3, 256])
def test_unique_bytes_are_those_of_numpy(size, values):
    pixels = np.random.default_rng(size).integers(0, values, size).astype(np.uint8)
    for some in (pixels, pixels[::2]):
        found = unique(some)
        assert found.dtype == np.uint8 and found.tolist() == np.unique(some).tolist()
