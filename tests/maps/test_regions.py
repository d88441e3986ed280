import tracemalloc

import numpy as np
import pytest
import shapely
from rasterio.features import shapes

from utils.regions import RegionMaker, components, outlines


def made(codes, rows=1000, layers=(), max_corners=0):
    """[(code, sums, polygon, group of its strip)] of a map fed `rows` at a time."""
    codes = np.asarray(codes)
    maker, found = RegionMaker(codes.shape[1], len(layers), max_corners), []
    tops = range(0, len(codes), rows)
    strips = [maker.add(codes[t : t + rows], [x[t : t + rows] for x in layers]) for t in tops]
    for number, regions in enumerate([*strips, maker.finish()]):
        coordinates, *offsets = outlines(regions.corners)
        polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, offsets)
        groups = [(number, group) for group in regions.group.tolist()]
        sums = map(tuple, regions.sums.T)
        found += zip(regions.value.tolist(), sums, polygons, groups, strict=True)
    return found


def texts(found):
    """Comparable, in any order."""
    return sorted((code, shapely.normalize(polygon).wkt) for code, _, polygon, _ in found)


def random_map(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 25, 2)
    codes = rng.integers(1, rng.integers(2, 5), (height, width))
    return codes * (rng.random((height, width)) < rng.random())


def test_one_pixel_is_a_square_counter_clockwise_on_the_map():
    [(code, _, polygon, _)] = made([[0, 0, 0], [0, 7, 0]])
    assert code == 7
    assert list(polygon.exterior.coords) == [(2, 1), (1, 1), (1, 2), (2, 2), (2, 1)]


def test_straight_edges_have_no_points_between_also_across_seams():
    for rows in (1, 2, 9):
        [(_, _, polygon, _)] = made(np.ones((9, 6), int), rows)
        assert len(polygon.exterior.coords) == 5 and polygon.area == 54


def test_a_ring_keeps_its_hole_and_what_lies_in_it():
    codes = np.ones((5, 5), int)
    codes[1:4, 1:4], codes[2, 2] = 0, 2
    for rows in (1, 2, 5):
        (_, _, island, _), (_, _, ring, _) = sorted(made(codes, rows), key=lambda x: -x[0])
        assert (island.area, ring.area, len(ring.interiors)) == (1, 16, 1)
        assert ring.interiors[0].bounds == (1, 1, 4, 4)


def test_diagonal_neighbours_are_two_polygons():
    assert len(made([[1, 0], [0, 1]])) == 2
    assert len(made([[0, 1], [1, 0]], rows=1)) == 2


def test_an_arm_that_closes_at_a_corner_makes_a_hole_not_a_knot():
    # the outside, the right hole and the left hole meet in two points, (3, 2) and (2, 2)
    codes = [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]]
    for rows in (1, 2, 4):
        [(_, _, polygon, _)] = made(codes, rows)
        assert polygon.is_valid and polygon.area == 11
        assert sorted(hole.bounds for hole in polygon.interiors) == [(1, 1, 2, 2), (2, 2, 3, 3)]


def test_regions_that_meet_late_are_one():
    # three teeth of a comb that hang together in the last row only
    codes = [[1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]]
    for rows in (1, 2, 3):
        [(_, _, polygon, _)] = made(codes, rows)
        assert polygon.area == 11 and len(polygon.exterior.coords) == 13


@pytest.mark.parametrize("seed", range(30))
def test_random_maps_have_the_polygons_of_gdal_at_every_size_of_strip(seed):
    codes = random_map(seed)
    whole = made(codes)
    for rows, max_corners in ((7, 0), (1, 0), (3, 10**9), (2, 20)):
        assert texts(made(codes, rows, max_corners=max_corners)) == texts(whole)
    polygons = np.array([polygon for _, _, polygon, _ in whole])
    assert shapely.is_valid(polygons).all()
    expected = shapes(codes.astype(np.int32), mask=codes > 0, connectivity=4)
    for (code, _, mine, _), (theirs, other) in zip(
        sorted(whole, key=order),
        sorted(map(region, expected), key=lambda x: place(x[1])),
        strict=True,
    ):
        assert code == theirs and mine.equals(other)


def region(shape_and_value):
    geometry, value = shape_and_value
    return value, shapely.make_valid(shapely.geometry.shape(geometry))


def place(polygon):
    return *polygon.bounds, polygon.area, polygon.length


def order(found):
    return place(found[2])


@pytest.mark.parametrize("seed", range(10))
def test_sums_are_those_of_the_pixels(seed):
    codes = random_map(seed)
    weights = np.random.default_rng(seed).random(codes.shape)
    for rows in (1, 7, 100):
        found = made(codes, rows, [np.ones(codes.shape), weights])
        for _, (count, total), polygon, _ in found:
            row, column = np.indices(codes.shape) + 0.5
            inside = shapely.contains_xy(polygon, column, row)
            assert count == polygon.area == inside.sum()
            assert total == pytest.approx(weights[inside].sum(), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_regions_that_touch_come_together(seed):
    codes = random_map(seed)
    found = made(codes, 2, max_corners=10**9)
    polygons = np.array([polygon for _, _, polygon, _ in found])
    groups = [group for _, _, _, group in found]
    for i, group in enumerate(groups):
        touching = np.flatnonzero(shapely.intersects(polygons[i], polygons))
        assert {groups[j] for j in touching} == {group}


def test_groups_that_grow_too_large_are_split_and_say_so():
    codes = 1 + np.indices((40, 6)).sum(0) % 2  # a chessboard: one group of 240 squares
    maker = RegionMaker(6, 0, max_corners=100)
    strips = [maker.add(codes[top : top + 2]) for top in range(0, 40, 2)] + [maker.finish()]
    sizes = [len(strip.value) for strip in strips]
    assert sum(sizes) == 240 and max(sizes) < 60
    assert all(strip.split.all() for strip in strips)
    whole = RegionMaker(6, 0, max_corners=10**6)
    assert len(whole.add(codes).value) == 0 and not whole.finish().split.any()


def test_nothing_is_kept_of_finished_regions():
    codes = np.zeros((4, 8), int)
    codes[1, ::2] = 3
    maker = RegionMaker(8)
    assert len(maker.add(codes).value) == 4
    assert len(maker._open.value) == len(maker._open.corners.x) == 0


def test_components_are_numbered_by_their_first_node():
    first, second = np.array([5, 1, 4]), np.array([2, 0, 5])
    np.testing.assert_array_equal(components(7, first, second), [0, 0, 1, 2, 1, 1, 3])
    assert len(components(0, first[:0], second[:0])) == 0


@pytest.mark.parametrize("seed", range(5))
def test_components_of_random_graphs(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 50, (2, 40))
    found = components(50, first, second)
    group = list(range(50))
    for _ in range(50):
        for a, b in zip(first, second, strict=True):
            group[a] = group[b] = min(group[a], group[b])
    numbers = {leader: number for number, leader in enumerate(sorted(set(group)))}
    np.testing.assert_array_equal(found, [numbers[leader] for leader in group])


def test_outlines_need_little_memory_beside_their_points():
    codes = np.random.default_rng(0).random((400, 400)) < 0.65  # one region, full of holes
    maker = RegionMaker(400)
    maker.add(codes)
    corners = maker.finish().corners
    tracemalloc.start()
    outlines(corners)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(corners.x) > 50_000
    assert most < 62 * len(corners.x)  # bytes; 18 are of the points


def test_regions_that_are_all_kept_are_not_copied():
    regions = RegionMaker(3).add(np.array([[1, 0, 2], [0, 0, 0]]))
    assert regions.take(np.ones(2, bool)) is regions
    assert len(regions.take(np.array([True, False])).value) == 1
