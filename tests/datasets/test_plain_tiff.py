import numpy as np
import pytest

from datasets.sentinel.plain_tiff import read_plain
from helpers.data_sets import build_dataset
from helpers.tiny_data import truncate, write, write_tiff
from utils.schemes import dfc_scheme

RNG = np.random.default_rng(0)


def bands(count, dtype, size=(40, 30)):
    return (RNG.random((count, *size)) * 200).astype(dtype)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("count", [1, 2, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_uncompressed_files_are_read_as_rasterio_reads_them(tmp_path, dtype, count, interleave):
    image = bands(count, dtype)
    found = read_plain(write_tiff(tmp_path / "a.tif", image, interleave=interleave))
    assert found.dtype == image.dtype and np.array_equal(found, image)


@pytest.mark.parametrize(
    "options",
    [
        {"blockysize": 7},
        {"photometric": "RGB"},
        {"endianness": "BIG"},
        {"nodata": 3},
        {"crs": None},
    ],
)
def test_other_ways_to_store_the_same(tmp_path, options):
    image = bands(3, "uint16")
    assert np.array_equal(read_plain(write_tiff(tmp_path / "a.tif", image, **options)), image)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate"},
        {"compress": "lzw", "predictor": 2},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"BIGTIFF": "YES"},
        {"nbits": 12},
        {"sparse_ok": True},
    ],
)
def test_any_other_file_is_left_to_rasterio(tmp_path, options):
    image = bands(2, "uint16") * ("sparse_ok" not in options)
    path = write_tiff(tmp_path / "a.tif", image, **options)
    assert read_plain(path) is None


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_broken_file_is_left_to_rasterio(tmp_path, share):
    path = write_tiff(tmp_path / "a.tif", bands(13, "uint16"))
    assert read_plain(truncate(path, share)) is None


def test_tags_may_lie_behind_the_pixels(tmp_path):
    import rasterio

    image = bands(13, "uint16")
    path = write_tiff(tmp_path / "a.tif", image)
    size = path.stat().st_size
    with rasterio.open(path, "r+") as file:
        file.update_tags(note="x" * 5000)
    data = bytearray(path.read_bytes())
    assert int.from_bytes(data[4:8], "little") >= size
    data[8:10] = b"\0\0"  # the former tags, where GDAL first puts them
    path.write_bytes(data)
    assert np.array_equal(read_plain(path), image)


def test_what_is_not_there_is_left_to_rasterio(tmp_path):
    assert read_plain(tmp_path / "a.tif") is None and read_plain(tmp_path) is None


def test_pixels_of_a_compressed_file_are_not_read(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", bands(13, "uint16"), compress="deflate")
    monkeypatch.setattr(np, "fromfile", None)
    assert read_plain(path) is None


def test_what_is_no_tiff_is_left_to_rasterio(tmp_path):
    path = write(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    assert read_plain(path) is None
    path.write_bytes(b"II*\0" + b"\xff" * 100)
    assert read_plain(path) is None


@pytest.mark.parametrize("options", [{}, {"compress": "deflate"}, {"endianness": "BIG"}])
def test_every_reader_gives_the_same_patches(tmp_path, options):
    image = bands(13, "uint16") * 40
    radar = -bands(2, "float32") / 5
    write_tiff(tmp_path / "s2/a_s2_1.tif", image, **options)
    write_tiff(tmp_path / "s1/a_s1_1.tif", radar, **options)
    dataset = build_dataset(
        "tiff_dir", "test", tmp_path, scheme=dfc_scheme(True, True, True, False)
    )
    (found,) = dataset.reader.read(0)[0]
    assert found.flags.c_contiguous and found.dtype == np.float32 and found.dtype.isnative
    chosen = image[[1, 2, 3, 4, 5, 6, 7, 8, 11, 12]]
    assert np.array_equal(found[:10], chosen.clip(0, 10000).astype("f4") / np.float32(10000))
    assert np.allclose(found[10:], radar.clip(-25, 0) / 25 + 1)
