"""Which labelled tiles train and which validate. The test set does neither."""

import hashlib
from pathlib import Path

from datasets.layout import EXTENSIONS

RULES = ("every10th", "official", "hash10")
SHARE = 0.1  # validates, by hash10


def split_names(names: list[str], rule: str) -> tuple[list[str], list[str]]:
    """Splits ids into training and validation, both sorted.

    Args:
        names: ids of the labelled training folder, no matter the order.
        rule: "every10th": every tenth of the sorted ids, from the first (the published split);
            "hash10": ids whose hash falls into the lowest tenth, so an id stays where it is when
            tiles are added or removed; if none does, the id with the lowest hash; or
            a text file with the ids that validate.

    Returns:
        (train, val), disjoint, together all names.

    Raises:
        ValueError: one of the two would be empty, or the file's ids are not right.
        FileNotFoundError: neither a rule nor a file.
    """
    names = sorted(names)
    if rule == "official":
        raise ValueError("--split official takes folders, not ids: see datasets.second.split_parts")
    if rule == "every10th":
        val = names[::10]
    elif rule == "hash10":
        val = _lowest_hashes(names)
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


def _unit_hash(name: str) -> float:
    """A number in [0, 1) that depends on the id only, the same on every machine."""
    return int.from_bytes(hashlib.sha1(name.encode()).digest()[:6], "big") / 2**48


def _lowest_hashes(names: list[str]) -> list[str]:
    return [name for name in names if _unit_hash(name) < SHARE] or sorted(names, key=_unit_hash)[:1]


def _read_names(path: Path, names: list[str]) -> list[str]:
    """Ids of a text file, one a line; `#` starts a comment, an image extension is dropped."""
    if not path.is_file():
        raise FileNotFoundError(
            f"--split {path} is neither a rule ({', '.join(RULES)}) nor a text file of ids"
        )
    known = set(names)
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    found = [_stem(line, known) for line in lines if line]
    unknown = sorted(set(found) - known)
    twice = sorted({name for name in found if found.count(name) > 1})
    for wrong, what in ((unknown, "not in the training folder"), (twice, "named twice")):
        if wrong:
            shown = ", ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" * (len(wrong) > 10))
            raise ValueError(f"--split {path}: {len(wrong)} id(s) {what}: {shown}. Mend the list.")
    return found


def _stem(name: str, known: set[str]) -> str:
    path = Path(name)
    return path.stem if name not in known and path.suffix.lower() in EXTENSIONS else name
