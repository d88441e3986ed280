"""Splits labelled tiles into training and validation."""

import hashlib
import re
from collections import Counter
from pathlib import Path

from datasets.layout import EXTENSIONS
from utils.files import read_text

RULES = ("every10th", "official", "hash10")
SCENE_RULES = (*RULES, "leave_out:ID", "area", "area:SHARE")  # for data sets of few large scenes
SHARE = 0.1  # validation share of hash10
AREA = 0.2  # default validation share of the rows, for area


def split_names(names: list[str], rule: str) -> tuple[list[str], list[str]]:
    """Splits ids into training and validation, both sorted.

    Args:
        names: ids of the labelled training folder, in any order.
        rule: how validation ids are chosen. "every10th": every tenth of the sorted ids, from the
            first (the published split); "hash10": ids whose hash is in the lowest tenth, or at
            least the id with the lowest hash, so that an id keeps its part when tiles are added or
            removed; "leave_out:ID": this id; or a text file of ids.

    Returns:
        (train, val), disjoint, together all names.

    Raises:
        ValueError: one of the two would be empty, or the file has unknown or repeated ids.
        FileNotFoundError: `rule` is neither a rule nor a file.
    """
    names = sorted(names)
    if rule == "official":
        raise ValueError("--split official takes folders, not ids: see datasets.second.split_parts")
    if rule == "every10th":
        val = names[::10]
    elif rule == "hash10":
        val = _lowest_hashes(names)
    elif rule.startswith("leave_out:"):
        val = [_known(rule, names)]
    elif area_share(rule) is not None:
        raise ValueError(
            f"--split {rule} cuts large scenes in two, which this data set does not have; choose "
            f"from {', '.join(RULES)}, or pass a text file of ids"
        )
    else:
        val = _read_names(Path(rule), names)
    chosen = set(val)
    train = [name for name in names if name not in chosen]
    if not train or not val:
        empty = "training" if val else "validation"
        raise ValueError(
            f"--split {rule} of {len(names)} tile(s) leaves none for {empty}. "
            "Add labelled tiles, or pass a text file with the ids that validate."
        )
    return train, sorted(val)


def area_share(rule: str) -> float | None:
    """The validation share of "area" or "area:SHARE"; None for any other rule.

    Raises:
        ValueError: not a number between 0 and 1.
    """
    name, colon, text = rule.partition(":")
    if name != "area":
        return None
    try:
        share = float(text) if colon else AREA
    except ValueError:
        share = 0
    if not 0 < share < 1:
        raise ValueError(
            f"--split {rule}: {text!r} must be a share between 0 and 1, as in area:0.25"
        )
    return share


def area_rows(height: int, share: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows (start, stop) of a scene for training (top) and for validation (bottom).

    Raises:
        ValueError: one of the two would be empty.
    """
    cut = height - round(height * share)
    if not 0 < cut < height:
        raise ValueError(
            f"--split area:{share} of a scene of {height} rows leaves none for training or "
            "validation; pass another share, as in area:0.25"
        )
    return (0, cut), (cut, height)


def _known(rule: str, names: list[str]) -> str:
    """The id of leave_out:ID."""
    name = _stem(rule.partition(":")[2], set(names))
    if name not in names:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" * (len(names) > 10))
        raise ValueError(f"--split {rule}: there is no {name!r} with labels; choose from {shown}")
    return name


def _unit_hash(name: str) -> float:
    """Hash of an id in [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha1(name.encode()).digest()[:6], "big") / 2**48


def _lowest_hashes(names: list[str]) -> list[str]:
    return [name for name in names if _unit_hash(name) < SHARE] or sorted(names, key=_unit_hash)[:1]


def read_lines(path: Path | str) -> list[str]:
    """Lines of a text file without comments and empty lines.

    A comment begins with `#` at the start of a line or after a blank; ids may hold a `#`.

    Raises:
        ValueError: an encoding that `read_text` does not know.
    """
    lines = read_text(path).splitlines()
    return [text for line in lines if (text := re.split(r"(?:^|\s)#", line)[0].strip())]


def read_ids(
    path: Path, names: list[str], flag: str = "", where: object = "the folder"
) -> list[str]:
    """Reads ids from a text file, one per line, in its order; drops image extensions.

    Args:
        path: the file.
        names: known ids.
        flag: option that names the file, for error messages.
        where: location of the known ids, for error messages.

    Raises:
        ValueError: an unknown or repeated id.
    """
    known = set(names)
    found = [_id_of(line, known) for line in read_lines(path)]
    unknown = sorted(set(found) - known)
    twice = sorted(name for name, count in Counter(found).items() if count > 1)
    for wrong, what in ((unknown, f"not in {where}"), (twice, "named twice")):
        if wrong:
            shown = ", ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" * (len(wrong) > 10))
            raise ValueError(
                f"{flag} {path}: {len(wrong)} id(s) {what}: {shown}. Mend the list.".strip()
            )
    return found


def _read_names(path: Path, names: list[str]) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"--split {path} is neither a rule ({', '.join(SCENE_RULES)}) nor a text file of ids"
        )
    return read_ids(path, names, "--split", "the training folder")


def _id_of(line: str, known: set[str]) -> str:
    """The id of a line: an id, a file name, or several file names of one scene in columns."""
    name = _stem(line, known)
    first, *others = line.split() or [""]
    if name in known or not others or _stem(first, known) not in known:
        return name
    return _stem(first, known)


def _stem(name: str, known: set[str]) -> str:
    path = Path(name)
    return path.stem if name not in known and path.suffix.lower() in EXTENSIONS else name
