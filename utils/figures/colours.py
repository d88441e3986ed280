"""Colour-blind safe colours, and contrast by WCAG."""

from collections.abc import Sequence

from utils.structures import Scheme

Colour = tuple[int, int, int]  # sRGB, 0..255

# seven colours of Okabe and Ito, and seven more; any two are distinguishable for dichromats
SAFE = {
    "blue": (0, 114, 178),
    "sky": (86, 180, 233),
    "green": (0, 158, 115),
    "yellow": (240, 228, 66),
    "orange": (230, 159, 0),
    "vermilion": (213, 94, 0),
    "purple": (204, 121, 167),
    "black": (34, 34, 34),
    "light green": (178, 223, 138),
    "indigo": (51, 34, 136),
    "wine": (102, 17, 0),
    "slate": (77, 77, 77),
    "red": (189, 31, 1),
    "silver": (221, 221, 221),
}
# part of a class name -> its usual colour; the first match whose colour is free is used
EXPECTED = {
    "water": "blue",
    "snow": "silver",
    "wetland": "sky",
    "sport": "purple",
    "playground": "purple",
    "industr": "wine",
    "building": "vermilion",
    "urban": "vermilion",
    "resident": "vermilion",
    "changed": "vermilion",
    "road": "slate",
    "transport": "slate",
    "tree": "green",
    "forest": "green",
    "crop": "yellow",
    "vegetation": "light green",
    "grass": "light green",
    "shrub": "light green",
    "ground": "orange",
    "soil": "orange",
    "barren": "orange",
}
PALE, DEEP = (243, 246, 251), (8, 48, 107)  # ends of the heat maps' ramp


def luminance(colour: Colour) -> float:
    """Relative luminance in 0..1, by WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _unit(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """WCAG's contrast ratio, 1..21, symmetric in the colours.

    Level AA requires 4.5 for text, and 3 for large text and parts of controls.
    """
    darker, brighter = sorted((luminance(one), luminance(other)))
    return (brighter + 0.05) / (darker + 0.05)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever has the larger contrast on a colour (at least 4.5)."""
    return max(((0, 0, 0), (255, 255, 255)), key=lambda ink: contrast(ink, colour))


def ramp(share: float) -> Colour:
    """0..1 -> pale to deep blue, for heat maps; the square root makes small shares visible."""
    share = min(max(share, 0.0), 1.0) ** 0.5
    return tuple(round(a + (b - a) * share) for a, b in zip(PALE, DEEP, strict=True))


def hex_of(colour: Sequence[int]) -> str:
    """(255, 0, 10) -> "#ff000a"."""
    return "#" + "".join(f"{value:02x}" for value in colour)


def safe_palette(scheme: Scheme) -> tuple[Colour, ...]:
    """Colour-blind safe colours for the entries of the scheme's palette.

    Classes whose names match EXPECTED get that colour (water blue, trees green); others get the
    free colour nearest to their own. Classes beyond `len(SAFE)` keep their own colours.

    Returns:
        K + 1 colours (2 for a binary change), the first that of the scheme.
    """
    names = scheme.classes or ("changed",)
    free = dict(SAFE)
    chosen: dict[int, Colour] = {}
    for i, name in enumerate(names):
        wanted = [EXPECTED[part] for part in EXPECTED if part in name.lower()]
        if key := next((key for key in wanted if key in free), None):
            chosen[i] = free.pop(key)
    for i, own in enumerate(scheme.palette[1:]):
        if i not in chosen:
            key = min(free, key=lambda key: _distance(free[key], own), default=None)
            chosen[i] = own if key is None else free.pop(key)
    return (scheme.palette[0], *(chosen[i] for i in range(len(names))))


def _distance(one: Colour, other: Colour) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _unit(colour: Colour) -> list[float]:
    return [value / 255 for value in colour]
