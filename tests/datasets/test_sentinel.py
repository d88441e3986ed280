import numpy as np
import pytest
import rasterio

from datasets.codecs import LabelError
from datasets.reader import Reading, SceneReader
from datasets.sentinel import reader as sentinel
from datasets.sentinel.reader import (
    SentinelLabels,
    SentinelPatch,
    SentinelScenes,
    chosen_bands,
    label_table,
    mate,
    open_label,
    open_sentinel,
    to_dfc_labels,
)
from datasets.sentinel.scaling import scale_s1, scale_s2
from helpers.sentinel_data import make_dfc2020, make_sen12ms
from helpers.tiny_data import write_tiff
from utils.rasters.windows import Window
from utils.schemes import NAIC2020, dfc_scheme

IGBP_GOLDEN = [255, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9]  # of 0..17
IGBP_NO_SAVANNA = [255, 0, 0, 0, 0, 0, 1, 1, 255, 255, 2, 3, 4, 5, 4, 6, 7, 8]
HR, MR, LR = [1, 2, 3, 7], [4, 5, 6, 8, 11, 12], [0, 9, 10]  # indices in the file


def reader_of(root, patches, scheme, label=None) -> SceneReader:
    scenes = SentinelScenes(root, patches, scheme, label)
    labels = SentinelLabels(label or "dfc", scheme.num_classes)
    reading = Reading(labels, open_sentinel, open_label, scaled=True, equal_sizes=True)
    return SceneReader(scenes, scheme, reading)


def first(reader) -> tuple[np.ndarray, np.ndarray]:
    """Image (C, H, W) and classes (H, W) of the first patch."""
    images, labels, _ = reader.read(0)
    return images[0], labels[0]


def dfc_classes(path, label, num_classes=10):
    window = Window(0, 0, *open_label(path).whole().shape)
    return SentinelLabels(label, num_classes).read([path], window, open_label)[0]


def test_golden_labels():
    assert label_table("lc", 10)[:18].tolist() == IGBP_GOLDEN
    assert label_table("lc", 9)[:18].tolist() == IGBP_NO_SAVANNA
    assert label_table("dfc", 10)[:11].tolist() == [255, *range(10)]
    assert label_table("dfc", 9)[:11].tolist() == [255, 0, 1, 255, 2, 3, 4, 5, 6, 7, 8]
    for label, count in (("lc", 18), ("dfc", 11)):
        assert (label_table(label, 10)[count:] == 254).all()
    with pytest.raises(ValueError, match=r"8 classes: DFC2020 has 10.*--no-savanna"):
        label_table("lc", 8)


@pytest.mark.parametrize("num_classes", [9, 10])
def test_predictions_become_the_numbers_of_the_label_files(num_classes):
    numbers = to_dfc_labels(np.arange(num_classes), num_classes)
    assert numbers.dtype == np.uint8
    assert numbers.tolist() == [n for n in range(1, 11) if num_classes == 10 or n != 3]
    # reading such a file back gives the classes again
    assert label_table("dfc", num_classes)[numbers].tolist() == list(range(num_classes))
    assert to_dfc_labels(np.array([[255, 2]]), num_classes).tolist() == [[255, 13 - num_classes]]


@pytest.mark.parametrize(
    ("groups", "s2", "s1"),
    [
        ((False, True, False, False), HR, []),
        ((False, False, True, False), MR, []),
        ((False, False, False, True), LR, []),
        ((True, True, True, False), sorted(HR + MR), [0, 1]),
        ((True, True, True, True), list(range(13)), [0, 1]),
        ((True, False, False, False), [], [0, 1]),
    ],
)
def test_bands_are_those_of_the_groups_in_the_order_of_the_file(groups, s2, s1):
    scheme = dfc_scheme(*groups)
    expected = {kind: tuple(bands) for kind, bands in (("s2", s2), ("s1", s1)) if bands}
    assert chosen_bands(scheme) == expected and len(scheme.bands) == len(s2) + len(s1)


def test_other_bands_are_refused():
    with pytest.raises(ValueError, match=r"bands red green blue: .*--use-s1, --use-s2hr"):
        chosen_bands(NAIC2020)
    radar_first = dfc_scheme(True, True, False, False)._replace(bands=("VV", "VH", "B2"))
    with pytest.raises(ValueError, match="B12 and then VV VH"):
        chosen_bands(radar_first)


def test_optical_bands_are_clipped_and_divided():
    stored = np.array([0, 1, 5000, 10000, 10001, 65535], np.uint16)
    scaled = scale_s2(stored)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [0, np.float32(0.0001), 0.5, 1, 1, 1]
    assert scale_s2(np.array([-5, 2500], np.int16)).tolist() == [0, 0.25]


def test_radar_is_clipped_and_shifted_and_not_a_number_is_zero_decibel():
    decibel = np.array([-30, -25, -12.5, 0, 3, np.nan, np.inf, -np.inf], np.float32)
    scaled = scale_s1(decibel)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [0, 0, 0.5, 1, 1, 1, 1, 0]
    assert np.isnan(decibel[5])  # the argument stays as it is


def test_bands_are_found_by_number_so_all_must_be_there(tmp_path):
    bands = np.arange(13, dtype=np.uint16)[:, None, None] * np.full((4, 6), 500, np.uint16)
    path = write_tiff(tmp_path / "a_s2_1.tif", bands)
    image = open_sentinel(path).read(Window(0, 0, 4, 6), [1, 8])
    assert image.shape == (2, 4, 6) and (image[0] == 0.05).all() and (image[1] == 0.4).all()
    path = write_tiff(tmp_path / "a_s1_1.tif", bands)
    with pytest.raises(ValueError, match=r"1.tif: 13 band\(s\) where 2 are needed \(VV VH\)"):
        open_sentinel(path)
    path = write_tiff(tmp_path / "b_s2_1.tif", bands[:12])
    with pytest.raises(ValueError, match=r"1.tif: 12 band\(s\) where 13 are needed \(B1 B2 .*B12"):
        open_sentinel(path)


def test_mates_are_found_by_the_last_folder_and_the_name_alone():
    patch = SentinelPatch("s2_data/ROIs1158_spring/s2_17", "ROIs1158_spring_s2_17_p3")
    assert mate(patch, "s1") == ("s2_data/ROIs1158_spring/s1_17", "ROIs1158_spring_s1_17_p3")
    assert mate(patch, "lc") == ("s2_data/ROIs1158_spring/lc_17", "ROIs1158_spring_lc_17_p3")
    assert mate(patch, "s2") == tuple(patch)
    assert mate(SentinelPatch("s2", "a_s2_b"), "s1") == ("s1", "a_s1_b")


def test_a_root_that_looks_like_a_patch_changes_nothing(tmp_path):
    root = make_dfc2020(tmp_path / "s2_root_s2_", val=1, test=0)
    patch = SentinelPatch("ROIs0000_validation/s2_validation", "ROIs0000_validation_s2_0_p0")
    scheme = dfc_scheme(True, True, True, True)
    image, classes = first(reader_of(root, [patch], scheme, "dfc"))
    assert image.shape == (15, 32, 32) and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    assert set(np.unique(classes)) <= {0, 5, 6, 9}


def test_order_is_optical_then_radar(tmp_path):
    root = make_dfc2020(tmp_path, val=1, test=0)
    patch = SentinelPatch("ROIs0000_validation/s2_validation", "ROIs0000_validation_s2_0_p0")

    def read(*groups):
        return first(reader_of(root, [patch], dfc_scheme(*groups)))[0]

    both = read(True, True, False, False)
    assert np.array_equal(both[:4], read(False, True, False, False))
    assert np.array_equal(both[4:], read(True, False, False, False))
    everything = read(False, True, True, True)
    assert np.array_equal(everything[[1, 2, 3, 7]], both[:4])


def test_each_file_is_opened_once(tmp_path, monkeypatch):
    root, opened = make_dfc2020(tmp_path, val=1, test=0), []
    plain = sentinel.read_plain
    monkeypatch.setattr(sentinel, "read_plain", lambda path: opened.append(path) or plain(path))
    monkeypatch.setattr(sentinel, "open_tiff", None)  # not needed
    patch = SentinelPatch("ROIs0000_validation/s2_validation", "ROIs0000_validation_s2_0_p0")
    reader = reader_of(root, [patch], dfc_scheme(True, True, True, True), "dfc")
    reader.read(0)
    assert [path.parent.name.partition("_")[0] for path in opened] == ["s2", "s1", "dfc"]


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*a.tif; check --data-root"):
        open_sentinel(tmp_path / "a.tif")


def test_labels_with_other_values_are_refused(tmp_path):
    path = write_tiff(tmp_path / "lc.tif", np.array([[[17, 18, 255]]], np.uint8))
    with pytest.raises(LabelError, match=r"lc.tif: value\(s\) 18, 255 where 0..17 \(IGBP\)"):
        dfc_classes(path, "lc")
    path = write_tiff(tmp_path / "dfc.tif", np.array([[[10, 11]]], np.uint8))
    with pytest.raises(LabelError, match=r"value\(s\) 11 where 0..10 \(DFC2020\)"):
        dfc_classes(path, "dfc")
    path = write_tiff(tmp_path / "deep.tif", np.array([[[0, 10, -256]]], np.int16))
    with pytest.raises(LabelError, match=r"value\(s\) -256"):
        dfc_classes(path, "dfc")
    path = write_tiff(tmp_path / "float.tif", np.array([[[1.0]]], np.float32))
    with pytest.raises(LabelError, match="floating-point"):
        dfc_classes(path, "dfc")


def test_sizes_must_agree(tmp_path):
    root = make_sen12ms(tmp_path, {"ROIs1158_spring/s2_1": 1})
    patch = SentinelPatch("ROIs1158_spring/s2_1", "ROIs1158_spring_s2_1_p1")
    reader = reader_of(root, [patch], dfc_scheme(True, True, False, False), "lc")
    image, classes = first(reader)
    assert (image.shape, classes.shape) == ((6, 32, 32), (32, 32)) and image.dtype == np.float32
    (path,) = reader.scenes[0].labels
    reader = reader_of(root, [patch], dfc_scheme(True, True, False, False), "lc")
    write_tiff(path, np.ones((4, 16, 32), np.uint8))
    with pytest.raises(ValueError, match=r"sizes differ.*32 x 32, .*16 x 32"):
        reader.read(0)


def test_tags_of_scale_and_offset_make_reflectance(tmp_path):
    stored = np.random.default_rng(0).integers(0, 9000, (13, 8, 8)).astype(np.uint16)
    paths = [write_tiff(tmp_path / f"{name}_s2_p1.tif", stored + 1000) for name in "ab"]
    with rasterio.open(paths[1], "r+") as file:
        file.scales, file.offsets = [1e-4] * 13, [-0.1] * 13
    whole = Window(0, 0, 8, 8)
    plain, tagged = (sentinel.open_sentinel(path).read(whole, range(13)) for path in paths)
    assert np.allclose(plain, (stored + 1000).clip(0, 10000) / 1e4)
    assert np.allclose(tagged, stored / 1e4, atol=1e-6)


@pytest.mark.parametrize(("dtype", "kind"), [(np.uint8, "8-bit"), (np.float32, "floating-point")])
def test_values_that_are_no_digital_numbers_are_refused(tmp_path, dtype, kind):
    path = write_tiff(tmp_path / "a_s2_p1.tif", np.zeros((13, 8, 8), dtype))
    with pytest.raises(ValueError, match=rf"_s2_p1\.tif: {kind} values"):
        sentinel.open_sentinel(path)
