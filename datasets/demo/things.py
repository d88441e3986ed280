"""Objects of the demo scenes: colours, ground, trees, cars, roofs, sports pitches."""

import numpy as np
from numpy import ndarray

from datasets.demo.canvas import BUILDING, GROUND, LOW_VEGETATION, SPORTS, TREE, Canvas, Surface
from datasets.demo.shapes import box, left_of, stadium, unit

Rng = np.random.Generator
Colour = tuple[float, float, float]  # red, green, blue reflectance in 0..1

CROPS = [(0.27, 0.37, 0.17), (0.36, 0.45, 0.21), (0.42, 0.46, 0.26), (0.56, 0.52, 0.31)]
MEADOWS = [(0.33, 0.39, 0.21), (0.39, 0.42, 0.26), (0.47, 0.46, 0.31)]
SOILS = [(0.47, 0.37, 0.28), (0.60, 0.52, 0.41), (0.36, 0.30, 0.24), (0.55, 0.39, 0.29)]
SANDS = [(0.66, 0.60, 0.49), (0.58, 0.53, 0.45), (0.62, 0.50, 0.39)]
WOODS = [(0.15, 0.23, 0.11), (0.20, 0.28, 0.13), (0.24, 0.29, 0.16)]
PAVINGS = [(0.55, 0.54, 0.52), (0.62, 0.60, 0.57), (0.48, 0.48, 0.48)]
WATERS = [(0.13, 0.21, 0.23), (0.20, 0.29, 0.25), (0.31, 0.34, 0.27), (0.10, 0.16, 0.21)]
TILES = [(0.60, 0.33, 0.24), (0.50, 0.30, 0.24), (0.43, 0.33, 0.29), (0.45, 0.44, 0.44)]
SLABS = [(0.64, 0.62, 0.59), (0.50, 0.49, 0.48), (0.56, 0.44, 0.37), (0.74, 0.72, 0.69)]
METALS = [(0.25, 0.43, 0.68), (0.82, 0.83, 0.84), (0.60, 0.62, 0.64), (0.36, 0.52, 0.66)]
METALS += [(0.55, 0.29, 0.24), (0.72, 0.70, 0.66)]
COURTS = [(0.25, 0.42, 0.34), (0.26, 0.36, 0.53), (0.55, 0.31, 0.25), (0.34, 0.46, 0.30)]
CARS = [(0.85, 0.85, 0.86), (0.16, 0.16, 0.18), (0.55, 0.56, 0.58), (0.55, 0.15, 0.13)]
CARS += [(0.18, 0.26, 0.45), (0.90, 0.90, 0.88)]
ASPHALT = (0.37, 0.37, 0.385)
WHITE = (0.80, 0.80, 0.78)
WORN = (0.60, 0.60, 0.58)


def tint(rng: Rng, colours: list[Colour]) -> ndarray:
    """Picks one of the colours (3,) and varies its brightness."""
    return np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.88, 1.12)


def soil(rng: Rng, colours: list[Colour] = SOILS) -> Surface:
    """Surface of bare ground."""
    return Surface(GROUND, *tint(rng, colours), grain=0.06, patch=0.09, vary=0.09, season=0.1)


def grass(rng: Rng) -> Surface:
    """Surface of a meadow or lawn."""
    return Surface(
        LOW_VEGETATION, *tint(rng, MEADOWS), grain=0.07, patch=0.09, season=0.9, vary=0.10
    )


def paving(rng: Rng) -> Surface:
    """Surface of concrete or worn asphalt."""
    return Surface(GROUND, *tint(rng, PAVINGS), grain=0.035, patch=0.06)


def sow(rng: Rng, points: ndarray, pitch: float) -> ndarray:
    """Points (n, 2) moved at random by up to `pitch` / 2 m in x and y."""
    return points + rng.uniform(-pitch / 2, pitch / 2, points.shape)


def trees(canvas: Canvas, rng: Rng, points: ndarray, low: float = 2.2, high: float = 4.4) -> None:
    """Draws tree crowns of `low` to `high` m radius at the points (n, 2)."""
    radii = rng.uniform(low, high, len(points))
    tints = rng.normal(1.05, 0.14, len(points)).clip(0.7, 1.5)
    kind = Surface(TREE, *tint(rng, WOODS), grain=0.16, season=0.6, height=1.5)
    canvas.crowns(points, radii, tints, kind)


def cars(canvas: Canvas, points: ndarray, angle: float, share: float) -> None:
    """Draws cars of this date on a `share` of the points (n, 2); the labels show ground there."""
    rng = canvas.passing
    for point in points[rng.random(len(points)) < share]:
        kind = Surface(GROUND, *tint(rng, CARS), grain=0.02, height=1.4)
        canvas.shape(point, box(rng.uniform(3.6, 4.8), 2.0, angle), kind, passing=True)


def gable(
    canvas: Canvas,
    centre: ndarray,
    length: float,
    width: float,
    angle: float,
    kind: Surface,
    pitch: float = 0.6,
) -> None:
    """Draws a roof of two planes that meet over the long axis; `pitch` is rise over run."""
    for side in (-1, 1):
        facing = left_of(unit(angle)) * side * pitch
        half = box(length, width / 2, angle, 0, side * width / 4)
        canvas.shape(centre, half, kind._replace(tilt_x=facing[0], tilt_y=facing[1]))


def flats(
    canvas: Canvas,
    rng: Rng,
    spot: ndarray,
    size: tuple[float, float, float],
    colour: ndarray,
    high: float,
) -> None:
    """Draws a block of flats: parapet, flat roof, stair heads; `size` is length, width, angle."""
    length, width, angle = size
    roof = Surface(BUILDING, *colour, grain=0.05, patch=0.07, height=high)
    canvas.shape(spot, box(length, width, angle), roof._replace(height=high + 1))
    inner = roof._replace(red=roof.red * 0.88, green=roof.green * 0.88, blue=roof.blue * 0.88)
    canvas.shape(spot, box(length - 2, width - 2, angle), inner)
    for along in np.arange(-length / 2 + 6, length / 2 - 3, 10):
        head = roof._replace(height=high + rng.uniform(2, 3))
        canvas.shape(spot, box(3.5, 4.5, angle, along, width / 5), head)


def field(canvas: Canvas, centre: ndarray, size: tuple[float, float, float], kind: Surface) -> None:
    """Draws a sports pitch with its lines; `size` is length and width in m, angle in radians."""
    length, width, angle = size
    line = Surface(SPORTS, *WHITE)
    kind = kind._replace(angle=angle)
    canvas.shape(centre, box(length, width, angle), line)
    for side in (-1, 1):
        half = (length - 1.6) / 2 - 0.4
        canvas.shape(centre, box(half, width - 1.6, angle, side * (half / 2 + 0.4)), kind)
        if width > 16:
            goal = side * (length / 2 - length / 14)
            canvas.shape(centre, box(length / 7, width / 2, angle, goal), line)
            canvas.shape(centre, box(length / 7 - 1.4, width / 2 - 1.4, angle, goal), kind)
    circle = min(length, width) / 2.2
    canvas.shape(centre, stadium(circle, circle, angle), line)
    canvas.shape(centre, stadium(circle - 1.5, circle - 1.5, angle), kind)
