"""Canvas of the demo scenes: a map of surface numbers and a table of surfaces.

Scene coordinates are in metres, x to the right and y down, from the upper left corner of the tile.
"""

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw

from datasets.demo.shapes import dense_outline, turn

WATER, GROUND, LOW_VEGETATION, TREE, BUILDING, SPORTS = range(1, 7)

GSD = 0.75  # metres per image px
FINE = 2  # drawn (fine) px per image px, along each side
NOTHING = -1  # no surface
MARGIN = 8  # image px drawn beyond each edge, for shadows and shifts


class Surface(NamedTuple):
    """One object on the ground: its class, geometry and appearance under even light."""

    cover: float  # land-cover class, 1..6
    red: float  # reflectance in 0..1, like green and blue
    green: float
    blue: float
    grain: float = 0.05  # pixel noise as a share of the brightness
    patch: float = 0.06  # variation over about 10 m as a share of the brightness
    season: float = 0.0  # 0..1, how strongly the season changes the colour
    vary: float = 0.05  # variation between dates as a share of the brightness
    rows: float = 0.0  # contrast of furrows or ribs as a share of the brightness
    period: float = 4.0  # m between rows
    angle: float = 0.0  # radians, across the rows
    height: float = 0.0  # m above the ground
    tilt_x: float = 0.0  # slope of a roof plane (rise over run), towards its downhill side
    tilt_y: float = 0.0
    dome: float = 0.0  # radius in m of a round crown, 0 = flat
    x: float = 0.0  # centre, m
    y: float = 0.0


COLUMN = {name: number for number, name in enumerate(Surface._fields)}


def fine(points: ndarray) -> ndarray:
    """Converts points in metres to canvas coordinates in fine px."""
    return (points / GSD + MARGIN) * FINE


class Bend:
    """A smooth deformation of the plane, so that field edges and roads are not straight lines."""

    def __init__(self, rng: np.random.Generator, strength: float):
        """Draws the waves.

        Args:
            rng: random generator of the waves.
            strength: approximate maximum displacement of a point, m.
        """
        length = rng.uniform(170, 420, 4)
        angle = rng.uniform(0, 2 * np.pi, (2, 4))
        self.wave = 2 * np.pi / length * np.stack([np.cos(angle[0]), np.sin(angle[0])])  # (2, 4)
        self.phase = rng.uniform(0, 2 * np.pi, 4)
        shift = strength / 2 * np.stack([np.cos(angle[1]), np.sin(angle[1])], 1)  # (4, 2)
        self.shift = shift * (length / 300)[:, None]

    def __call__(self, points: ndarray) -> ndarray:
        """Deformed points (n, 2)."""
        return points + np.sin(points @ self.wave + self.phase) @ self.shift


class Canvas:
    """Canvas of one date of a scene; later objects cover earlier ones."""

    def __init__(self, size: int, bend: Bend, passing: np.random.Generator):
        """Creates an empty canvas.

        Args:
            size: side length of the tile in px, without the margin.
            bend: deformation of everything drawn.
            passing: random generator of objects of this date only (cars).
        """
        side = (size + 2 * MARGIN) * FINE
        self.image = Image.new("I", (side, side))
        self.ground = ImageDraw.Draw(self.image)
        self.traffic_image = Image.new("I", (side, side), NOTHING)
        self.traffic = ImageDraw.Draw(self.traffic_image)
        self.rows: list[ndarray] = []
        self.count = 0
        self.bend = bend
        self.passing = passing

    def _add(self, rows: ndarray) -> int:
        """Appends surfaces (n, columns); returns the number of the first."""
        self.rows.append(rows)
        self.count += len(rows)
        return self.count - len(rows)

    def shows(self, polygon: ndarray, reach: float = 24.0) -> bool:
        """Whether anything within `reach` m of a polygon (n, 2) may be on the canvas."""
        points = self.bend(polygon)
        low, high = fine(points.max(0) + reach), fine(points.min(0) - reach)
        return bool(low.min() > 0 and high.max() < self.image.width)

    def _fill(self, points: ndarray, surface: Surface, draw: ImageDraw.ImageDraw) -> None:
        if len(points) >= 3:
            number = self._add(np.array([surface], np.float32))
            draw.polygon(fine(points).ravel().tolist(), fill=number)

    def area(self, polygon: ndarray, surface: Surface) -> None:
        """Draws land; the outline is deformed with the plane."""
        if len(polygon) >= 3:
            self._fill(self.bend(dense_outline(polygon)), surface, self.ground)

    def shape(
        self, centre: ndarray, outline: ndarray, surface: Surface, passing: bool = False
    ) -> None:
        """Draws a rigid object; it is moved and rotated with the plane, but not deformed.

        Args:
            centre: (2,) position, m.
            outline: (n, 2) relative to `centre`, m.
            surface: class and appearance.
            passing: the object exists at this date only. It is visible on GROUND only, so that
                labels do not change.
        """
        here, ahead = self.bend(centre + np.array([[0.0, 0.0], [1.0, 0.0]]))
        angle = float(np.arctan2(*(ahead - here)[::-1]))
        tilt = turn(np.array([[surface.tilt_x, surface.tilt_y]]), angle)[0]
        surface = surface._replace(tilt_x=tilt[0], tilt_y=tilt[1], angle=surface.angle + angle)
        self._fill(turn(outline, angle) + here, surface, self.traffic if passing else self.ground)

    def crowns(self, centres: ndarray, radii: ndarray, tints: ndarray, kind: Surface) -> None:
        """Draws round tree crowns.

        Args:
            centres: (n, 2) m.
            radii: (n,) m.
            tints: (n,) brightness factors.
            kind: common surface; colour, dome, height and position are set for each crown.
        """
        if len(centres) == 0:
            return
        centres = self.bend(centres)
        rows = np.tile(np.array(kind, np.float32), (len(centres), 1))
        rows[:, COLUMN["red"] : COLUMN["blue"] + 1] *= tints[:, None]
        rows[:, COLUMN["dome"]] = radii
        rows[:, COLUMN["height"]] *= radii
        rows[:, COLUMN["x"] :] = centres
        number = self._add(rows)
        boxes = fine(np.concatenate([centres - radii[:, None], centres + radii[:, None]], 1))
        for offset, corners in enumerate(boxes.tolist()):
            self.ground.ellipse(corners, fill=number + offset)

    def finish(self) -> tuple[ndarray, ndarray]:
        """The map (S, S) of surface numbers and the table (n, columns) float32."""
        ids, traffic, table = (
            np.asarray(self.image),
            np.asarray(self.traffic_image),
            np.concatenate(self.rows),
        )
        open_ground = table[:, COLUMN["cover"]][ids] == GROUND
        return np.where(open_ground & (traffic != NOTHING), traffic, ids), table
