import numpy as np
import pytest
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window

from maps.transitions import (
    code_dtype,
    from_codes,
    names,
    nodata_code,
    num_codes,
    pair,
    palette,
    read_codes,
    to_codes,
)
from utils.figures.colour_vision import (
    VISIONS,
    distinct_colours,
    smallest_difference,
    to_lab,
)
from utils.rasters.gdal import rasterio
from utils.schemes import SECOND, change_scheme
from utils.structures import IGNORE_INDEX

BINARY = change_scheme(("red", "green", "blue"), "none")


def test_codes_are_those_of_the_formula():
    # K = 6: 1 + (from - 1) * 6 + (to - 1)
    date1, date2 = np.array([[0, 1, 1], [2, 6, 6]]), np.array([[0, 1, 2], [1, 6, 5]])
    np.testing.assert_array_equal(to_codes(date1, date2, 6), [[0, 1, 2], [7, 36, 35]])


@pytest.mark.parametrize("num_classes", [1, 2, 6, 15, 16, 254])
def test_every_code_survives_the_round_trip(num_classes):
    codes = np.append(np.arange(num_codes(num_classes)), nodata_code(num_classes))
    dates = from_codes(codes, num_classes)
    assert dates[0].dtype == np.uint8 and dates[0].max() == IGNORE_INDEX
    back = to_codes(*dates, num_classes)
    assert back.dtype == code_dtype(num_classes)
    np.testing.assert_array_equal(back, codes)
    torch_dates = from_codes(torch.from_numpy(codes), num_classes)
    for tensor, array in zip(torch_dates, dates, strict=True):
        assert torch.equal(tensor, torch.from_numpy(array).long())
    assert torch.equal(to_codes(*torch_dates, num_classes), torch.from_numpy(codes).long())


@pytest.mark.parametrize("num_classes", [0, 1, 6])
def test_pair_says_the_same_as_decode(num_classes):
    pairs = [pair(code, num_classes) for code in range(num_codes(num_classes))]
    if num_classes == 0:
        assert pairs == [(0, 0), (0, 0)]
        return
    first, second = from_codes(np.arange(num_codes(num_classes)), num_classes)
    assert pairs == list(zip(first.tolist(), second.tolist(), strict=True))


def test_the_smallest_type_is_taken_that_also_holds_no_data():
    assert [code_dtype(k) for k in (0, 6, 15, 16)] == [np.uint8] * 3 + [np.uint16]
    assert [nodata_code(k) for k in (0, 6, 15, 16)] == [255, 255, 255, 65535]
    assert num_codes(15) == 226


def test_classes_everywhere_need_the_change_mask():
    date1, date2 = np.array([1, 1, 3]), np.array([1, 2, 3])
    np.testing.assert_array_equal(to_codes(date1, date2, 6, np.array([0, 1, 1])), [0, 2, 15])
    np.testing.assert_array_equal(to_codes(date1, date2, 6), [1, 2, 15])
    boolean = torch.tensor([False, True, True])
    codes = to_codes(torch.from_numpy(date1), torch.from_numpy(date2), 6, boolean)
    assert codes.tolist() == [0, 2, 15]


def test_no_data_at_one_date_or_in_the_mask_is_no_data():
    date1, date2 = np.array([255, 1, 1], np.uint8), np.array([1, 255, 2], np.uint8)
    np.testing.assert_array_equal(to_codes(date1, date2, 6), [255, 255, 2])
    masked = to_codes(date1, date2, 6, np.array([1, 1, 255], np.uint8))
    np.testing.assert_array_equal(masked, [255, 255, 255])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_codes(np.array([7]), np.array([1]), 6), "1 pixels hold a value outside"),
        (
            lambda: to_codes(np.array([0]), np.array([1]), 6, np.array([1])),
            "outside of the classes",
        ),
        (lambda: to_codes(np.zeros(3, int), np.zeros(2, int), 6), "one grid"),
        (lambda: from_codes(np.array([37]), 6), "outside of the classes or codes"),
        (lambda: from_codes(np.array([-1]), 6), "outside of the classes or codes"),
        (lambda: from_codes(np.array([1]), 0), "binary change has no classes"),
        (lambda: num_codes(255), "255 classes: codes exist for 0..254"),
    ],
)
def test_impossible_values_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names_and_colours_go_with_the_codes():
    text, colours = names(SECOND), palette(SECOND)
    assert len(text) == len(colours) == num_codes(6) == len(set(colours))
    assert text[0] == "unchanged" and colours[0] == SECOND.palette[0]
    assert (text[2], text[8]) == ("water to ground", "within ground")
    assert names(BINARY) == ["unchanged", "changed"] and palette(BINARY) == BINARY.palette


@pytest.mark.parametrize(("num_classes", "least"), [(2, 50), (6, 10), (8, 7), (10, 5)])
def test_colours_differ_for_every_kind_of_colour_vision(num_classes, least):
    # 2.3 is what one can just see side by side
    colours = np.array(distinct_colours(num_classes**2))
    assert len(colours) == num_classes**2 and smallest_difference(colours) > least


def test_classes_of_date_2_are_families_from_blue_to_yellow():
    colours = np.array(palette(SECOND)[1:]).reshape(6, 6, 3)  # (from, to, RGB)
    hue = to_lab(colours.reshape(-1, 3), "deutan")[:, 2].reshape(6, 6)
    lightness = to_lab(colours.reshape(-1, 3))[:, 0].reshape(6, 6)
    assert (hue.max(axis=0)[:-1] <= hue.min(axis=0)[1:]).all()
    assert (np.diff(lightness, axis=0) >= 0).all()


def test_simulated_vision_keeps_greys_and_loses_red_and_green():
    greys = np.array([[0, 0, 0], [128, 128, 128], [255, 255, 255]])
    red_green = np.array([[200, 60, 0], [115, 120, 0]])
    for vision in VISIONS:
        np.testing.assert_allclose(to_lab(greys, vision), to_lab(greys), atol=0.05)
    np.testing.assert_allclose(to_lab(greys)[:, 0], [0, 53.585, 100], atol=1e-3)

    def apart(vision: str) -> float:
        return float(np.linalg.norm(np.subtract(*to_lab(red_green, vision))))

    assert apart("deutan") < apart("normal") / 3


def write_codes(path, values, dtype="uint8", nodata=255):
    profile = {"driver": "GTiff", "height": 1, "width": len(values), "count": 1, "dtype": dtype}
    transform = from_origin(0, 0, 1, 1)
    with rasterio().open(path, "w", transform=transform, nodata=nodata, **profile) as file:
        file.write(np.array([[values]], dtype))


def test_codes_of_a_file_come_with_where_they_are_valid(tmp_path):
    write_codes(tmp_path / "a.tif", [0, 36, 255])
    with rasterio().open(tmp_path / "a.tif") as file:
        codes, valid = read_codes(file, Window(0, 0, 3, 1), SECOND)
    np.testing.assert_array_equal(codes, [[0, 36, 0]])
    np.testing.assert_array_equal(valid, [[True, True, False]])


def test_a_file_of_another_scheme_is_an_error(tmp_path):
    write_codes(tmp_path / "a.tif", [0, 37, 255])
    with (
        rasterio().open(tmp_path / "a.tif") as file,
        pytest.raises(ValueError, match=r"a\.tif holds 37, but codes of 6 classes lie in 0\.\.36"),
    ):
        read_codes(file, Window(0, 0, 3, 1), SECOND)
