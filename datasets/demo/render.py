"""Renders the ground of the demo scenes as a satellite image: season, sun, haze, sensor."""

import math
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image, ImageFilter

from datasets.demo.canvas import COLUMN, FINE, GSD, MARGIN

SUMMER = np.array([0.84, 0.98, 0.86], np.float32)
DRY = np.array([1.30, 1.08, 1.16], np.float32)
HEADROOM = 1.4  # highest light level that is not clipped


class Sky(NamedTuple):
    """The conditions of one date."""

    dryness: float  # 0 = lush, 1 = parched
    sun: float  # azimuth of the sun, radians in image axes
    elevation: float  # of the sun, radians
    gain: tuple[float, ...]  # per channel (red, green, blue): exposure and white balance
    gamma: float
    saturation: float
    haze: float  # 0..1
    blur: float  # standard deviation, px
    noise: float  # standard deviation, grey levels of 255
    shift: tuple[float, ...]  # misregistration in x and y, px
    spin: float  # misregistration, radians


def some_sky(rng: np.random.Generator) -> Sky:
    """Draws the conditions of a date."""
    return Sky(
        dryness=rng.beta(0.8, 0.9),
        sun=math.pi / 2 + rng.uniform(-1.2, 1.2),
        elevation=math.radians(rng.uniform(30, 62)),
        gain=tuple(rng.uniform(0.82, 1.16) * (1 + rng.normal(0, 0.035, 3).clip(-0.07, 0.07))),
        gamma=rng.uniform(0.85, 1.2),
        saturation=rng.uniform(0.62, 1.05),
        haze=rng.beta(1.2, 5) * 0.5,
        blur=rng.uniform(0.2, 0.75),
        noise=rng.uniform(1.5, 5.0),
        shift=tuple(rng.uniform(-1.2, 1.2, 2)),
        spin=rng.normal(0, 0.0012),
    )


def waves(rng: np.random.Generator, side: int, length: float) -> ndarray:
    """Smooth noise (side, side) float32, std about 1, wavelength about `length` px."""
    count = max(2, round(side / length)) + 1
    grid = Image.fromarray(rng.standard_normal((count, count), dtype=np.float32))
    return np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC)) * np.float32(1.5)


def cloudy(rng: np.random.Generator, side: int, length: float) -> ndarray:
    """Noise (side, side) float32, std about 1, wavelengths `length` to `length` / 9 px."""
    return (
        0.7 * waves(rng, side, length)
        + 0.55 * waves(rng, side, length / 3)
        + 0.45 * waves(rng, side, length / 9)
    )


def lasting_noise(rng: np.random.Generator, side: int) -> ndarray:
    """Noise of the ground that both dates share: patches and grain, (2, side, side) float32."""
    return np.stack([cloudy(rng, side, 26 * FINE), waves(rng, side, 0.8 * FINE)])


def moved(plane: ndarray, x: int, y: int) -> ndarray:
    """`plane` moved by whole px; edge values are repeated."""
    side = len(plane)
    rows, columns = np.arange(side) - y, np.arange(side) - x
    return plane[rows.clip(0, side - 1)][:, columns.clip(0, side - 1)]


def shadows(height: ndarray, sun: ndarray, slope: float) -> ndarray:
    """Share of direct sunlight that is blocked, (S, S) in 0..1.

    Computes the shadow height over every px; the reach doubles in every pass.

    Args:
        height: (S, S) in fine px.
        sun: (2,) unit vector towards the sun.
        slope: tangent of the elevation of the sun.
    """
    ray = height
    for reach in (1, 2, 4, 8, 16, 32, 64):
        x, y = np.rint(-sun * reach).astype(int)
        drop = np.float32(slope * np.hypot(x, y))
        ray = np.maximum(ray, moved(ray, x, y) - drop)
    return ((ray - height) / (0.8 * FINE)).clip(0, 1)


def relief(ids: ndarray, column: dict[str, ndarray], sky: Sky) -> tuple[ndarray, ndarray]:
    """Heights (S, S) in fine px, and slope towards the sun (S, S), > 0 where a surface faces it."""
    height = column["height"][ids]
    cos, sin = math.cos(sky.sun), math.sin(sky.sun)
    facing = (column["tilt_x"] * cos + column["tilt_y"] * sin)[ids]
    y, x = np.nonzero(column["dome"][ids])
    tree = ids[y, x]
    radius = column["dome"][tree]
    away_x = (((x + 0.5) / FINE - MARGIN) * GSD - column["x"][tree]) / radius
    away_y = (((y + 0.5) / FINE - MARGIN) * GSD - column["y"][tree]) / radius
    rise = np.sqrt((1.05 - away_x**2 - away_y**2).clip(0.02, None))
    height[y, x] *= 0.45 + 0.55 * rise
    facing[y, x] = 0.75 * (away_x * cos + away_y * sin) + 0.25 * (rise - 0.8)
    return height * (FINE / GSD), facing


def texture(
    ids: ndarray, column: dict[str, ndarray], rng: np.random.Generator, still: ndarray
) -> ndarray:
    """Brightness factor (S, S): grain, patches and rows.

    Args:
        ids: (S, S) surface numbers.
        column: the table of surfaces.
        rng: random generator of the noise of this date.
        still: (2, S, S) patches and grain that both dates share.
    """
    side = len(ids)
    patch = 0.75 * still[0] + 0.65 * cloudy(rng, side, 18 * FINE)
    grain = 0.7 * still[1] + 0.7 * waves(rng, side, 0.8 * FINE)
    y, x = np.mgrid[:side, :side].astype(np.float32) * (GSD / FINE)
    wave = 2 * np.pi / column["period"]
    across = (wave * np.cos(column["angle"]))[ids] * x + (wave * np.sin(column["angle"]))[ids] * y
    rows = column["rows"][ids] * np.sin(across + 0.7 * still[0])
    return 1 + column["patch"][ids] * patch + column["grain"][ids] * grain + rows


def reflectance(
    ids: ndarray, column: dict[str, ndarray], sky: Sky, rng: np.random.Generator
) -> ndarray:
    """Reflectance (S, S, 3) of the surface at every px at this date."""
    count = len(column["red"])
    dry = (sky.dryness + rng.normal(0, 2.2, count) * column["vary"]).clip(0, 1)[:, None]
    season = column["season"][:, None] * (SUMMER + dry * (DRY - SUMMER) - 1)
    bright = 1 + rng.normal(0, 1, (count, 1)) * column["vary"][:, None]
    base = np.stack([column["red"], column["green"], column["blue"]], 1)
    return (base * (1 + season) * bright).astype(np.float32)[ids]


def sampled(light: ndarray, size: int, sky: Sky) -> ndarray:
    """Light on the sensor (size, size, 3): resampled with the misregistration, blurred."""
    fine = Image.fromarray((light * (255 / HEADROOM)).clip(0, 255).astype(np.uint8))
    cos, sin = FINE * math.cos(sky.spin), FINE * math.sin(sky.spin)
    x, y = (
        (MARGIN + sky.shift[0] + size / 2) * FINE - (cos - sin) * size / 2,
        (MARGIN + sky.shift[1] + size / 2) * FINE - (cos + sin) * size / 2,
    )
    turned = (cos, -sin, x, sin, cos, y)
    picture = fine.transform(
        (size, size), Image.Transform.AFFINE, turned, Image.Resampling.BILINEAR
    )
    blurred = picture.filter(ImageFilter.GaussianBlur(sky.blur))
    return np.asarray(blurred, np.float32) * np.float32(HEADROOM / 255)


def sensed(light: ndarray, sky: Sky, rng: np.random.Generator) -> Image.Image:
    """Applies exposure, haze and sensor noise to light (size, size, 3); returns an RGB image."""
    grey = light.mean(2, keepdims=True)
    light = (grey + sky.saturation * (light - grey)) * np.array(sky.gain, np.float32)
    haze = sky.haze * (1 + 0.3 * waves(rng, len(light), 120.0)[..., None]).clip(0, 1.6)
    light = light * (1 - haze) + haze * np.array([0.68, 0.72, 0.78], np.float32)
    levels = 255 * light.clip(0, 1) ** sky.gamma
    noise = rng.standard_normal(levels.shape, dtype=np.float32)
    levels += noise * (0.6 + levels / 255) * sky.noise
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def render(
    ids: ndarray, table: ndarray, size: int, sky: Sky, still: ndarray, rng: np.random.Generator
) -> Image.Image:
    """Renders the image of one date.

    Args:
        ids: (S, S) surface numbers.
        table: (n, columns) surfaces.
        size: side length of the image, px.
        sky: conditions.
        still: (2, S, S) noise that both dates share.
        rng: random generator of the noise of this date.

    Returns:
        RGB image of `size` x `size` px.
    """
    column = {name: table[:, number] for name, number in COLUMN.items()}
    height, facing = relief(ids, column, sky)
    sun = np.array([math.cos(sky.sun), math.sin(sky.sun)])
    shade = shadows(height, sun, math.tan(sky.elevation))
    direct = (1 - shade) * (1 + 0.75 * facing * math.cos(sky.elevation)).clip(0.15, 1.7)
    light = reflectance(ids, column, sky, rng) * texture(ids, column, rng, still)[..., None]
    sky_light = np.array([0.26, 0.29, 0.36], np.float32)
    light *= sky_light + (1.06 - sky_light) * direct[..., None]
    return sensed(sampled(light, size, sky), sky, rng)
