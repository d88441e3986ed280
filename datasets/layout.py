"""Folders of a two-date data set: what they are called, and the files of every tile.

`ROOT/<part>/im1 im2 [label1 label2]`, part = train, val or test. The id of a tile is the stem of
its files, whatever their extension.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PARTS = ("train", "val", "test")
FIELDS = ("im1", "im2", "label1", "label2")
SHOWN = 10  # files an error lists per rule

# rule: what must hold, and what to do where it does not
RULES = {
    "missing mate": "a tile has one file of the same stem in im1, im2 and, where there are labels, "
    "in label1 and label2. Add these files, or remove the rest of their tiles.",
    "same id twice": "an id (file name without extension) occurs once in a folder. "
    "Keep one of these files.",
    "unreadable": "every file decodes to its last pixel. Copy these files again from the source.",
    "sizes differ": "all files of a tile have the same height and width. "
    "Cut or resample these to one grid (labels: nearest neighbour).",
    "label values": "a label holds class indices, or the exact colours of the palette. "
    "Mend these files; labels must be stored without loss (no JPEG, no smooth resampling).",
    "change differs": "label1 is 0 (unchanged) exactly where label2 is. Mend these label pairs.",
}


class Tile(NamedTuple):
    """The files of one tile."""

    name: str  # the stem all of them share
    images: tuple[Path, Path]  # date 1, date 2
    labels: tuple[Path, Path] | None  # None in a part without labels


class Problem(NamedTuple):
    """One file that breaks one rule."""

    rule: str  # a key of RULES
    file: str  # the path, and in words what is wrong with it where that is not plain


class DataError(ValueError):
    """All that is wrong with a data set: per rule the first files, how many more, the remedy."""

    def __init__(self, where: Path | str, problems: Sequence[Problem]):
        self.problems = list(problems)
        lines = [f"{len(self.problems)} problem(s) in the data under {where}"]
        for rule, text in RULES.items():
            files = [problem.file for problem in self.problems if problem.rule == rule]
            if files:
                lines += [f"{rule} ({len(files)}): {text}", *(f"  {f}" for f in files[:SHOWN])]
            if len(files) > SHOWN:
                lines.append(f"  and {len(files) - SHOWN} more")
        super().__init__("\n".join(lines))


def parse_folders(items: Iterable[str] | None) -> dict[str, str]:
    """`["im1=A", "train=SECOND_train_set"]` as a dict; what is not named keeps its usual name.

    Raises:
        ValueError: not of the form KEY=NAME, an unknown key, or a key given twice.
    """
    folders: dict[str, str] = {}
    for item in items or ():
        key, equals, name = item.partition("=")
        if not (equals and name):
            raise ValueError(f"--folders {item!r} is not of the form KEY=NAME, such as im1=A")
        if key not in PARTS + FIELDS:
            choices = ", ".join(PARTS + FIELDS)
            raise ValueError(f"--folders {item!r}: {key!r} is not known; choose from {choices}")
        if key in folders:
            raise ValueError(f"--folders names {key!r} twice; give it once")
        folders[key] = name
    return folders


def part_path(root: Path | str, part: str, folders: Mapping[str, str] | None = None) -> Path:
    """Folder of a part, renamed or not; a part with no special name is its own folder."""
    return Path(root) / (folders or {}).get(part, part)


def test_folder(root: Path | str, folders: Mapping[str, str] | None = None) -> str:
    """Where the test tiles are: "test" where there is such a folder, else "val" (the contest's)."""
    return "test" if part_path(root, "test", folders).is_dir() else "val"


def find_files(folder: Path) -> dict[str, list[Path]]:
    """Image files of a folder by stem, sorted; hidden files are passed over, no folder is empty."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def list_pairs(
    root: Path | str, part: str = "train", folders: Mapping[str, str] | None = None
) -> tuple[list[Tile], list[Problem]]:
    """Finds the tiles of one part without opening a file.

    Args:
        root: folder with the parts in it.
        part: train, val, test, or any other folder under root.
        folders: names in place of the usual ones, see `parse_folders`.

    Returns:
        The whole tiles, sorted by id, and what keeps the others from being one.

    Raises:
        FileNotFoundError: there is no first image at all.
    """
    base = part_path(root, part, folders)
    paths = {field: base / (folders or {}).get(field, field) for field in FIELDS}
    found = {field: find_files(path) for field, path in paths.items()}
    if not found["im1"]:
        raise FileNotFoundError(
            f"no images in {paths['im1']} (expected *.png, *.jpg or *.tif). Unpack the archive "
            "there, pass --data-root, or name the folders with --folders."
        )
    labelled = bool(found["label1"] or found["label2"])
    fields = FIELDS if labelled else FIELDS[:2]
    problems = [
        Problem("same id twice", ", ".join(str(path) for path in same))
        for field in fields
        for same in found[field].values()
        if len(same) > 1
    ]
    tiles = []
    for name in sorted(set().union(*(found[field] for field in fields))):
        missing = [field for field in fields if name not in found[field]]
        problems += [Problem("missing mate", str(paths[field] / f"{name}.*")) for field in missing]
        if not missing:
            first, second, *labels = (found[field][name][0] for field in fields)
            tiles.append(Tile(name, (first, second), tuple(labels) or None))
    return tiles, problems
