"""Rucode "Satellite Image Difference": Kanopus-V scenes, both dates in one file of 8 bands.

`ROOT/Images_composit/Images_composit/8_ch/<id>.tif` (red, green, blue, near infrared of date 1,
then of date 2), `ROOT/mask/mask/<id>.tif` and `ROOT/sample_submission.csv`, whose ids are the test
part. The published code divides by 1024 before it standardises; this has no effect and is omitted.

Reference: the contest roscosmos-rucode, Kaggle 2021.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.bands import NAMED, RGB, band_names, band_numbers
from datasets.checks import FoundFiles, check_scenes
from datasets.codecs import find_coding
from datasets.entry import DatasetEntry
from datasets.layout import DataError, Problem, find_files
from datasets.rucode.run_lengths import read_sample_ids
from datasets.scene_reader import Scene
from datasets.scenes import SceneDataset, build_scenes, split_scenes
from datasets.splits import SCENE_RULES
from utils.schemes import change_scheme
from utils.structures import Scheme

# key of --folders -> default path
PLACES = {
    "images": "Images_composit/Images_composit/8_ch",
    "masks": "mask/mask",
    "sample_submission": "sample_submission.csv",
}
NUM_BANDS = 2 * len(NAMED)  # bands of a file
PARTS = ("train", "test")


def rucode_scheme(
    root: Path | str | None = None,
    *,
    folders: Mapping[str, str] | None = None,
    bands: Sequence[str | int] | None = None,
) -> Scheme:
    """The scheme: every date of every image is standardised separately, all bands jointly.

    Args:
        root: not used.
        folders: not used.
        bands: names (red, green, blue, nir, grey) or numbers 1..4 of each date; None = red, green
            and blue.

    Raises:
        ValueError: an unknown band.
    """
    names = band_names(bands or RGB)
    if max(band_numbers(names)) >= len(NAMED):
        raise ValueError(
            f"--bands {' '.join(names)}: a date has {len(NAMED)} bands; choose from "
            f"{', '.join(NAMED)}, grey, or 1..{len(NAMED)}"
        )
    return change_scheme(names, "joint")


def build_rucode(
    root: Path | str,
    part: str,
    *,
    scheme: Scheme,
    split: str | None = None,
    folders: Mapping[str, str] | None = None,
    label_coding: str = "auto",
    **options,
) -> SceneDataset:
    """Builds one part: with `split` the subset "train" or "val", otherwise "train" or "test".

    Args:
        root: see the top of this file.
        part: train, val or test.
        scheme: see `rucode_scheme`.
        split: see `datasets.scenes.split_scenes`; "official" is not available.
        folders: replaces default paths; keys images, masks, sample_submission; under root or
            absolute.
        label_coding: "auto", "01" or "0255".
        **options: see `datasets.scenes.build_scenes`.

    Raises:
        FileNotFoundError: no images, or an unknown part.
        DataError: an id without an image, or a repeated id.
        ValueError: no masks to split, or an unknown option.
    """
    if split == "official":
        others = ", ".join(rule for rule in SCENE_RULES if rule != split)
        raise ValueError(
            f"--split official: Rucode has no such part; pass --split {others}, or a text file of "
            "ids"
        )
    scenes, problems = list_rucode(root, "train" if split else part, scheme, folders)
    if problems:
        raise DataError(root, problems)
    if split is not None:
        scenes = split_scenes(scenes, split)[part]
    coding = _coding(root, folders, label_coding)
    path = _path_of(root, "images", folders)
    return build_scenes(scenes, scheme, part=part, path=path, label_coding=coding, **options)


def check_rucode(
    root: Path | str,
    parts: Sequence[str] | None = None,
    *,
    scheme: Scheme,
    folders: Mapping[str, str] | None = None,
    label_coding: str = "auto",
    **options,
) -> dict[str, int]:
    """Checks every file of the parts.

    Args:
        root: see the top of this file.
        parts: train, test or both; None = those that have scenes.
        scheme: see `rucode_scheme`.
        folders: replaces default paths.
        label_coding: as in `build_rucode`.
        **options: passed_file, threads, progress, see `datasets.checks.check_scenes`.

    Returns:
        Number of scenes per part.

    Raises:
        FileNotFoundError: no images, or an empty part.
        DataError: lists all files that break a requirement.
    """
    found = {}
    for part in parts or _parts(root, folders):
        key = f"{_path_of(root, 'images', folders).resolve()} {part}"
        found[part] = FoundFiles(key, *list_rucode(root, part, scheme, folders))
    coding = _coding(root, folders, label_coding)
    return check_scenes(root, found, scheme, coding, num_bands=NUM_BANDS, **options)


def list_rucode(
    root: Path | str,
    part: str,
    scheme: Scheme,
    folders: Mapping[str, str] | None = None,
) -> tuple[list[Scene], list[Problem]]:
    """Finds the scenes of a part without opening an image.

    Args:
        root: see the top of this file.
        part: "train": ids with a mask, sorted; "test": ids of the sample submission, in its order,
            or without a submission the ids without a mask.
        scheme: bands to read.
        folders: replaces default paths.

    Returns:
        The scenes, and problems of ids that have no image or two.

    Raises:
        FileNotFoundError: no images, an unknown part, or an empty part.
        ValueError: the sample submission is not a csv with the columns Id,mask.
    """
    if part not in PARTS:
        rules = ", ".join(rule for rule in SCENE_RULES if rule != "official")
        raise FileNotFoundError(
            f"Rucode has no part {part!r}, only {' and '.join(PARTS)}; to validate pass --split "
            f"{rules} or a text file of ids"
        )
    images, masks = (find_files(_path_of(root, key, folders)) for key in ("images", "masks"))
    if not images:
        raise FileNotFoundError(
            f"no images in {_path_of(root, 'images', folders)} (expected *.tif of {NUM_BANDS} "
            "bands). Unpack the archive there, make them with `python -m datasets.prepare "
            "compose`, or pass --data-root or --folders images=DIR."
        )
    names = _names(root, part, folders, images, masks)
    if not names:
        raise FileNotFoundError(
            f"the part {part!r} is empty: {_path_of(root, 'masks', folders)} has {len(masks)} "
            f"mask(s) for {len(images)} image(s). Pass --data-root or --folders masks=DIR."
        )
    date1, date2 = (band_numbers(scheme.bands, first) for first in (0, len(NAMED)))
    scenes = [
        Scene(name, (images[name][0],) * 2, (date1, date2), masks.get(name, [None])[0])
        for name in names
        if name in images
    ]
    return scenes, _problems(root, names, folders, images, masks)


def _names(root, part, folders, images, masks) -> list[str]:
    if part == "train":
        return sorted(masks)
    csv = _path_of(root, "sample_submission", folders)
    if csv.is_file() or "sample_submission" in (folders or {}):
        return read_sample_ids(csv)
    return sorted(images.keys() - masks.keys())


def _problems(root, names, folders, images, masks) -> list[Problem]:
    missing = [
        Problem("no image", f"{_path_of(root, 'images', folders) / name}.tif")
        for name in names
        if name not in images
    ]
    twice = [
        Problem("same id twice", ", ".join(map(str, files[name])))
        for files in (images, masks)
        for name in names
        if len(files.get(name, ())) > 1
    ]
    return missing + twice


def _parts(root, folders) -> list[str]:
    masks = find_files(_path_of(root, "masks", folders))
    images = find_files(_path_of(root, "images", folders))
    csv = _path_of(root, "sample_submission", folders)
    has = {"train": bool(masks), "test": csv.is_file() or bool(images.keys() - masks.keys())}
    return [part for part in PARTS if has[part]] or ["train"]


def _coding(root, folders, label_coding: str) -> str:
    """Label coding (key of CHANGE_CODINGS), determined from all masks."""
    masks = find_files(_path_of(root, "masks", folders)).values()
    return find_coding([paths[0] for paths in masks], label_coding)


def _path_of(root: Path | str, key: str, folders: Mapping[str, str] | None) -> Path:
    return Path(root) / (folders or {}).get(key, PLACES[key])


RUCODE_ENTRY = DatasetEntry(
    root="data",
    task="binary_change",
    about="8-band composites of two dates, masks",
    build=build_rucode,
    check=check_rucode,
    scheme=rucode_scheme,
    split="area",
    orient="turn_flip",
    scenes=True,
    chooses_bands=True,
    training_options={"positive_crops": 0.7, "samples_per_image": 100},
)
