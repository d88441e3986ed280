"""Generates the ground of the demo scenes: roads, rivers and parcels at both dates."""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from datasets.demo.canvas import GROUND, LOW_VEGETATION, WATER, Bend, Canvas, Surface
from datasets.demo.shapes import area, band, box, cut, left_of, longest_side, unit
from datasets.demo.things import (
    ASPHALT,
    WATERS,
    WORN,
    Rng,
    cars,
    grass,
    paving,
    soil,
    tint,
    trees,
)
from datasets.demo.uses import USES


class Theme(NamedTuple):
    """A kind of landscape."""

    share: float  # probability of this theme
    parcel: float  # typical parcel area, m^2
    street: str  # kind of strip between large blocks
    lane: str  # kind of strip between parcels
    bend: float  # strength of the Bend, m
    uses: dict[str, int]  # use -> weight


# fmt: off
THEMES = (
    Theme(0.30, 3600, "country road", "track", 26,  # farmland
          {"crop": 46, "ploughed": 17, "meadow": 11, "forest": 9, "houses": 8, "orchard": 6,
           "pond": 7}),
    Theme(0.14, 4800, "country road", "rim", 34,  # woodland
          {"forest": 46, "meadow": 18, "crop": 12, "ploughed": 7, "pond": 7, "houses": 6,
           "cleared": 4}),
    Theme(0.24, 4600, "street", "street", 14,  # suburb
          {"houses": 50, "meadow": 9, "park": 8, "pitches": 11, "blocks": 7, "forest": 6,
           "cleared": 5, "crop": 4, "parking": 3, "pond": 4}),
    Theme(0.17, 5600, "avenue", "street", 6,  # city
          {"blocks": 46, "park": 10, "pitches": 13, "parking": 8, "cleared": 8, "halls": 8,
           "houses": 8, "pond": 4}),
    Theme(0.15, 6200, "avenue", "street", 6,  # industry
          {"halls": 46, "meadow": 10, "cleared": 10, "crop": 10, "parking": 8, "blocks": 5,
           "ploughed": 5, "pond": 4}),
)
# fmt: on

NEXT_USE = {
    "crop": ["houses", "halls", "cleared", "ploughed", "pond", "pitches", "orchard", "forest"],
    "ploughed": ["crop", "meadow", "houses", "halls", "pond", "pitches", "forest"],
    "meadow": ["houses", "blocks", "pitches", "cleared", "pond", "forest", "parking"],
    "forest": ["cleared", "meadow", "houses", "crop", "ploughed"],
    "orchard": ["cleared", "crop", "halls", "ploughed"],
    "houses": ["cleared", "blocks", "meadow", "park", "ploughed"],
    "blocks": ["cleared", "park", "meadow"],
    "halls": ["cleared", "meadow", "pitches", "parking"],
    "parking": ["blocks", "halls", "pitches", "park"],
    "cleared": ["blocks", "halls", "pitches", "park", "meadow", "houses"],
    "park": ["cleared", "blocks", "pitches", "parking"],
    "pond": ["cleared", "crop", "meadow", "houses"],
    "pitches": ["cleared", "blocks", "meadow", "parking"],
}

WIDTHS = {"avenue": 15.0, "street": 9.0, "country road": 9.0, "track": 3.0, "rim": 2.0}  # m


class Parcel(NamedTuple):
    """A piece of land with one use."""

    polygon: ndarray  # (n, 2) m, convex
    use: str
    seed: int  # the same seed gives the same drawing
    fill: float = 1.0  # 0..1, see datasets.demo.uses


class Strip(NamedTuple):
    """A road, track or river: the land within `width` / 2 of a line, a convex polygon."""

    polygon: ndarray  # (n, 2) m
    kind: str
    point: ndarray  # (2,) on the line
    direction: ndarray  # (2,) unit vector
    width: float  # m
    seed: int


class Land(NamedTuple):
    """The ground at one date."""

    parcels: list[Parcel]
    strips: list[Strip]
    bend: Bend


def cut_polygon(
    polygon: ndarray, kind: str, point: ndarray, direction: ndarray, width: float, seed: int
) -> tuple[list[ndarray], Strip]:
    """Divides a polygon by a strip; returns the pieces on both sides and the strip."""
    across = left_of(direction) * width / 2
    halves = [cut(polygon, point + across, across), cut(polygon, point - across, -across)]
    strip = band(polygon, point, direction, width)
    return halves, Strip(strip, kind, point, direction, width, seed)


def first_cuts(
    root: ndarray, side: float, rng: Rng, theme: Theme
) -> tuple[list[ndarray], list[Strip]]:
    """Divides the scene by a main road and a river (each optional); returns blocks and strips."""
    angle, blocks, strips = longest_side(root), [root], []
    lines = [(theme.street, angle, WIDTHS[theme.street])] if rng.random() < 0.8 else []
    if rng.random() < 0.25:
        lines.append(("river", angle + np.pi / 2 + rng.normal(0, 0.2), rng.uniform(18, 50)))
    for kind, way, width in lines:
        point = (0.5 + rng.uniform(-0.3, 0.3, 2)) * side
        seed = int(rng.integers(2**31))
        pieces = [cut_polygon(block, kind, point, unit(way), width, seed) for block in blocks]
        blocks = [half for halves, _ in pieces for half in halves if len(half)]
        strips += [strip for _, strip in pieces if len(strip.polygon)]
    return blocks, strips


def divide(block: ndarray, theme: Theme, rng: Rng, strips: list[Strip]) -> list[ndarray]:
    """Halves a block recursively into parcels; appends the strips between them to `strips`."""
    space = area(block)
    if space < theme.parcel * rng.uniform(0.7, 1.9):
        return [block]
    longest = longest_side(block)
    along = (block - block.mean(0)) @ unit(longest)
    point = block.mean(0) + unit(longest) * (along.min() + np.ptp(along) * rng.uniform(0.36, 0.64))
    direction = unit(longest + np.pi / 2 + rng.normal(0, 0.06))
    kind = theme.street if space > 6 * theme.parcel else theme.lane
    if kind == "street" and space < 2.5 * theme.parcel:
        kind = "rim"
    halves, strip = cut_polygon(
        block, kind, point, direction, WIDTHS[kind], int(rng.integers(2**31))
    )
    strips.append(strip)
    return [piece for half in halves if len(half) for piece in divide(half, theme, rng, strips)]


def settle(side: float, rng: Rng) -> Land:
    """Generates the land at date 1: two themes (possibly equal), divided by a line.

    Args:
        side: side length of the tile, m; small tiles get small parcels.
        rng: random generator.
    """
    share = [theme.share for theme in THEMES]
    theme, other = (THEMES[number] for number in rng.choice(len(THEMES), 2, p=share))
    line = rng.uniform(0.25, 0.75, 2) * side, unit(rng.uniform(0, 2 * np.pi))
    theme = theme._replace(parcel=theme.parcel * min(1.0, side / 230))
    reach = side * 1.5 + 80
    root = box(reach, reach, rng.uniform(0, np.pi)) + side / 2
    blocks, strips = first_cuts(root, side, rng, theme)
    parcels = []
    for block in blocks:
        for polygon in divide(block, theme, rng, strips):
            here = theme if (polygon.mean(0) - line[0]) @ line[1] > 0 else other
            weights = np.array(list(here.uses.values()), float)
            use = str(rng.choice(list(here.uses), p=weights / weights.sum()))
            fill = 1.0 if rng.random() < 0.5 else rng.uniform(0.4, 1.0)
            parcels.append(Parcel(polygon, use, int(rng.integers(2**31)), fill))
    return Land(parcels, strips, Bend(rng, theme.bend))


def in_tile(polygon: ndarray, side: float) -> float:
    """Area in m^2 of the part of a polygon inside the tile."""
    for corner, normal in zip(
        (0, 0, side, side), np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]), strict=True
    ):
        polygon = cut(polygon, np.full(2, corner), normal)
    return area(polygon)


def evolve(land: Land, side: float, rng: Rng) -> Land:
    """Generates the land at date 2: some parcels change their use or their `fill`."""
    share = rng.uniform(0.0, 0.02) if rng.random() < 0.1 else rng.uniform(0.06, 0.36)
    left, parcels = share * side**2, list(land.parcels)
    for number in rng.permutation(len(parcels)):
        parcel, space = parcels[number], in_tile(parcels[number].polygon, side)
        if not 0 < space < 2 * left:
            continue
        if parcel.use in ("houses", "blocks", "halls", "pond") and rng.random() < 0.35:
            fill = rng.uniform(0, 0.3) if parcel.fill > 0.6 else 1.0
            parcels[number], left = parcel._replace(fill=fill), left - 0.4 * space
        else:
            use = str(rng.choice(NEXT_USE[parcel.use]))
            parcels[number] = Parcel(parcel.polygon, use, int(rng.integers(2**31)))
            left -= 0.85 * space
    return land._replace(parcels=parcels)


def on_line(strip: Strip, step: float, offset: float = 0.0) -> ndarray:
    """Points (n, 2) every `step` m along a strip, `offset` m to its left."""
    along = (strip.polygon - strip.point) @ strip.direction
    reach = np.arange(along.min() + 3, along.max() - 3, step)[:, None]
    return strip.point + reach * strip.direction + left_of(strip.direction) * offset


def draw_road(canvas: Canvas, strip: Strip, rng: Rng) -> None:
    """Draws a road: asphalt with verge, lines, cars and trees."""
    angle = np.arctan2(*strip.direction[::-1])
    town = strip.kind != "country road"
    canvas.area(strip.polygon, paving(rng) if rng.random() < 0.6 * town else grass(rng))
    lane = Surface(GROUND, *np.array(ASPHALT) * rng.uniform(0.85, 1.25), grain=0.03, patch=0.05)
    width = strip.width - 3.5
    canvas.area(band(strip.polygon, strip.point, strip.direction, width), lane)
    for point in on_line(strip, 9 if strip.kind != "street" else 1e9):
        canvas.shape(point, box(3.5, 0.5, angle), Surface(GROUND, *WORN))
    for offset in (-width / 4, width / 4):
        cars(canvas, on_line(strip, 11, offset), angle, 0.16 if town else 0.05)
    for offset in (-width / 2 - 1, width / 2 + 1):
        points = on_line(strip, 10, offset)
        trees(canvas, rng, points[rng.random(len(points)) < (0.5 if town else 0.15)], 1.8, 3.2)


def draw_track(canvas: Canvas, strip: Strip, rng: Rng) -> None:
    """Draws a dirt track or a strip of grass, with bushes."""
    bare = strip.kind == "track" and rng.random() < 0.6
    canvas.area(strip.polygon, soil(rng) if bare else grass(rng))
    points = on_line(strip, 6)
    trees(canvas, rng, points[rng.random(len(points)) < rng.choice([0.05, 0.25, 0.6])], 1.6, 3.2)


def draw_river(canvas: Canvas, strip: Strip, rng: Rng) -> None:
    """Draws a river of uneven width between banks of grass and sand."""
    canvas.area(strip.polygon, grass(rng))
    bank, water = soil(rng), Surface(WATER, *tint(rng, WATERS), grain=0.015, patch=0.05, vary=0.03)
    along = on_line(strip, 12)
    wobble = np.convolve(rng.normal(0, 1, len(along) + 4), np.ones(5) / 5, "valid")[:, None]
    across = left_of(strip.direction) * strip.width / 2
    for reach, kind in ((0.95, bank), (0.85, water)):
        left, right = (along + side * across * (reach + 0.12 * wobble) for side in (1, -1))
        canvas.area(np.concatenate([left, right[::-1]]), kind)


def draw(land: Land, size: int, passing: Rng) -> tuple[ndarray, ndarray]:
    """Draws one date.

    Args:
        land: the land at this date.
        size: side length of the tile, px.
        passing: random generator of the cars.

    Returns:
        Map (S, S) of surface numbers with S = (size + 2 MARGIN) * FINE, and the table of
        surfaces (n, columns).
    """
    canvas = Canvas(size, land.bend, passing)
    canvas.area(box(4 * size, 4 * size, 0), Surface(LOW_VEGETATION, 0.36, 0.4, 0.22))
    draws = {"river": draw_river, "track": draw_track, "rim": draw_track}
    for strip in land.strips:
        draws.get(strip.kind, draw_road)(canvas, strip, np.random.default_rng(strip.seed))
    for parcel in land.parcels:
        if canvas.shows(parcel.polygon):
            USES[parcel.use](
                canvas, parcel.polygon, np.random.default_rng(parcel.seed), parcel.fill
            )
    return canvas.finish()
