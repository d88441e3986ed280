"""Simulation of colour blindness, and colours that are distinguishable with it."""

from functools import lru_cache

import numpy as np

Rgb = tuple[int, int, int]

# linear RGB -> linear RGB as seen by a dichromat
# Reference: Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of
# color vision deficiency", severity 1.0.
VISIONS = {
    "normal": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
          (0.0193339, 0.1191920, 0.9503041))  # sRGB, D65  # fmt: skip
WHITE_XYZ = (0.95047, 1.0, 1.08883)
LIGHTNESS = (22, 86)  # L* of the darkest and lightest colour: distinct from black and white
STEP = 17  # between candidate levels of red, green and blue


def to_lab(colours: np.ndarray, vision: str = "normal") -> np.ndarray:
    """(N, 3) sRGB in 0..255 -> (N, 3) CIE L*a*b* (D65) as seen with `vision`, a key of VISIONS."""
    share = np.asarray(colours, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISIONS[vision]).T, 0, 1)
    xyz = seen @ np.array(TO_XYZ).T / WHITE_XYZ
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def smallest_difference(colours: np.ndarray) -> float:
    """The smallest CIE 1976 Delta E of any two colours, over all kinds of colour vision."""
    least = np.inf
    for vision in VISIONS:
        lab = to_lab(colours, vision)
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
        least = min(least, apart[~np.eye(len(lab), dtype=bool)].min(initial=np.inf))
    return float(least)


@lru_cache
def distinct_colours(count: int) -> tuple[Rgb, ...]:
    """`count` colours with large differences for every kind of colour vision.

    Ordered in about sqrt(count) families of equal size from blue to yellow, the axis visible to
    protans and deutans; within a family from dark to light.
    """
    chosen = _spread(count)
    blue_to_yellow = to_lab(chosen, "deutan")[:, 2]
    by_hue = chosen[np.argsort(blue_to_yellow, kind="stable")]
    size = max(1, round(count**0.5))
    ordered = []
    for start in range(0, count, size):
        family = by_hue[start : start + size]
        ordered.append(family[np.argsort(to_lab(family)[:, 0], kind="stable")])
    return tuple(tuple(int(level) for level in colour) for colour in np.concatenate(ordered))


def _spread(count: int) -> np.ndarray:
    """(count, 3) farthest-point sampling: each next colour is farthest from those before."""
    candidates = _candidates()
    seen = [to_lab(candidates, vision) for vision in VISIONS]
    nearest, index = np.full(len(candidates), np.inf), 0
    chosen = []
    for _ in range(count):
        chosen.append(index)
        apart = [np.linalg.norm(lab - lab[index], axis=1) for lab in seen]
        nearest = np.minimum(nearest, np.min(apart, axis=0))
        index = int(nearest.argmax())
    return candidates[chosen]


def _candidates() -> np.ndarray:
    levels = np.arange(0, 256, STEP)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = to_lab(grid)[:, 0]
    return grid[(lightness >= LIGHTNESS[0]) & (lightness <= LIGHTNESS[1])]
