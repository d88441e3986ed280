"""Image files of folders by id, and the requirements that data sets must meet."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PARTS = ("train", "val", "test")
NO_IMAGES = (".hdr", ".xml", ".txt")  # sidecar files, never images themselves
SHOWN = 10  # files an error lists per requirement

# requirement -> text: the requirement and the remedy
REQUIREMENTS = {
    "suffixes": "files of a scene have the same name in every folder, but for --suffixes. These "
    "would agree:",
    "missing mate": "a tile has one file of the same stem in the folder of each date and, where "
    "there are labels, in each folder of labels (Sentinel patches: of the same name but for s1, "
    "s2, lc or dfc). Add these files, or remove the rest of their tiles.",
    "missing file": "every file that a list names is there. Put these back, or make the list anew, "
    "such as with: python -m datasets.prepare naic2020 annotate",
    "no image": "every id that is asked for has an image. Add these images, or remove the ids from "
    "the table or csv that names them.",
    "same id twice": "an id (file name without extension) occurs once in a folder. "
    "Keep one of these files.",
    "unreadable": "every file decodes to its last pixel. Copy these files again from the source.",
    "sizes differ": "all files of a tile have the same height and width. "
    "Cut or resample these to one grid (labels: nearest neighbour).",
    "grids differ": "all files of a tile have the same CRS and transform. Warp these to one grid, "
    "such as with: gdalwarp -t_srs CRS -te XMIN YMIN XMAX YMAX -tr X Y IN OUT; or remove a "
    "georeference that is wrong.",
    "bands": "every image has the bands that are read, in the depth they are read with. "
    "Export these again; training and testing can choose bands with --bands (Sentinel data: with "
    "--use-s1, --use-s2hr, --use-s2mr, --use-s2lr).",
    "no numbers": "every pixel of an image is a finite number. Fill the gaps, such as with: "
    "gdal_fillnodata.py IN OUT; or cut them off.",
    "mask values": "a change label holds 0 = unchanged, 1 = changed, 255 = not labelled; or, where "
    "no label of the data set holds a 1, 0 = unchanged and 255 = changed. Mend these files, or "
    "decide with --label-coding 01 or 0255; grey levels, as of JPEG, need a line `threshold: 128` "
    "in classes.yaml.",
    "no change": "some label of the training data has a changed pixel. Look at these labels: an "
    "export that lost its values is empty everywhere.",
    "label values": "a label holds class indices or what its layout stores for them, or the exact "
    "colours of the palette. If these values are right, write into classes.yaml what they mean "
    "(classes with colours, values, ignore, unchanged, transitions; without that file the classes "
    "are those of SECOND). Otherwise mend these files; labels must be stored without loss (no "
    "JPEG, no smooth resampling).",
    "change differs": "labels that have classes only where the land changed are unchanged at the "
    "same pixels of both dates. Mend these label pairs; or, if they have classes everywhere, pass "
    "--dataset pairs (classes.yaml: labels: dense).",
    "label style": "SECOND has classes only where the land changed; labels of classes everywhere "
    "are another style. Pass --dataset pairs (classes.yaml: labels: dense).",
    "never occurs": "a class of the data set occurs in some label. Look at the values of the "
    "labels, and write into classes.yaml what they mean (values, first, ignore, unchanged).",
    "no labels": "some pixel of the training labels has a class. Look at the values of the "
    "labels, and at what is said to be not labelled.",
}


class Problem(NamedTuple):
    """One file that breaks one requirement."""

    requirement: str  # a key of REQUIREMENTS
    file: str  # the path, with details if needed


class DataError(ValueError):
    """All problems of a data set, by requirement: remedy, first files, number of other files."""

    def __init__(self, where: Path | str, problems: Sequence[Problem]):
        self.problems = list(problems)
        lines = [f"{len(self.problems)} problem(s) in the data under {where}"]
        for requirement, text in REQUIREMENTS.items():
            files = [
                problem.file for problem in self.problems if problem.requirement == requirement
            ]
            if files:
                lines += [
                    f"{requirement} ({len(files)}): {text}",
                    *(f"  {f}" for f in files[:SHOWN]),
                ]
            if len(files) > SHOWN:
                lines.append(f"  and {len(files) - SHOWN} more")
        super().__init__("\n".join(lines))


def parse_names(items: Iterable[str] | None, flag: str = "--folders") -> dict[str, str]:
    """Parses --folders or --suffixes, such as `["im1=A", "train=SECOND_train_set"]`, to a dict.

    Raises:
        ValueError: not of the form KEY=NAME, or a key given twice.
    """
    names: dict[str, str] = {}
    for item in items or ():
        key, equals, name = item.partition("=")
        if not (equals and name):
            raise ValueError(f"{flag} {item!r} is not of the form KEY=NAME, such as im1=A")
        if key in names:
            raise ValueError(f"{flag} names {key!r} twice; give it once")
        names[key] = name
    return names


def find_files(folder: Path, more: Sequence[str] = (), envi: bool = False) -> dict[str, list[Path]]:
    """Image files of a folder by stem, sorted, without hidden files; empty if there is no folder.

    Args:
        folder: folder to list.
        more: extensions accepted in addition to EXTENSIONS.
        envi: also accept ENVI files, which have a header (.hdr) beside them.
    """
    # sort by name: comparing whole paths is slow
    paths = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    known = (*EXTENSIONS, *more)
    names = {path.name.lower() for path in paths} if envi else set()
    found: dict[str, list[Path]] = {}
    for path in paths:
        image = path.suffix.lower() in known or (envi and _has_header(path, names))
        if image and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def _has_header(path: Path, names: Collection[str]) -> bool:
    """Whether a file has an ENVI header; `names` are the lower-case file names of its folder."""
    headers = (f"{path.name}.hdr".lower(), f"{path.stem}.hdr".lower())
    return path.suffix.lower() not in NO_IMAGES and any(name in names for name in headers)


def match_files(
    found: Sequence[tuple[Path, Mapping[str, list[Path]]]],
) -> tuple[dict[str, list[Path]], list[Problem]]:
    """Groups files by id.

    Args:
        found: (folder, files of `find_files`) pairs.

    Returns:
        {id: one file per folder, in the order of the folders} for complete ids, sorted by id; and
        the problems of the others.
    """
    problems = [
        Problem("same id twice", ", ".join(str(path) for path in same))
        for _, files in found
        for same in files.values()
        if len(same) > 1
    ]
    whole = {}
    for name in sorted(set().union(*(files for _, files in found))):
        missing = [folder for folder, files in found if name not in files]
        problems += [Problem("missing mate", str(folder / f"{name}.*")) for folder in missing]
        if not missing:
            whole[name] = [files[name][0] for _, files in found]
    return whole, problems


def refuse_existing(targets: Iterable[Path]) -> None:
    """Raises FileExistsError if one of the target files exists."""
    present = [str(path) for path in targets if path.exists()]
    if present:
        more = f" and {len(present) - SHOWN} more" if len(present) > SHOWN else ""
        raise FileExistsError(
            f"these are there already: {', '.join(present[:SHOWN])}{more}. Pass another OUT, or "
            "--overwrite."
        )
