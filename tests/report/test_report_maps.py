"""The report of the maps of predict.py."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.report_folders import (
    embedded,
    make_land_cover_map,
    make_maps,
    page_of,
    write_checkpoint,
)
from helpers.tiny_data import write_tiff
from maps.summary import write_class_summary, write_summary
from report import write_report
from report.data import collect
from report.files import read_bounded, read_json
from report.maps import read_map, scheme_of_map
from report.pictures import CHANGED, class_map, jpeg_uri
from report.sums import read_amounts
from report.tiles import Picture
from utils.files import write_json
from utils.schemes import SECOND

# --- maps


def picture_of(folder: Path, longest: int = 99) -> Picture:
    """The picture of a map."""
    record = read_json(folder / "predict.json")
    return read_map(folder, record, scheme_of_map(folder, record), longest)[0]


def test_page_of_a_map_has_hectares_and_its_images(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    path = write_report(out)
    page = page_of(path)
    # 600 of 39 * 60 pixels
    assert "25.6 % of 23.4 ha changed, 6.00 ha; all of it from water to building." in page.text
    tile = embedded(path)["sections"][0][0]
    assert tile["third"] == "probability" and tile["after"].startswith("data:image/jpeg")
    assert "All maps" not in page.text and "QGIS styles have the colours" in page.text


def test_date_2_is_warped_to_the_map(tmp_path):
    picture = picture_of(make_maps(tmp_path / "town", tmp_path / "in"))
    assert picture.images.shape == (2, 40, 60, 3)
    assert (picture.images[0, :10] == 200).all() and (picture.images[0, 10:] == 60).all()
    assert (picture.images[1, 1:-1, 1:-1] == 90).all()  # unwarped, it would end 100 m too early


def test_gaps_in_images_of_any_depth_do_not_spoil_the_rest(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    deep = np.tile(np.linspace(1000, 3000, 60, dtype=np.float32), (1, 40, 1))
    write_deep(tmp_path / "in" / "after.tif", deep)
    deep[:, :20] = -9999
    write_deep(tmp_path / "in" / "before.tif", deep)
    image = picture_of(tmp_path / "town").images[0]
    assert (image[:20] < 10).all() and image[30, 0].max() < 10 and image[30, 59].min() > 245


def write_deep(path: Path, bands: np.ndarray) -> None:
    """An input of `make_maps` where the map lies."""
    place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633"}
    write_tiff(path, bands.astype(np.float32), pixel_m=10, nodata=-9999, **place)


def test_both_dates_are_stretched_alike(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    ramp_up = np.tile(np.linspace(1000, 2000, 60), (1, 40, 1))
    for name, factor in (("before", 1), ("after", 2)):
        write_deep(tmp_path / "in" / f"{name}.tif", factor * ramp_up)
    images = picture_of(tmp_path / "town").images.astype(int)
    assert abs(images[0, 20, 59] - images[1, 20, 0]).max() <= 1  # 2000 at both dates
    assert images[0, 20, 59, 0] < 100 and images[1, 20, 59, 0] > 245


def test_bands_are_those_that_the_networks_read(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    for date, name in enumerate(("before", "after")):
        bands = np.zeros((5, 40, 60), np.uint8)
        bands[:] = 10 * np.arange(1, 6)[:, None, None] + date
        place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633"}
        write_tiff(tmp_path / "in" / f"{name}.tif", bands, pixel_m=10, **place)
    record = read_json(out / "predict.json")
    record |= {
        "bands": ["nir", "red", "green", "blue"],
        "band_numbers": [[1, 4, 5, 2], [5, 3, 2, 1]],
    }
    write_json(out / "predict.json", record)
    images = picture_of(out).images
    assert images[:, 20, 20].tolist() == [[40, 50, 20], [31, 21, 11]]
    write_json(out / "predict.json", {**record, "bands": ["a"], "band_numbers": [[3], [4]]})
    assert picture_of(out).images[:, 20, 20].tolist() == [[30] * 3, [41] * 3]


def test_large_maps_are_shown_small_and_counted_whole(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    picture = picture_of(tmp_path / "town", 30)
    assert picture.pred.shape == (2, 20, 30) and picture.step == 2
    section = collect(tmp_path / "town", 1, 30).sections[0]
    assert (section.pictures[0]["height"], section.pictures[0]["width"]) == (20, 30)
    assert section.amounts.transitions[0, 4] == pytest.approx(6.0)
    assert section.amounts.total == pytest.approx(39 * 60 / 100)
    assert section.amounts.no_data == pytest.approx(60 / 100)


def test_amounts_are_those_of_the_summary_and_counted_without_one(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    counted = read_amounts(out, SECOND)
    summary = write_summary(out, out / "transition.tif", SECOND)
    amounts = read_amounts(out, SECOND)
    assert amounts.transitions == pytest.approx(counted.transitions)
    assert amounts[2:] == pytest.approx(counted[2:]) and amounts.unit == "ha"
    assert read_amounts(out, SECOND, in_pixels=True).total == 39 * 60
    summary["hectares"]["valid"] = 77.0
    write_json(out / "summary.json", summary)
    assert read_amounts(out, SECOND).total == 77
    for broken in ({**summary, "matrix": None}, {**summary, "classes": ["x"]}, [], None):
        write_json(out / "summary.json", broken)
        assert read_amounts(out, SECOND).total == counted.total


def test_amounts_of_a_land_cover_are_those_of_the_summary(tmp_path):
    out = make_land_cover_map(tmp_path / "town", tmp_path / "in")
    scheme = scheme_of_map(out, read_json(out / "predict.json"))
    counted = read_amounts(out, scheme)
    write_class_summary(out, out / "classes.tif", scheme)
    amounts = read_amounts(out, scheme)
    assert amounts.classes.tolist() == counted.classes.tolist() == [400, 400]
    assert amounts[2:] == counted[2:] == (800, "px", 0)


def test_classes_everywhere_are_told_from_change(tmp_path):
    picture = picture_of(make_maps(tmp_path / "town", tmp_path / "in", everywhere=True))
    pixels, _ = class_map(picture, SECOND)
    assert pixels[0, 0].tolist() == [1, 5, CHANGED] and pixels[20, 0].tolist() == [2, 2, 0]


def test_map_without_its_images_says_so(tmp_path):
    make_maps(tmp_path / "town", tmp_path / "in")
    (tmp_path / "in" / "after.tif").unlink()
    assert "after.tif not found" in page_of(write_report(tmp_path / "town")).text


def test_no_data_has_a_colour_a_legend_entry_and_a_number(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    path = write_report(out)
    page = page_of(path)
    assert (
        "No data 0.600 ha 2.5 % of all" in page.text
        and 'class="swatch no-data"' in path.read_text()
    )
    grey = picture_of(out).images[0].copy()
    grey[39] = 224
    assert embedded(path)["sections"][0][0]["before"] == jpeg_uri(grey)
    whole = write_report(make_land_cover_map(tmp_path / "whole", tmp_path / "in"))
    assert "no data" not in page_of(whole).text.lower()


def test_map_without_crs_says_that_areas_are_pixels(tmp_path):
    out = make_land_cover_map(tmp_path / "town", tmp_path / "in")
    assert "No CRS: areas in pixels only." in page_of(write_report(out)).text
    out = make_land_cover_map(tmp_path / "placed", tmp_path / "in", "EPSG:32637")
    assert "No CRS" not in page_of(write_report(out)).text


def make_several(root: Path, names: str = "abcd") -> Path:
    """Maps side by side; in each, a row less is changed than in the one before."""
    for number, name in enumerate(names):
        out = make_maps(root / "out" / name, root / f"in_{name}")
        for file in ("change", "date1", "date2", "transition"):
            path = out / f"{file}.tif"
            values = read_bounded(path, 99)
            values[0, :number] = 0
            place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633"}
            write_tiff(path, values, pixel_m=10, nodata=255, **place)
    return root / "out"


def test_page_of_several_maps_sums_them_and_links_to_each(tmp_path):
    path = write_report(make_several(tmp_path))
    page = page_of(path)
    # 10, 9, 8, 7 of 39 rows of 0.6 ha each: 34 / 156 = 21.8 %
    assert (
        "4 maps, 93.6 ha: 21.8 % changed, 20.4 ha; all of it from water to building." in page.text
    )
    assert "a 23.4 ha 6.00 ha 25.6 % b 23.4 ha 5.40 ha 23.1 %" in page.text
    text = path.read_text(encoding="utf-8")
    for number, name in enumerate("abcd"):
        assert f'<a href="#section-{number}">{name}</a>' in text
        assert text.count(f'id="section-{number}"') == 1
    assert [section.title for section in collect(tmp_path / "out", 1, 99).sections] == list("abcd")


def test_number_of_pictures_of_maps_is_bounded_and_the_rest_keep_their_numbers(tmp_path):
    out = make_several(tmp_path)
    shutil.move(out / "a", out / "z")  # the one with the most change comes last
    path = write_report(out, images=2)
    assert [len(pictures) for pictures in embedded(path)["sections"]] == [1, 0, 0, 1]
    page = page_of(path)
    assert "4 maps; pictures of 2, those with the most change" in page.text
    assert "c 23.4 ha 4.80 ha 20.5 %" in page.text and "4 maps, 93.6 ha" in page.text
    assert page.tags.count("figure") == 3 * 2 + 2  # viewer and two charts each, charts of the sum


def test_only_the_maps_that_are_named_are_reported_on(tmp_path):
    out = make_several(tmp_path)
    page = page_of(write_report(out, maps=[out / "b", out / "d"]))
    assert "2 maps, 46.8 ha" in page.text
    one = collect(out, 1, 99, maps=[out / "b"])
    assert one.total is None and [section.title for section in one.sections] == ["b"]


def test_maps_with_and_without_areas_are_summed_in_pixels(tmp_path):
    for name, crs in (("a", "EPSG:32637"), ("b", None)):
        make_land_cover_map(tmp_path / "out" / name, tmp_path / name, crs)
    path = write_report(tmp_path / "out", images=1)
    assert [len(pictures) for pictures in embedded(path)["sections"]] == [1, 0]  # equal: the first
    page = page_of(path)
    assert "part of 1,600 pixels in 2 maps is water: 50.0 %." in page.text
    assert "Some of the maps have no CRS: the sums are of pixels." in page.text


def test_maps_of_different_kinds_are_an_error_that_names_both(tmp_path):
    make_maps(tmp_path / "out" / "a", tmp_path / "in")
    make_land_cover_map(tmp_path / "out" / "b", tmp_path / "in")
    with pytest.raises(ValueError, match=r"out/a .*out/b .*Report each folder by itself"):
        write_report(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "b")
    other = SECOND._replace(classes=("x", *SECOND.classes[1:]))
    make_maps(tmp_path / "out" / "b", tmp_path / "in", other)
    with pytest.raises(ValueError, match="the same classes"):
        write_report(tmp_path / "out")


def test_classes_of_a_map_are_its_own_though_the_checkpoint_was_replaced(tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    other = SECOND._replace(classes=tuple("uvwxyz"), bands=("nir", "red", "green"))
    write_checkpoint(tmp_path / "net.pth", other)
    record = {**read_json(out / "predict.json"), "checkpoints": [str(tmp_path / "net.pth")]}
    write_json(out / "predict.json", record)
    assert collect(out, 1, 99).scheme == SECOND
    write_checkpoint(tmp_path / "net.pth", SECOND._replace(bands=("nir", "red", "green")))
    assert collect(out, 1, 99).scheme.bands == ("nir", "red", "green")
    for key in ("task", "classes", "palette"):
        del record[key]
    assert scheme_of_map(out, record).classes == SECOND.classes  # old: by the checkpoint


def test_checkpoints_are_read_only_where_they_are_needed_and_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("report.maps.scheme_of_checkpoint", lambda path: read.append(path))
    out = make_several(tmp_path)
    collect(out, 1, 99)
    assert read == [Path("gone.pth")]  # four maps without "bands"
    for path in out.glob("*/predict.json"):
        write_json(path, {**read_json(path), "bands": ["nir", "red", "green"]})
    assert collect(out, 1, 99).scheme.bands == ("nir", "red", "green") and len(read) == 1


def test_page_of_a_land_cover_map_counts_classes(tmp_path):
    path = write_report(make_land_cover_map(tmp_path / "town", tmp_path / "in"))
    page = page_of(path)
    assert "How much of what" in page.text and "50.0 %" in page.text
    assert "400 pixels" in page.text and "From what to what" not in page.text
    assert "The largest part of 800 pixels is water: 50.0 %." in page.text
    assert "Looked at 800 pixels with data" in page.text and "what changed" not in page.text
    assert embedded(path)["sections"][0][0]["after"] is None
