"""Band names, and band numbers in a file."""

from collections.abc import Sequence

NAMED = ("red", "green", "blue", "nir")  # names of the first four bands of a file
RGB = NAMED[:3]
GREY = ("grey",)  # one band, computed from red, green and blue


def band_names(bands: Sequence[str | int]) -> tuple[str, ...]:
    """Converts the values of --bands to band names of a Scheme; number 1 becomes `band1` and so on.

    Raises:
        ValueError: no band, an unknown name, a repeated band, or grey together with others.
    """
    names = tuple(f"band{int(b)}" if str(b).isdecimal() else str(b).lower() for b in bands)
    if "grey" in names and names != GREY:
        raise ValueError(f"--bands {' '.join(names)}: grey is made of the rest; pass it alone")
    numbers = band_numbers(names)
    if not names or (names != GREY and len(set(numbers)) < len(numbers)):
        raise ValueError(f"--bands {' '.join(names)}: name at least one band, each once")
    return names


def band_numbers(names: Sequence[str], first: int = 0) -> tuple[int, ...]:
    """Indices in the file, from 0, of the bands of a Scheme; grey needs the first three.

    Args:
        names: members of NAMED, `band1`, `band2`, ..., or grey alone.
        first: index of the first band of this date.

    Raises:
        ValueError: an unknown name.
    """
    names = RGB if tuple(names) == GREY else names
    return tuple(first + _number(name) for name in names)


def _number(name: str) -> int:
    if name in NAMED:
        return NAMED.index(name)
    digits = name.removeprefix("band")
    if name.startswith("band") and digits.isdecimal() and int(digits) > 0:
        return int(digits) - 1
    raise ValueError(
        f"--bands {digits or name!r} is not known; pass numbers from 1, or names of "
        f"{', '.join(NAMED)}, grey"
    )
