import math

import numpy as np
import pytest
from affine import Affine
from pyproj import Geod
from rasterio.transform import from_origin

from maps.areas import (
    CORRECTED,
    ELLIPSOID,
    PLANE,
    WGS84,
    PixelAreas,
    check_grids,
    density,
    ellipsoid,
    zone_area,
)
from utils.rasters.gdal import rasterio

GEOD = Geod(ellps="WGS84")


def crs(epsg: int):
    return rasterio().crs.CRS.from_epsg(epsg)


def polygon_area(west: float, north: float, east: float, south: float) -> float:
    """Square metres between parallels and meridians, by an independent way."""
    along = np.linspace(west, east, 400)
    lon = np.concatenate([along, along[::-1]])
    lat = np.repeat([north, south], len(along))
    return abs(GEOD.polygon_area_perimeter(lon, lat)[0])


def total(areas: PixelAreas) -> float:
    strip = areas.strip(0, areas.height)
    return float(np.broadcast_to(strip, (areas.height, areas.width)).sum())


def test_utm_pixels_of_10_m_are_100_m2_to_the_digit():
    areas = PixelAreas(crs(32633), from_origin(500_000, 5_000_000, 10, 10), 60, 40)
    assert areas.method == PLANE
    np.testing.assert_array_equal(areas.strip(7, 3), np.full((3, 1), 100.0))


def test_feet_are_turned_into_metres():
    # a US survey foot is 1200 / 3937 m, so 30 ft x 20 ft are 600 * (1200 / 3937)^2 m2
    areas = PixelAreas(crs(2263), from_origin(1_000_000, 200_000, 30, 20), 5, 5)
    assert areas.method == PLANE
    assert areas.middle() == pytest.approx(600 * (1200 / 3937) ** 2, rel=1e-12)


def test_turned_pixels_of_a_plane_have_the_area_of_their_sides():
    turned = Affine.translation(500_000, 5_000_000) * Affine.rotation(30) * Affine.scale(10, -20)
    assert PixelAreas(crs(32633), turned, 5, 5).middle() == pytest.approx(200, rel=1e-12)


@pytest.mark.parametrize("north", [0.02, 48.0, -33.0, 70.0, 89.99])
def test_degrees_agree_with_the_geodesic_polygon(north):
    areas = PixelAreas(crs(4326), from_origin(15, north, 0.0002, 0.0001), 500, 300)
    assert areas.method == ELLIPSOID
    expected = polygon_area(15, north, 15 + 300 * 0.0002, north - 500 * 0.0001)
    assert total(areas) == pytest.approx(expected, rel=1e-8)  # asked for: 0.1 %


def test_rows_of_degrees_shrink_towards_the_pole_and_strips_agree_with_the_whole():
    areas = PixelAreas(crs(4326), from_origin(15, 60, 0.1, 0.1), 90, 10)
    whole = areas.strip(0, 90)
    assert whole.shape == (90, 1) and (np.diff(whole[:, 0]) > 0).all()
    strips = [areas.strip(top, min(7, 90 - top)) for top in range(0, 90, 7)]
    np.testing.assert_array_equal(np.concatenate(strips), whole)


def test_rows_from_south_to_north_are_the_same_rows():
    down = PixelAreas(crs(4326), from_origin(15, 60, 0.1, 0.1), 10, 10).strip(0, 10)
    up = PixelAreas(crs(4326), Affine(0.1, 0, 15, 0, 0.1, 59), 10, 10).strip(0, 10)
    np.testing.assert_allclose(up, down[::-1], rtol=1e-9)


def test_turned_pixels_in_degrees_follow_their_latitude():
    turned = Affine.translation(15, 50) * Affine.rotation(25) * Affine.scale(0.001, -0.001)
    areas = PixelAreas(crs(4326), turned, 40, 30)
    corners = [turned * corner for corner in ((0, 0), (30, 0), (30, 40), (0, 40))]
    sides = [
        np.linspace(a, b, 100) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    lon, lat = np.concatenate(sides).T
    expected = abs(GEOD.polygon_area_perimeter(lon, lat)[0])
    assert areas.strip(0, 40).shape == (40, 30)
    assert total(areas) == pytest.approx(expected, rel=1e-6)


def test_grads_and_another_ellipsoid():
    areas = PixelAreas(crs(4807), from_origin(1, 50, 0.01, 0.01), 10, 10)
    radius, flattening = ellipsoid(crs(4807))
    assert (radius, 1 / flattening) == pytest.approx((6378249.2, 293.466021293627))
    side = 0.01 * math.pi / 200
    expected = side**2 * density(math.radians(45), radius, flattening)  # 50 grads
    assert areas.strip(0, 1)[0, 0] == pytest.approx(expected, rel=1e-3)


def test_web_mercator_is_corrected():
    # at 50 degrees north it shows areas 2.4 times too large
    transform = from_origin(1_000_000, 6_446_275, 10, 10)
    areas = PixelAreas(crs(3857), transform, 100, 80)
    assert areas.method == CORRECTED and areas.middle() == pytest.approx(41.4, abs=0.1)
    from rasterio.warp import transform_bounds

    bounds = transform_bounds(
        crs(3857), crs(4326), *rasterio().transform.array_bounds(100, 80, transform)
    )
    west, south, east, north = bounds
    assert total(areas) == pytest.approx(polygon_area(west, north, east, south), rel=1e-6)
    np.testing.assert_array_equal(areas.strip(30, 5), areas.strip(0, 100)[30:35])


def test_utm_far_from_its_zone_is_corrected_and_near_it_is_not():
    far = PixelAreas(crs(32633), from_origin(1_500_000, 5_000_000, 10, 10), 5, 5)
    assert far.method == CORRECTED and far.middle() == pytest.approx(100 / 1.025, rel=0.01)
    assert PixelAreas(crs(32633), from_origin(200_000, 5_000_000, 10, 10), 5, 5).method == PLANE


def test_a_plane_without_a_way_to_latitudes_is_taken_as_it_is():
    local = rasterio().crs.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    assert PixelAreas(local, from_origin(0, 0, 2, 3), 5, 5).middle() == 6


def test_without_a_crs_areas_are_not_known():
    areas = PixelAreas(None, from_origin(0, 0, 1, 1), 5, 5)
    assert areas.method is None and np.isnan(areas.strip(0, 2)).all() and np.isnan(areas.middle())


def test_the_whole_ellipsoid_has_the_area_of_the_earth():
    # 510 065 621.7 km2 (WGS 84); the half is 2 pi times the zone from the equator to the pole
    half = 2 * math.pi * zone_area(np.array(math.pi / 2), *WGS84)
    assert 2 * half == pytest.approx(510_065_621.7e6, rel=1e-9)
    assert zone_area(np.array(2.0), *WGS84) == zone_area(np.array(math.pi / 2), *WGS84)
    assert zone_area(np.array(math.pi / 2), 1.0, 0.0) == pytest.approx(1)  # a sphere


def test_density_is_the_slope_of_the_zone_area():
    latitudes = np.linspace(-1.5, 1.5, 31)
    slope = (zone_area(latitudes + 1e-5, *WGS84) - zone_area(latitudes - 1e-5, *WGS84)) / 2e-5
    np.testing.assert_allclose(density(latitudes, *WGS84), slope, rtol=1e-6)


def test_pixels_without_extent_are_an_error():
    with pytest.raises(ValueError, match="pixels have no extent"):
        PixelAreas(crs(32633), Affine(10, 0, 0, 0, 0, 0), 5, 5)


def test_maps_of_two_grids_are_an_error(tmp_path):
    profile = {"driver": "GTiff", "height": 2, "count": 1, "dtype": "uint8", "crs": crs(32633)}
    files = []
    for name, width in (("a", 2), ("b", 3)):
        path = tmp_path / f"{name}.tif"
        with rasterio().open(path, "w", width=width, transform=from_origin(0, 9, 1, 1), **profile):
            pass
        files.append(rasterio().open(path))
    check_grids(files[0], files[0])
    with pytest.raises(ValueError, match=r"a\.tif and .*b\.tif do not lie on one grid"):
        check_grids(*files)
    for file in files:
        file.close()


def test_a_crs_without_corners_tells_no_areas():
    areas = PixelAreas(rasterio().CRS.from_epsg(32633), Affine.identity(), 4, 5)
    assert areas.method is None and np.isnan(areas.strip(0, 4)).all()
