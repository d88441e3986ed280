"""Band names, and band numbers in a file."""

from collections.abc import Sequence
from pathlib import Path

NAMED = ("red", "green", "blue", "nir")  # names of the first four bands of a file
RGB = NAMED[:3]
GREY = ("grey",)  # one band, computed from red, green and blue
SYNONYMS = {
    **{"near infrared": "nir", "near-infrared": "nir", "nir1": "nir"},
    **{"b02": "blue", "b03": "green", "b04": "red", "b08": "nir"},  # of Sentinel-2
}


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


def common_names(there: Sequence[str | None]) -> list[str | None]:
    """Names that a file gives its bands, in the words of NAMED where they mean the same."""
    return [SYNONYMS.get(name, name) for name in there]


def named(names: Sequence[str]) -> tuple[str, ...]:
    """The names of a Scheme's bands as a file may give them; empty if they are numbers."""
    names = RGB if tuple(names) == GREY else tuple(names)
    return names if set(names) <= {*NAMED} else ()


def bands_in_file(
    path: Path, there: Sequence[str | None], names: Sequence[str], numbers: Sequence[int]
) -> tuple[int, ...]:
    """Indices of the bands to read: where the file names them, otherwise by their number.

    Args:
        path: the file, for the message.
        there: what it calls its bands, see `Raster.names`.
        names: of the bands to read; empty: they are chosen by number.
        numbers: of the bands to read, from 0, in a file that does not name them.

    Raises:
        ValueError: the names in the file contradict the numbers.
    """
    if not names:
        return tuple(numbers)
    there = common_names(there)
    found = []
    for name, number in zip(names, numbers, strict=True):
        if there.count(name) == 1:
            found.append(there.index(name))
            continue
        other = there[number] if number < len(there) else None
        if other in NAMED and other != name and there.count(other) == 1:
            listed = ", ".join(f"{i} {text}" for i, text in enumerate(there, start=1) if text)
            raise ValueError(
                f"{path}: no band is named {name}, and band {number + 1} is {other} (bands: "
                f"{listed}). Choose by number with --bands, or correct the names in the file."
            )
        found.append(number)
    return tuple(found)


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
