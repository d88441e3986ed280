import json
import sqlite3
import subprocess
import sys
import time
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from rasterio.transform import from_origin

from helpers.map_data import write_layer as write
from maps import polygons, simplify, vector_files
from maps.polygons import check_crs, write_vectors
from maps.simplify import components, touching
from maps.summary import write_summary
from maps.transitions import pair, palette
from maps.vector_files import geopackage, refuse_open
from utils.rasters.gdal import rasterio
from utils.schemes import SECOND, change_scheme

geopandas = pytest.importorskip("geopandas")
pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

BINARY = change_scheme(("red", "green", "blue"), "none")
UTM, DEGREES = (
    (32633, from_origin(500_000, 5_000_000, 10, 10)),
    (4326, from_origin(15, 48, 1e-4, 1e-4)),
)
BOTH = ("gpkg", "geojson")


def maps(folder, codes, probs=None, where=UTM):
    """The two rasters of a map."""
    probs = np.full(np.shape(codes), 0.75) if probs is None else probs
    return (
        write(folder / "transition.tif", codes, where),
        write(folder / "probability.tif", probs, where, float("nan"), "float32"),
    )


def read(folder, name="changes.gpkg"):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a second layer would be one
        return geopandas.read_file(folder / name)


def random_codes(seed=0, side=40, block=3):
    rng = np.random.default_rng(seed)
    small = rng.integers(1, 37, (side // block + 1,) * 2) * (
        rng.random((side // block + 1,) * 2) < 0.6
    )
    codes = small.repeat(block, 0).repeat(block, 1)[:side, :side]
    codes[rng.random(codes.shape) < 0.05] = 8
    codes[:2, :9] = 255
    return codes


def comparable(frame):
    frame = frame.assign(wkt=frame.geometry.normalize().to_wkt())
    columns = ["from_class", "to_class", "code", "area_m2", "area_ha", "mean_prob", "wkt"]
    return frame[columns].sort_values(["wkt"]).reset_index(drop=True)


def test_known_blocks_become_known_polygons(tmp_path):
    codes = np.zeros((6, 8), int)
    codes[1:3, 1:4], codes[3:5, 3:4], codes[5, 7], codes[0] = 2, 8, 36, 255
    probs = np.full(codes.shape, 0.5)
    probs[1, 1:4] = 0.8  # of the 6 pixels of code 2
    probs[5, 7] = np.nan
    found = write_vectors(tmp_path, *maps(tmp_path, codes, probs), SECOND, formats=BOTH)
    assert found == {
        "polygons": 3,
        "area_m2": 900.0,
        "dropped": 0,
        "files": ["changes.gpkg", "changes.geojson", "changes.qml"],
    }
    frame = read(tmp_path).set_index("code").sort_index()
    assert frame.crs.to_epsg() == 32633
    assert list(frame["from_class"]) == ["water", "ground", "sports field"]
    assert list(frame["to_class"]) == ["ground", "ground", "sports field"]
    assert list(frame["area_m2"]) == [600, 200, 100] == list(frame.area)
    assert list(frame["area_ha"]) == [0.06, 0.02, 0.01]
    assert frame["mean_prob"][2] == pytest.approx(0.65) and np.isnan(frame["mean_prob"][36])
    assert frame.geometry[2].bounds == (500_010, 4_999_970, 500_040, 4_999_990)


def test_fields_keep_their_names_in_sql_and_shapefiles(tmp_path):
    import pyogrio

    codes = np.zeros((6, 6), int)
    codes[1:3, 1:3] = 2
    write_vectors(tmp_path, *maps(tmp_path, codes, np.full(codes.shape, 0.75)), SECOND)
    columns = ["from_class", "to_class", "code", "area_m2", "area_ha", "mean_prob"]
    sql = f"SELECT {', '.join(columns)} FROM changes WHERE area_ha > 0 AND to_class = 'ground'"
    (row,) = pyogrio.read_dataframe(tmp_path / "changes.gpkg", sql=sql)[columns].itertuples()
    assert row[1:] == ("water", "ground", 2, 400, 0.04, 0.75)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyogrio.write_dataframe(read(tmp_path), tmp_path / "a.shp")
    assert list(pyogrio.read_info(tmp_path / "a.shp")["fields"]) == columns


def test_holes_are_kept_and_diagonal_neighbours_are_two(tmp_path):
    codes = np.zeros((6, 6), int)
    codes[:5, :5], codes[1:4, 1:4], codes[2, 2], codes[5, 5] = 3, 0, 5, 3
    write_vectors(tmp_path, *maps(tmp_path, codes), SECOND)
    frame = read(tmp_path)
    assert frame.is_valid.all() and sorted(frame["area_m2"]) == [100, 100, 1600]
    ring = frame.geometry[frame["area_m2"] == 1600].iloc[0]
    assert len(ring.interiors) == 1 and ring.area == 1600


@pytest.mark.parametrize("rows", [1, 7])
def test_sums_over_strips_are_those_of_one_block(tmp_path, monkeypatch, rows):
    paths = maps(tmp_path, random_codes(), np.random.default_rng(1).random((40, 40)))
    write_vectors(tmp_path, *paths, SECOND)
    whole = comparable(read(tmp_path))
    monkeypatch.setattr(polygons, "STRIP_PIXELS", rows * 40)
    monkeypatch.setattr(polygons, "BATCH", 10)
    write_vectors(tmp_path, *paths, SECOND, overwrite=True)
    strips = comparable(read(tmp_path))
    assert len(whole) > 100
    geopandas.pd.testing.assert_frame_equal(strips, whole, check_exact=False, rtol=1e-12)
    assert list(strips["wkt"]) == list(whole["wkt"])


@pytest.mark.parametrize("where", [UTM, DEGREES, (2263, from_origin(1e6, 2e5, 30, 30))])
def test_areas_add_up_to_the_summary(tmp_path, where):
    paths = maps(tmp_path, random_codes(), where=where)
    found = write_vectors(tmp_path, *paths, SECOND)
    hectares = np.array(write_summary(tmp_path, paths[0], SECOND)["matrix"]["hectares"])
    frame = read(tmp_path)
    assert frame["area_ha"].sum() == pytest.approx(hectares[1:, 1:].sum(), rel=1e-9)
    assert found["area_m2"] == pytest.approx(frame["area_m2"].sum())
    for code, area_ha in frame.groupby("code")["area_ha"].sum().items():
        assert area_ha == pytest.approx(hectares[pair(code, 6)], rel=1e-9)
    assert not frame.union_all().area < frame.area.sum() * (1 - 1e-9)  # none lies on another


def test_areas_in_degrees_are_those_of_the_geodesic_polygons(tmp_path):
    from pyproj import Geod

    codes = random_codes()
    write_vectors(tmp_path, *maps(tmp_path, codes, where=DEGREES), SECOND)
    frame, geod = read(tmp_path), Geod(ellps="WGS84")
    expected = [abs(geod.geometry_area_perimeter(polygon)[0]) for polygon in frame.geometry]
    np.testing.assert_allclose(frame["area_m2"], expected, rtol=1e-3)


def test_geojson_is_in_degrees_counter_clockwise_and_has_the_same_fields(tmp_path):
    where = (32633, rasterio().Affine(10, 0, 5e5, 0, 10, 5e6))  # rows from south to north
    write_vectors(tmp_path, *maps(tmp_path, random_codes(), where=where), SECOND, formats=BOTH)
    text = json.loads((tmp_path / "changes.geojson").read_text(encoding="utf-8"))
    assert set(text) == {"type", "name", "features"}
    rings = [feature["geometry"]["coordinates"] for feature in text["features"]]
    for shell, *holes in rings:
        assert shapely.LinearRing(shell).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
    assert all(-180 <= lon <= 180 and abs(lat - 45.15) < 0.1 for lon, lat in rings[0][0])
    there, here = read(tmp_path, "changes.geojson"), read(tmp_path)
    assert there.crs.to_epsg() == 4326
    for column in ("from_class", "to_class", "code", "area_m2", "area_ha", "mean_prob"):
        assert list(there[column]) == list(here[column])
    back = there.to_crs(32633)
    assert (back.geometry.symmetric_difference(here.geometry).area < 0.01 * here.area).all()


def test_binary_change_has_code_1_and_no_classes(tmp_path):
    codes, probs = maps(tmp_path, [[1, 0, 255], [1, 0, 1]])
    write_vectors(tmp_path, codes, probs, BINARY, formats=BOTH)
    for name in ("changes.gpkg", "changes.geojson"):
        frame = read(tmp_path, name)
        assert (
            list(frame["code"]) == [1, 1] and frame[["from_class", "to_class"]].isna().all().all()
        )


def test_small_ones_are_left_out_and_counted(tmp_path):
    codes = [[1, 1, 0, 2, 0, 3], [1, 0, 0, 2, 0, 0]]
    paths = maps(tmp_path, codes)
    found = write_vectors(tmp_path, *paths, SECOND, min_area_m2=200)
    assert (found["polygons"], found["dropped"], found["area_m2"]) == (2, 1, 500)
    assert sorted(read(tmp_path)["area_m2"]) == [200, 300]


def test_simplified_neighbours_share_their_borders(tmp_path):
    paths = maps(tmp_path, random_codes(3, side=60, block=5))
    write_vectors(tmp_path, *paths, SECOND)
    plain = read(tmp_path)
    write_vectors(tmp_path, *paths, SECOND, simplify_m=12, overwrite=True)
    simple = read(tmp_path)
    assert simple.is_valid.all() and len(simple) == len(plain)
    assert simple.union_all().area == pytest.approx(simple.area.sum(), rel=1e-9)  # no overlap
    assert abs(simple.area.sum() / plain.area.sum() - 1) < 0.1
    assert simple["area_m2"].sum() == plain["area_m2"].sum() == plain.area.sum()  # of the pixels
    assert simple.length.sum() < plain.length.sum()


@pytest.mark.parametrize("tolerance_m", [8, 12, 40])
def test_no_corner_of_a_pixel_is_farther_from_a_simplified_outline_than_asked(
    tmp_path, tolerance_m
):
    paths = maps(tmp_path, random_codes(3, side=60, block=5))
    write_vectors(tmp_path, *paths, SECOND)
    plain = read(tmp_path)
    write_vectors(tmp_path, *paths, SECOND, simplify_m=tolerance_m, overwrite=True)
    for before, after in zip(plain.geometry, read(tmp_path).geometry, strict=True):
        corners = shapely.points(shapely.get_coordinates(before))
        assert shapely.distance(corners, after.boundary).max() <= tolerance_m * (1 + 1e-9)


def test_polygons_that_touch_at_an_edge_or_a_corner_are_of_one_group():
    boxes = [shapely.box(x, y, x + 2, y + 2) for x, y in ((0, 0), (2, 0), (4, 2), (7, 0), (0, 9))]
    groups = touching(shapely.segmentize(np.array(boxes), 1.0)).tolist()
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 3


def test_simplified_outlines_do_not_depend_on_how_many_are_simplified_at_a_time(
    tmp_path, monkeypatch
):
    codes = random_codes(3, side=60, block=5)
    codes[random_codes(4, side=60, block=9) > 0] = 0  # so that there are many groups
    paths, found = maps(tmp_path, codes), []
    for count in (1, 7, 10_000):
        monkeypatch.setattr(simplify, "COVERAGE", count)
        write_vectors(tmp_path, *paths, SECOND, simplify_m=20, overwrite=True)
        found.append((tmp_path / "changes.gpkg").read_bytes())
    assert found[0] == found[1] == found[2]


def test_polygons_come_in_the_order_of_their_first_pixels(tmp_path):
    codes = [[0, 0, 0, 5], [3, 3, 0, 5], [0, 3, 0, 0], [7, 0, 0, 9]]
    write_vectors(tmp_path, *maps(tmp_path, codes), SECOND)
    assert list(read(tmp_path)["code"]) == [5, 3, 7, 9]


def regions_by_flooding(codes: np.ndarray) -> list[tuple[int, frozenset]]:
    """Code and pixels of every 4-connected region, by the definition."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero((codes > 0) & (codes < 255)), strict=True)}
    found = []
    while left:
        stack, region = [next(iter(left))], set()
        while stack:
            y, x = stack.pop()
            if (y, x) not in left:
                continue
            left.remove((y, x))
            region.add((y, x))
            around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            stack += [p for p in around if p in left and codes[p] == codes[y, x]]
        found.append((int(codes[y, x]), frozenset(region)))
    return found


def test_every_polygon_is_one_region_by_the_definition(tmp_path):
    codes = random_codes(5)
    write_vectors(tmp_path, *maps(tmp_path, codes), SECOND)
    frame = read(tmp_path)
    assert frame.is_valid.all()
    found = []
    for code, shape in zip(frame["code"], frame.geometry, strict=True):
        rows, columns = np.mgrid[0:40, 0:40]
        inside = shapely.contains_xy(shape, 500_005 + 10 * columns, 4_999_995 - 10 * rows)
        pixels = zip(*np.nonzero(inside), strict=True)
        found.append((code, frozenset((int(y), int(x)) for y, x in pixels)))
    expected = regions_by_flooding(codes)
    assert len(found) == len(expected) and set(found) == set(expected)


def test_a_map_without_change_makes_an_empty_layer(tmp_path):
    found = write_vectors(tmp_path, *maps(tmp_path, [[0, 255]]), SECOND, formats=BOTH)
    assert (found["polygons"], found["area_m2"]) == (0, 0)
    assert len(read(tmp_path)) == 0 and read(tmp_path).crs.to_epsg() == 32633
    assert json.loads((tmp_path / "changes.geojson").read_text())["features"] == []


def test_style_has_every_code_with_its_colour(tmp_path):
    write_vectors(tmp_path, *maps(tmp_path, [[2, 0]]), SECOND)
    root = ElementTree.fromstring((tmp_path / "changes.qml").read_text(encoding="utf-8"))
    symbols = {s.get("name"): s for s in root.iter("symbol")}
    colours = {}
    for category in root.iter("category"):
        options = symbols[category.get("symbol")].iter("Option")
        colours[int(category.get("value"))] = {o.get("name"): o.get("value") for o in options}[
            "color"
        ]
    expected = {code: "{},{},{},255".format(*rgb) for code, rgb in enumerate(palette(SECOND))}
    assert colours == {code: text for code, text in expected.items() if code}


def test_without_a_crs_areas_are_empty_and_the_rest_is_there(tmp_path):
    paths = maps(tmp_path, [[2, 2], [0, 3]], where=(None, from_origin(0, 2, 1, 1)))
    found = write_vectors(tmp_path, *paths, SECOND)
    frame = read(tmp_path)
    assert found["area_m2"] is None and frame.crs is None
    assert frame["area_m2"].isna().all() and sorted(frame["code"]) == [2, 3]
    for options in ({"min_area_m2": 5}, {"simplify_m": 5}, {"formats": BOTH}):
        with pytest.raises(ValueError, match=r"has no CRS\. Give the images one"):
            write_vectors(tmp_path, *paths, SECOND, overwrite=True, **options)


def test_without_probabilities_the_field_is_empty(tmp_path):
    codes, _ = maps(tmp_path, [[2, 2]])
    write_vectors(tmp_path, codes, None, SECOND)
    assert read(tmp_path)["mean_prob"].isna().all()


def test_files_that_exist_stay_unless_told_otherwise(tmp_path):
    paths = maps(tmp_path, [[2, 2]])
    write_vectors(tmp_path, *paths, SECOND)
    before = (tmp_path / "changes.gpkg").read_bytes()
    with pytest.raises(ValueError, match=r"changes\.gpkg exists; pass --overwrite"):
        write_vectors(tmp_path, *paths, SECOND)
    assert (tmp_path / "changes.gpkg").read_bytes() == before
    write_vectors(tmp_path, *paths, SECOND, overwrite=True)
    assert len(read(tmp_path)) == 1


def test_bad_inputs_leave_no_files(tmp_path):
    codes, probs = maps(tmp_path, [[2, 77]])
    small = write(tmp_path / "small.tif", [[0.5]], dtype="float32", nodata=None)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="holds 77, but codes of 6 classes"):
        write_vectors(out, codes, probs, SECOND, formats=BOTH)
    with pytest.raises(ValueError, match="one grid"):
        write_vectors(out, codes, small, SECOND)
    with pytest.raises(ValueError, match="--vector shp: choose from gpkg, geojson"):
        write_vectors(out, codes, probs, SECOND, formats=("shp",))
    assert list(out.iterdir()) == []


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(polygons.PACKAGES, "gpkg", ("shapely", "no_such_package"))
    with pytest.raises(ValueError, match="needs no_such_package: pip install no_such_package, or"):
        write_vectors(tmp_path / "out", "a.tif", "b.tif", SECOND)
    polygons.check_packages(("geojson",))


def test_a_geopackage_that_lost_polygons_is_an_error(tmp_path, monkeypatch):
    lost = polygons.Polygons(
        np.array([shapely.box(0, 0, 1, 1)]), np.array([1], np.int32), np.ones(1), np.ones(1)
    )
    written = []

    def only_the_first(path, polygons, crs, scheme, append=True):
        if not written:
            real(path, polygons, crs, scheme, append)
        written.append(len(polygons.code))

    real = vector_files._append_layer
    monkeypatch.setattr(vector_files, "_append_layer", only_the_first)
    with (
        pytest.raises(OSError, match=r"could not write changes\.gpkg .*0 of 1 polygons.*disk full"),
        geopackage(tmp_path / "changes.gpkg", None, None, SECOND) as append,
    ):
        append(lost)
    assert list(tmp_path.iterdir()) == []


def test_the_same_map_gives_the_same_bytes(tmp_path):
    paths = maps(tmp_path, random_codes())
    made = []
    for name in ("one", "two"):
        write_vectors(tmp_path / name, *paths, SECOND, formats=BOTH)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
        time.sleep(0.01)  # the stamp would have thousandths of a second
    assert set(made[0]) == {"changes.gpkg", "changes.geojson", "changes.qml"}
    assert made[0] == made[1]


# ------------------------------------------------------------------- around 180 degrees


def geojson_of(folder, codes, where):
    """The features' geometries and areas by code; each polygon valid and within -180..180."""
    write_vectors(folder, *maps(folder, codes, where=where), SECOND, formats=("geojson",))
    text = json.loads((folder / "changes.geojson").read_text(encoding="utf-8"))
    found = {}
    for feature in text["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid and shape.bounds[0] >= -180 and shape.bounds[2] <= 180
        for part in shapely.get_parts(shape):
            assert part.exterior.is_ccw and not any(hole.is_ccw for hole in part.interiors)
        found[feature["properties"]["code"]] = shape, feature["properties"]["area_m2"]
    return found


def geodesic_area(shape) -> float:
    from pyproj import Geod

    return abs(Geod(ellps="WGS84").geometry_area_perimeter(shape)[0])


def test_a_polygon_across_180_degrees_is_cut_there(tmp_path):
    # UTM zone 60 ends at 180 degrees: at the equator that is 833 979 m east
    codes = np.zeros((60, 80), int)
    codes[5:50, 5:70], codes[20:30, 30:50] = 2, 0  # a hole across the line, too
    codes[52:58, 2:8], codes[52:58, 60:78] = 3, 4  # on one side each
    found = geojson_of(tmp_path, codes, (32660, from_origin(830_000, 2_000, 100, 100)))
    shape, area = found[2]
    assert [part.geom_type for part in shapely.get_parts(shape)] == ["Polygon"] * 2
    west, east = sorted(shapely.get_parts(shape), key=lambda part: part.bounds[0])
    assert west.bounds[0] == -180 and east.bounds[2] == 180
    assert west.bounds[2] < -179 and east.bounds[0] > 179
    assert geodesic_area(shape) == pytest.approx(area, rel=5e-3)
    assert found[3][0].geom_type == found[4][0].geom_type == "Polygon"
    assert found[3][0].bounds[0] > 179 and found[4][0].bounds[2] < -179


def test_longitudes_beyond_180_come_back(tmp_path):
    found = geojson_of(tmp_path, [[2, 2, 2, 2], [0, 0, 0, 3]], (4326, from_origin(179, 1, 0.5, 1)))
    assert shapely.area(found[2][0]) == pytest.approx(2) and len(found[2][0].geoms) == 2
    assert found[3][0].bounds == pytest.approx((-179.5, -1, -179, 0))


def test_a_polygon_around_the_whole_world_stays_one(tmp_path):
    found = geojson_of(tmp_path, [[2, 2, 2, 2]], (4326, from_origin(-180, 30, 90, 60)))
    assert found[2][0].bounds == (-180, -30, 180, 30) and found[2][0].geom_type == "Polygon"


@pytest.mark.parametrize("epsg", [3995, 3031])
def test_a_polygon_around_a_pole_holds_the_pole(tmp_path, epsg):
    codes = np.zeros((50, 50), int)
    codes[5:45, 5:45] = 2
    found = geojson_of(tmp_path, codes, (epsg, from_origin(-1_250_000, 1_250_000, 50_000, 50_000)))
    shape, area = found[2]
    south, north = shape.bounds[1::2]
    assert (north == 90 and south > 70) if epsg == 3995 else (south == -90 and north < -70)
    assert shape.bounds[::2] == (-180, 180)
    codes[20:30, 20:30] = 0  # the pole is in a hole
    (tmp_path / "ring").mkdir()
    ring, smaller = geojson_of(
        tmp_path / "ring", codes, (epsg, from_origin(-1_250_000, 1_250_000, 50_000, 50_000))
    )[2]
    assert abs(ring.bounds[3] if epsg == 3995 else ring.bounds[1]) < 89
    assert shapely.area(ring) < shapely.area(shape) and smaller < area


# ------------------------------------------------------------------- what needs a place


LOCAL = (
    'LOCAL_CS["site grid",UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["E",EAST],AXIS["N",NORTH]]'
)


def test_geojson_of_a_local_crs_is_refused_before_any_work():
    local, utm = (rasterio().crs.CRS.from_user_input(text) for text in (LOCAL, "EPSG:32633"))
    with pytest.raises(ValueError, match=r"a\.tif has none \(site grid\)\. Choose --vector gpkg"):
        check_crs(local, BOTH, name="a.tif")
    for crs, formats in ((local, ("gpkg",)), (utm, BOTH), (None, ("gpkg",))):
        check_crs(crs, formats)
    with pytest.raises(ValueError, match=r"--vector geojson needs .*the map has no CRS"):
        check_crs(None, BOTH)


def test_a_local_crs_has_polygons_in_a_geopackage(tmp_path):
    codes, _ = maps(tmp_path, [[2, 2], [0, 3]])
    with rasterio().open(codes, "r+") as file:
        file.crs = rasterio().crs.CRS.from_wkt(LOCAL)
    with pytest.raises(ValueError, match="site grid"):
        write_vectors(tmp_path, codes, None, SECOND, formats=BOTH)
    assert not (tmp_path / "changes.gpkg").exists()
    assert write_vectors(tmp_path, codes, None, SECOND)["area_m2"] == 300


@pytest.mark.parametrize(
    "where",
    [
        UTM,
        (4326, from_origin(15, 60, 1e-4, 1e-4)),  # 11 m high, 6 m wide
        (3857, from_origin(1.6e6, 8.4e6, 20, 20)),  # 10 m on the ground
    ],
)
def test_outlines_leave_those_of_the_pixels_by_no_more_than_asked(tmp_path, where):
    from pyproj import Transformer

    limit = 15
    y, x = np.mgrid[:90, :90]
    codes = 2 * (np.sin(x / 7) + np.cos(y / 5 + x / 11) > 0.3)
    codes[np.random.default_rng(0).random(codes.shape) < 0.1] = 0
    paths = maps(tmp_path, codes, where=where)
    write_vectors(tmp_path, *paths, SECOND)
    plain = read(tmp_path)
    write_vectors(tmp_path, *paths, SECOND, simplify_m=limit, overwrite=True)
    simple = read(tmp_path)
    assert simple.is_valid.all() and len(simple) == len(plain) > 5
    assert sorted(simple["area_m2"]) == sorted(plain["area_m2"])  # of the pixels
    to_metres = Transformer.from_crs(where[0], 32633, always_xy=True).transform
    before, after = (
        shapely.transform(
            shapely.union_all(shapely.boundary(frame.geometry)),
            lambda points: np.stack(to_metres(*points.T), axis=1),
        )
        for frame in (plain, simple)
    )
    corners = shapely.get_coordinates(before)
    assert shapely.get_num_coordinates(after) < 0.9 * len(corners)
    farthest = shapely.distance(shapely.points(corners), after).max()
    assert 0.3 * limit < farthest <= 1.005 * limit


@pytest.mark.parametrize("seed", range(5))
def test_nodes_are_grouped_by_the_edges_that_join_them(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 50, (2, 40))
    group = list(range(50))
    for _ in range(50):
        for a, b in zip(first, second, strict=True):
            group[a] = group[b] = min(group[a], group[b])
    np.testing.assert_array_equal(components(50, first, second), group)
    assert len(components(0, first[:0], second[:0])) == 0


MEASURE = """
import resource, sys
from maps import polygons
from utils.schemes import SECOND

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def write(folder):
    polygons.write_vectors(folder, f"{folder}/transition.tif", None, SECOND)

write(sys.argv[1] + "/small")  # imports everything
before = peak()
write(sys.argv[1] + "/large")
print(peak() - before)
"""


def test_memory_is_a_few_bytes_per_pixel(tmp_path):
    side = 3000
    (tmp_path / "small").mkdir()
    (tmp_path / "large").mkdir()
    maps(tmp_path / "small", random_codes())
    codes = np.zeros((side, side), np.uint8)
    codes[100:-100, 100:-100] = 3
    codes[1000:2000, 1000:2000] = 9
    maps(tmp_path / "large", codes)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # 4 GiB for 20,000 x 20,000 pixels are 10.7 bytes each
    assert int(done.stdout.split()[-1]) < 10 * side**2


def test_a_geopackage_that_is_open_elsewhere_is_not_replaced(tmp_path):
    """As QGIS opens it: write-ahead log, connection kept. After a crash the log is completed."""
    write_vectors(tmp_path, *maps(tmp_path, [[2, 2]]), SECOND)
    path, log = tmp_path / "changes.gpkg", tmp_path / "changes.gpkg-wal"
    program = (
        "import os, sqlite3, sys\n"
        "file = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "file.execute('PRAGMA journal_mode=WAL')\n"
        "file.execute('CREATE TABLE layer_styles (id INTEGER)')\n"
        "print(flush=True); sys.stdin.read(1); os._exit(1)\n"
    )
    words = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert log.exists()
        with pytest.raises(OSError, match=r"changes\.gpkg is open in another program .*--out"):
            refuse_open(path)
        assert log.exists()
        other.communicate(b"x")
    assert log.exists()  # it crashed
    refuse_open(path)
    assert not log.exists() and not (tmp_path / "changes.gpkg-shm").exists()
    with sqlite3.connect(path) as file:
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
    assert {"layer_styles", "changes"} <= tables
    path.unlink()
    log.touch()  # of no file
    refuse_open(path)
    assert not log.exists() and not path.exists()
