"""Plane geometry for the demo scenes: convex polygons as (n, 2) float arrays of x, y in m."""

import math

import numpy as np
from numpy import ndarray


def following(rows: ndarray) -> ndarray:
    """The next row for every row; the first row follows the last."""
    return np.concatenate([rows[1:], rows[:1]])


def unit(angle: float) -> ndarray:
    """The direction (cos, sin) of an angle in radians."""
    return np.array([math.cos(angle), math.sin(angle)])


def left_of(direction: ndarray) -> ndarray:
    """`direction` (2,) rotated by +90 degrees, (x, y) -> (-y, x)."""
    return np.array([-direction[1], direction[0]])


def box(length: float, width: float, angle: float, x: float = 0.0, y: float = 0.0) -> ndarray:
    """Corners of a rectangle centred `x` along and `y` across `angle` (radians) from the origin."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (length / 2, width / 2) + (x, y)
    return turn(corners, angle)


def turn(points: ndarray, angle: float) -> ndarray:
    """Points (n, 2) rotated about the origin by `angle` in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def area(polygon: ndarray) -> float:
    """Area in m^2; 0 for fewer than three corners."""
    x, y = polygon[:, 0], polygon[:, 1]
    return abs(float(np.sum(x * following(y) - y * following(x)))) / 2 if len(polygon) else 0.0


def cut(polygon: ndarray, point: ndarray, normal: ndarray) -> ndarray:
    """The part of a convex polygon in the half-plane at `point` along `normal`; may be empty."""
    if len(polygon) == 0:
        return polygon
    side = (polygon - point) @ normal
    corners = []
    for a, b, side_a, side_b in zip(
        polygon, following(polygon), side, following(side), strict=True
    ):
        if side_a >= 0:
            corners.append(a)
        if side_a * side_b < 0:
            corners.append(a + (b - a) * side_a / (side_a - side_b))
    return np.array(corners).reshape(-1, 2)


def band(polygon: ndarray, point: ndarray, direction: ndarray, width: float) -> ndarray:
    """The part of a convex polygon within `width` / 2 of a line (`point`, `direction`)."""
    normal = left_of(direction)
    return cut(
        cut(polygon, point - normal * width / 2, normal), point + normal * width / 2, -normal
    )


def longest_side(polygon: ndarray) -> float:
    """Angle in radians of the longest side."""
    sides = following(polygon) - polygon
    x, y = sides[np.argmax((sides**2).sum(1))]
    return float(np.arctan2(y, x))


def inward(polygon: ndarray) -> ndarray:
    """Inward unit normals (n, 2) of the sides of a convex polygon."""
    sides = following(polygon) - polygon
    normals = np.stack([-sides[:, 1], sides[:, 0]], 1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    inside = ((polygon.mean(0) - polygon) * normals).sum()
    return normals if inside > 0 else -normals


def lattice(
    polygon: ndarray,
    pitch: tuple[float, float],
    inset: float,
    size: tuple[float, float] = (0.0, 0.0),
) -> ndarray:
    """Grid points in a polygon along its longest side; uses the offset with the most points.

    Args:
        polygon: convex, (n, 2).
        pitch: distance between points along and across, m.
        inset: minimum distance to the edge, m.
        size: length and width in m of a rectangle around each point that must fit as well.

    Returns:
        (k, 2) points; k may be 0.
    """
    angle, centre, normals = longest_side(polygon), polygon.mean(0), inward(polygon)
    reach = np.abs(turn(polygon - centre, -angle)).max(0)
    room = inset + np.abs(turn(normals, -angle)) @ size / 2
    best = np.empty((0, 2))
    for phase in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)):
        steps = [
            (np.arange(-(r // p) - 1, r // p + 2) + f) * p
            for r, p, f in zip(reach, pitch, phase, strict=True)
        ]
        points = turn(np.stack(np.meshgrid(*steps), -1).reshape(-1, 2), angle) + centre
        rim = ((points[:, None] - polygon) * normals).sum(2)
        points = points[(rim >= room).all(1)]
        best = points if len(points) > len(best) else best
    return best


def inner_box(polygon: ndarray, aspect: float, inset: float) -> tuple[float, float]:
    """Length and width in m of the largest centred rectangle along the longest side.

    Args:
        polygon: convex, (n, 2).
        aspect: length / width.
        inset: minimum distance to the edge, m.
    """
    along, normals = unit(longest_side(polygon)), inward(polygon)
    distance = ((polygon.mean(0) - polygon) * normals).sum(1) - inset
    reach = aspect * np.abs(normals @ along) + np.abs(normals @ left_of(along))
    width = max(0.0, 2 * float((distance / reach).min()))
    return aspect * width, width


def rounded(polygon: ndarray, rounds: int = 3) -> ndarray:
    """Cuts off the corners `rounds` times: a smooth outline inside the polygon."""
    for _ in range(rounds):
        after = following(polygon)
        polygon = np.stack([0.75 * polygon + 0.25 * after, 0.25 * polygon + 0.75 * after], 1)
        polygon = polygon.reshape(-1, 2)
    return polygon


def stadium(length: float, width: float, angle: float) -> ndarray:
    """Outline of a running track: a rectangle with semicircular ends, centred at the origin."""
    turn_angles = np.linspace(-np.pi / 2, np.pi / 2, 12)
    end = np.stack([np.cos(turn_angles), np.sin(turn_angles)], 1) * width / 2
    end[:, 0] += (length - width) / 2
    return turn(np.concatenate([end, -end]), angle)


def dense_outline(polygon: ndarray, step: float = 6.0) -> ndarray:
    """The same outline with a corner at least about every `step` m, so that it can be bent."""
    sides = following(polygon) - polygon
    count = max(1, int(np.hypot(sides[:, 0], sides[:, 1]).max() / step))
    parts = np.arange(count)[:, None] / count
    return (polygon[:, None] + sides[:, None] * parts).reshape(-1, 2)
