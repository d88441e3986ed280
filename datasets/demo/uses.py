"""Draws the parcels of the demo scenes: fields, forest, houses, halls, ponds, pitches.

Each function draws one land use on a canvas. The same `rng` gives the same drawing. `fill` (0..1)
is the share of lots that are built on, or the level of a pond; other uses ignore it.
"""

from collections.abc import Callable

import numpy as np
from numpy import ndarray

from datasets.demo import things as things
from datasets.demo.canvas import (
    BUILDING,
    GROUND,
    LOW_VEGETATION,
    SPORTS,
    TREE,
    WATER,
    Canvas,
    Surface,
)
from datasets.demo.shapes import (
    area,
    box,
    dense_outline,
    inner_box,
    lattice,
    left_of,
    longest_side,
    rounded,
    stadium,
    unit,
)

Rng = things.Rng


def crop(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """A field in rows."""
    colour, angle = things.tint(rng, things.CROPS), longest_side(polygon) + np.pi / 2
    rows = {"rows": rng.uniform(0.03, 0.16), "period": rng.uniform(2.2, 5.0), "angle": angle}
    kind = Surface(LOW_VEGETATION, *colour, grain=0.05, patch=0.06, season=0.85, vary=0.16, **rows)
    canvas.area(polygon, kind)


def ploughed(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """A bare field with furrows."""
    angle = longest_side(polygon) + np.pi / 2
    rows = {"rows": rng.uniform(0.0, 0.12), "period": rng.uniform(2.2, 5.0), "angle": angle}
    canvas.area(polygon, things.soil(rng)._replace(**rows))


def cleared(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """A building site: bare ground with heaps, ruts and up to two cabins."""
    canvas.area(polygon, things.soil(rng, things.SANDS)._replace(patch=0.13, grain=0.09))
    for point in things.sow(rng, lattice(polygon, (17, 17), 7), 12):
        patch = rounded(box(rng.uniform(6, 18), rng.uniform(4, 9), rng.uniform(0, np.pi)))
        colour = things.soil(rng, things.SANDS + things.SOILS)._replace(
            height=rng.choice([0.0, 0.0, 1.0])
        )
        canvas.shape(point, patch, colour)
    for point in lattice(polygon, (26, 40), 9)[: rng.integers(3)]:
        cabin = Surface(BUILDING, *things.tint(rng, things.SLABS + things.METALS), height=3.0)
        canvas.shape(point, box(7, 4, longest_side(polygon)), cabin)


def meadow(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Grass with some bushes and trees."""
    canvas.area(polygon, things.grass(rng))
    points = things.sow(rng, lattice(polygon, (15, 15), 5), 14)
    things.trees(canvas, rng, points[rng.random(len(points)) < rng.choice([0.03, 0.12, 0.3])])


def park(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Lawn, a path and clumps of trees."""
    canvas.area(polygon, things.grass(rng))
    centre, angle = polygon.mean(0), rng.uniform(0, np.pi)
    length, width = inner_box(polygon, 1.3, 4)
    if width > 14:
        canvas.shape(centre, stadium(length, width, angle), things.paving(rng))
        canvas.shape(centre, stadium(length - 5, width - 5, angle), things.grass(rng))
    points = things.sow(rng, lattice(polygon, (8, 8), 3), 8)
    things.trees(canvas, rng, points[rng.random(len(points)) < 0.45], 2.4, 4.8)


def forest(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Forest with a closed canopy."""
    canvas.area(polygon, Surface(TREE, *np.array(things.WOODS[0]) * 0.7, grain=0.2, patch=0.2))
    points = things.sow(rng, lattice(polygon, (5.2, 5.2), 1), 6)
    things.trees(canvas, rng, rng.permutation(points), 2.4, 5.0)


def orchard(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Trees in rows over grass."""
    canvas.area(polygon, things.grass(rng))
    points = lattice(polygon, (rng.uniform(4.4, 5.2), rng.uniform(5.4, 6.8)), 4)
    things.trees(canvas, rng, things.sow(rng, points, 0.8), 2.2, 2.9)


def houses(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Family houses with yards, drives and garden trees."""
    canvas.area(polygon, things.grass(rng))
    angle, tiles = longest_side(polygon), things.tint(rng, things.TILES)
    lots = things.sow(rng, lattice(polygon, (rng.uniform(16, 21), rng.uniform(17, 23)), 9), 3)
    for lot in lots:
        way = angle + (rng.random() < 0.25) * np.pi / 2 + rng.normal(0, 0.04)
        length, width = rng.uniform(10, 15), rng.uniform(7, 10)
        own = (
            things.tint(rng, things.TILES)
            if rng.random() < 0.4
            else tiles * rng.uniform(0.85, 1.15)
        )
        yard, built = (
            things.paving(rng) if rng.random() < 0.6 else things.soil(rng, things.SANDS),
            rng.random() < fill,
        )
        if built:
            canvas.shape(lot, box(length + 4, width + 6, way, *rng.uniform(-2, 2, 2)), yard)
            roof = Surface(BUILDING, *own, grain=0.06, patch=0.04, height=rng.uniform(4, 6.5))
            things.gable(canvas, lot, length, width, way, roof)
    points = things.sow(rng, lattice(polygon, (9, 9), 3), 8)
    far = np.linalg.norm(points[:, None] - lots, axis=2).min(1, initial=99) > 8
    things.trees(canvas, rng, points[far & (rng.random(len(points)) < 0.5)], 1.8, 3.6)


def blocks(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Blocks of flats with lawns, paving and trees between them."""
    canvas.area(polygon, things.paving(rng))
    angle, slab, high = longest_side(polygon), things.tint(rng, things.SLABS), rng.uniform(11, 21)
    length, width = rng.uniform(28, 44), rng.uniform(10, 13)
    pitch = (length + 6, width + rng.uniform(10, 17))
    for spot in lattice(polygon, pitch, 2.5, (length, width)):
        lawn, built = things.grass(rng), rng.random() < fill
        canvas.shape(spot, box(length, width + 12, angle), lawn)
        points = spot + rng.uniform(-1, 1, (9, 2)) * (length / 2, width)
        things.trees(canvas, rng, points[rng.random(9) < 0.6], 2.0, 3.6)
        if built:
            things.flats(
                canvas, rng, spot, (length, width, angle), slab * rng.uniform(0.9, 1.1), high
            )


def halls(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Factories and warehouses on a paved yard."""
    canvas.area(polygon, things.paving(rng))
    angle, colour = longest_side(polygon), things.tint(rng, things.METALS)
    things.cars(canvas, lattice(polygon, (9, 9), 4), angle, 0.12)
    length, width = rng.uniform(26, 48), rng.uniform(16, 25)
    spots = lattice(polygon, (length + 5, width + 7), 2.5, (length, width))
    for spot in spots if len(spots) else polygon.mean(0, keepdims=True):
        long, wide = (length, width) if len(spots) else inner_box(polygon, 1.5, 4)
        own = (
            things.tint(rng, things.METALS)
            if rng.random() < 0.3
            else colour * rng.uniform(0.92, 1.08)
        )
        ribs = {"rows": 0.05, "period": 3.0, "angle": angle, "height": rng.uniform(6, 10)}
        kind = Surface(BUILDING, *own.clip(0, 0.95), grain=0.02, patch=0.03, **ribs)
        if rng.random() < fill and wide > 8:
            things.gable(canvas, spot, long, wide, angle, kind, pitch=rng.uniform(0.05, 0.3))


def parking(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Asphalt with marked rows; the cars differ from date to date."""
    angle = longest_side(polygon)
    canvas.area(
        polygon, Surface(GROUND, *np.array(things.ASPHALT) * rng.uniform(0.9, 1.3), patch=0.08)
    )
    bays = lattice(polygon, (3.0, 9.0), 4)
    for bay in lattice(polygon, (15.0, 9.0), 8):
        canvas.shape(bay, box(15, 0.7, angle), Surface(GROUND, *things.WORN))
    things.cars(
        canvas,
        bays + 2.4 * left_of(unit(angle)),
        angle + np.pi / 2,
        canvas.passing.uniform(0.1, 0.8),
    )
    points = lattice(polygon, (14, 27), 3)
    things.trees(canvas, rng, points[rng.random(len(points)) < 0.5], 1.8, 2.8)


def pond(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """Still water with a bank; `fill` is its water level."""
    canvas.area(polygon, things.grass(rng))
    centre = polygon.mean(0)
    corners = dense_outline(polygon, 24)
    outline = rounded(centre + (corners - centre) * rng.uniform(0.6, 1.0, (len(corners), 1)))
    water = Surface(WATER, *things.tint(rng, things.WATERS), grain=0.015, patch=0.05, vary=0.12)
    canvas.area(outline, things.soil(rng, things.SANDS))
    canvas.area(centre + (outline - centre) * (0.35 + 0.6 * fill), water)
    points = things.sow(rng, lattice(polygon, (9, 9), 2), 8)
    dry = np.linalg.norm(points - centre, axis=1) > np.sqrt(area(polygon)) * 0.58
    things.trees(canvas, rng, points[dry & (rng.random(len(points)) < 0.5)])


def pitches(canvas: Canvas, polygon: ndarray, rng: Rng, fill: float) -> None:
    """A pitch with a running track if there is room, otherwise courts."""
    canvas.area(polygon, things.grass(rng) if rng.random() < 0.5 else things.paving(rng))
    centre, angle = polygon.mean(0), longest_side(polygon)
    length, width = inner_box(polygon, 1.75, 3)
    if width > 34:
        track = Surface(
            SPORTS, *things.tint(rng, [(0.58, 0.30, 0.24), (0.50, 0.31, 0.27)]), grain=0.03
        )
        pale = track._replace(red=0.66, green=0.45, blue=0.40)
        for lane, kind in ((0.0, track), (3.0, pale), (4.0, track)):
            canvas.shape(centre, stadium(length - lane, width - lane, angle), kind)
        lawn = Surface(SPORTS, 0.27, 0.42, 0.18, grain=0.05, season=0.4)
        canvas.shape(centre, stadium(length - 8.5, width - 8.5, angle), lawn)
        things.field(
            canvas, centre, (length - width, width - 13, angle), lawn._replace(rows=0.07, period=10)
        )
        return
    count = max(1, int(length // 17))
    for number in range(count if width > 9 else 0):
        spot = centre + unit(angle) * (number - (count - 1) / 2) * length / count
        court = Surface(SPORTS, *things.tint(rng, things.COURTS), grain=0.02, patch=0.03)
        canvas.shape(spot, box(length / count - 1.5, width, angle), court)
        inner = things.tint(rng, things.COURTS)
        kind = court._replace(red=inner[0], green=inner[1], blue=inner[2])
        things.field(canvas, spot, (length / count - 5, width - 4, angle), kind)


USES: dict[str, Callable[[Canvas, ndarray, Rng, float], None]] = {
    "crop": crop,
    "ploughed": ploughed,
    "cleared": cleared,
    "meadow": meadow,
    "park": park,
    "forest": forest,
    "orchard": orchard,
    "houses": houses,
    "blocks": blocks,
    "halls": halls,
    "parking": parking,
    "pond": pond,
    "pitches": pitches,
}
