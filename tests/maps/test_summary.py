import csv
import json

import numpy as np
import pytest
from rasterio.transform import from_origin

from helpers.map_data import write_layer as write
from maps import summary
from maps.summary import write_class_summary, write_summary
from utils.schemes import NAIC2020, SECOND, change_scheme
from utils.structures import Scheme

BINARY = change_scheme(("red", "green", "blue"), "none")
TWO = Scheme("semantic_change", ("water", "land"), ((255,) * 3, (0, 0, 255), (0, 128, 0)))
# K = 2: 1 within water, 2 water to land, 3 land to water, 4 within land
CODES = [[0, 0, 2, 2, 2], [0, 255, 3, 4, 0]]
UTM, DEGREES = (
    (32633, from_origin(500_000, 5_000_000, 10, 10)),
    (4326, from_origin(15, 48, 0.1, 0.1)),
)


def csv_rows(folder):
    with open(folder / "summary.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_matrix_counts_pixels_hectares_and_per_cent(tmp_path):
    found = write_summary(tmp_path, write(tmp_path / "t.tif", CODES), TWO)
    # 10 pixels of 100 m2 = 0.01 ha; one has no data: 4 of 9 unchanged, 3 + 1 + 1 changed
    assert found["pixels"] == {"valid": 9, "unchanged": 4, "changed": 5, "nodata": 1}
    assert found["hectares"] == {"valid": 0.09, "unchanged": 0.04, "changed": 0.05, "nodata": 0.01}
    assert found["percent"] == pytest.approx({"unchanged": 400 / 9, "changed": 500 / 9})
    matrix = found["matrix"]
    assert matrix["labels"] == ["unchanged", "water", "land"]
    assert matrix["pixels"] == [[4, 0, 0], [0, 0, 3], [0, 1, 1]]
    assert matrix["hectares"] == [[0.04, 0, 0], [0, 0, 0.03], [0, 0.01, 0.01]]
    np.testing.assert_allclose(matrix["percent"], np.array(matrix["pixels"]) * 100 / 9)
    assert (found["crs"], found["area_method"]) == ("EPSG:32633", "plane")
    assert json.loads((tmp_path / "summary.json").read_text()) == found


def test_csv_has_a_line_for_each_code_and_the_sums(tmp_path):
    write_summary(tmp_path, write(tmp_path / "t.tif", CODES), TWO)
    rows = csv_rows(tmp_path)
    assert list(rows[0]) == ["from", "to", "code", "pixels", "hectares", "percent"]
    cells = [(r["from"], r["to"], r["code"], r["pixels"]) for r in rows]
    assert cells == [
        ("unchanged", "unchanged", "0", "4"),
        ("water", "water", "1", "0"),
        ("water", "land", "2", "3"),
        ("land", "water", "3", "1"),
        ("land", "land", "4", "1"),
        ("changed", "", "", "5"),
        ("valid", "", "", "9"),
        ("no data", "", "", "1"),
    ]
    assert [float(rows[i]["hectares"]) for i in (2, 5, 7)] == [0.03, 0.05, 0.01]
    assert float(rows[5]["percent"]) == pytest.approx(55.555556) and rows[7]["percent"] == ""
    assert sum(float(r["percent"]) for r in rows[:5]) == pytest.approx(100, abs=1e-4)


def test_plain_names_need_no_mark_and_others_get_one(tmp_path):
    path = write(tmp_path / "t.tif", CODES)
    write_summary(tmp_path, path, TWO)
    assert (tmp_path / "summary.csv").read_bytes().startswith(b"from,to,")
    write_summary(tmp_path, path, TWO._replace(classes=("Gewässer", 'Land, "offen"')))
    assert (tmp_path / "summary.csv").read_bytes().startswith("\ufefffrom,to,".encode())
    assert (
        csv_rows(tmp_path)[2]["from"] == "Gewässer"
        and csv_rows(tmp_path)[2]["to"] == 'Land, "offen"'
    )


def test_hectares_of_degrees_are_those_of_the_ground(tmp_path):
    from pyproj import Geod

    found = write_summary(tmp_path, write(tmp_path / "t.tif", CODES, DEGREES), TWO)
    edges = np.linspace(15.2, 15.5, 200)  # the three pixels of row 0 with code 2
    lon, lat = np.concatenate([edges, edges[::-1]]), np.repeat([48.0, 47.9], 200)
    expected = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0]) / 10_000
    assert found["matrix"]["hectares"][1][2] == pytest.approx(expected, rel=1e-6)
    assert found["area_method"] == "ellipsoid"
    # per cent are of the area: a pixel in the south is larger
    assert found["matrix"]["percent"][2][2] > 100 / 9 * 1.0005


def test_strips_add_up_to_the_whole(tmp_path, monkeypatch):
    codes = np.random.default_rng(0).integers(0, 37, (50, 20))
    path = write(tmp_path / "t.tif", codes, DEGREES)
    whole = write_summary(tmp_path, path, SECOND)
    monkeypatch.setattr(summary, "STRIP_PIXELS", 7 * 20)
    strips = write_summary(tmp_path, path, SECOND)
    assert strips["matrix"]["pixels"] == whole["matrix"]["pixels"]
    np.testing.assert_allclose(
        strips["matrix"]["hectares"], whole["matrix"]["hectares"], rtol=1e-12
    )
    counts = np.bincount(codes.ravel(), minlength=37)
    np.testing.assert_array_equal(np.array(whole["matrix"]["pixels"])[1:, 1:].ravel(), counts[1:])


def test_binary_change_has_one_kind_of_change(tmp_path):
    path = write(tmp_path / "c.tif", [[0, 1, 1, 255]])
    found = write_summary(tmp_path, path, BINARY)
    assert found["matrix"]["labels"] == ["unchanged", "changed"]
    assert found["matrix"]["pixels"] == [[1, 0], [0, 2]] and found["classes"] == []
    cells = [(r["from"], r["to"], r["pixels"]) for r in csv_rows(tmp_path)][:2]
    assert cells == [("unchanged", "unchanged", "1"), ("changed", "changed", "2")]


def test_classes_of_each_date_are_counted_where_the_map_is_valid(tmp_path):
    codes = write(tmp_path / "t.tif", CODES)
    date1 = write(tmp_path / "1.tif", [[1, 2, 1, 1, 1], [255, 1, 2, 2, 2]])
    date2 = write(tmp_path / "2.tif", [[0, 0, 2, 2, 2], [0, 255, 1, 2, 0]])
    found = write_summary(tmp_path, codes, TWO, date1, date2)
    assert found["dates"]["date1"]["pixels"] == [1, 4, 4]  # pixel (1, 1) has no code
    assert found["dates"]["date2"]["pixels"] == [4, 1, 4]
    assert found["dates"]["date2"]["hectares"] == pytest.approx([0.04, 0.01, 0.04])


def test_without_a_crs_there_are_pixels_and_no_hectares(tmp_path):
    path = write(tmp_path / "t.tif", CODES, (None, from_origin(0, 2, 1, 1)))
    found = write_summary(tmp_path, path, TWO)
    assert found["pixels"]["changed"] == 5 and found["hectares"]["changed"] is None
    assert found["crs"] is None and found["area_method"] is None
    assert found["percent"]["changed"] == pytest.approx(500 / 9)
    assert csv_rows(tmp_path)[2]["hectares"] == ""


def test_a_map_without_data_has_no_per_cent(tmp_path):
    found = write_summary(tmp_path, write(tmp_path / "t.tif", [[255, 255]]), TWO)
    assert found["pixels"] == {"valid": 0, "unchanged": 0, "changed": 0, "nodata": 2}
    assert found["percent"] == {"unchanged": None, "changed": None}


def test_codes_of_16_bits(tmp_path):
    many = Scheme("semantic_change", tuple(f"c{i}" for i in range(20)), ((0, 0, 0),) * 21)
    path = write(tmp_path / "t.tif", [[0, 400, 400, 65535]], nodata=65535, dtype="uint16")
    found = write_summary(tmp_path, path, many)
    assert found["matrix"]["pixels"][20][20] == 2 and found["pixels"]["nodata"] == 1


def test_bad_inputs_are_errors(tmp_path):
    codes = write(tmp_path / "t.tif", CODES)
    with pytest.raises(ValueError, match=r"holds 3, but codes of 0 classes lie in 0\.\.1"):
        write_summary(tmp_path, write(tmp_path / "b.tif", [[3]]), BINARY)
    with pytest.raises(ValueError, match="one grid"):
        write_summary(tmp_path, codes, TWO, write(tmp_path / "1.tif", [[1, 2]]))
    with pytest.raises(ValueError, match=r"holds 7, but classes lie in 0\.\.2"):
        write_summary(tmp_path, codes, TWO, write(tmp_path / "1.tif", np.full((2, 5), 7)))
    with pytest.raises(ValueError, match="land cover has one"):
        write_summary(tmp_path, codes, NAIC2020)
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "summary.csv").exists()


COVER = Scheme("land_cover", ("water", "land", "rock"), ((0, 0, 255), (0, 128, 0), (99, 99, 99)))


def test_land_cover_counts_each_class(tmp_path):
    file = write(tmp_path / "c.tif", [[1, 1, 2, 255], [1, 2, 255, 255]])
    found = write_class_summary(tmp_path, file, COVER)
    # 5 of 8 pixels of 100 m2 = 0.01 ha have data: 3 water, 2 land, no rock
    assert found["pixels"] == {"valid": 5, "nodata": 3}
    assert found["hectares"] == pytest.approx({"valid": 0.05, "nodata": 0.03})
    by_class = found["by_class"]
    assert by_class["pixels"] == [3, 2, 0] and by_class["percent"] == [60, 40, 0]
    assert by_class["hectares"] == pytest.approx([0.03, 0.02, 0])
    assert (found["crs"], found["classes"]) == ("EPSG:32633", ["water", "land", "rock"])
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    rows = [tuple(row.values()) for row in csv_rows(tmp_path)]
    assert rows == [
        ("water", "1", "3", "0.030000", "60.000000"),
        ("land", "2", "2", "0.020000", "40.000000"),
        ("rock", "3", "0", "0.000000", "0.000000"),
        ("valid", "", "5", "0.050000", "100.000000"),
        ("no data", "", "3", "0.030000", ""),
    ]


def test_land_cover_in_strips_and_without_a_crs(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(1, 4, (20, 30))
    path = write(tmp_path / "c.tif", values, DEGREES)
    whole = write_class_summary(tmp_path, path, COVER)
    monkeypatch.setattr(summary, "STRIP_PIXELS", 90)
    in_strips = write_class_summary(tmp_path, path, COVER)
    assert in_strips["by_class"]["hectares"] == pytest.approx(whole["by_class"]["hectares"])
    assert in_strips["pixels"] == whole["pixels"]
    nowhere = write_class_summary(tmp_path, write(tmp_path / "n.tif", values, (None, None)), COVER)
    assert nowhere["by_class"]["hectares"] == [None] * 3
    assert sum(nowhere["by_class"]["percent"]) == pytest.approx(100)


@pytest.mark.parametrize("value", [0, 4])
def test_a_value_that_is_no_class_is_an_error(tmp_path, value):
    with pytest.raises(ValueError, match=r"no class: they lie in 1\.\.3"):
        write_class_summary(tmp_path, write(tmp_path / "c.tif", [[1, value]]), COVER)
    assert not (tmp_path / "summary.json").exists()
