"""JSON lists of images and labels, generated and split as published for NAIC 2020.

`[{"filename": PATH, "ann": {"seg_map": PATH}}, ...]`; `ann` is missing if there are no labels.
"""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

from datasets.layout import EXTENSIONS, DataError, Problem
from utils.structures import ImageFile, Scene

SEED = 1996  # seed of the published split
NUM_EVAL = 5000  # validation entries


def annotate(
    image_dir: Path | str, mask_dir: Path | str | None = None, image_ext: str | None = None
) -> list[dict]:
    """The entries of a folder of images, sorted by file name.

    Args:
        image_dir: folder of images.
        mask_dir: folder of labels, one per image with the same stem; None = no labels.
        image_ext: use only images with this extension, such as .tif; None = all of EXTENSIONS.

    Raises:
        FileNotFoundError: no images.
        DataError: images without a label or labels without an image.
    """
    images = [path for path in list_images(image_dir) if path.endswith(image_ext or "")]
    if not images:
        expected = f"*{image_ext}" if image_ext else "*.tif or *.png"
        raise FileNotFoundError(f"no images in {image_dir} (expected {expected})")
    if mask_dir is None:
        return [{"filename": path} for path in images]
    all_masks = list_images(mask_dir)
    masks = {_stem(path): path for path in all_masks}
    stems = {_stem(path) for path in images}
    lonely = [(mask_dir, stem) for stem in sorted(stems - masks.keys())]
    lonely += [(image_dir, stem) for stem in sorted(masks.keys() - stems)]
    problems = [Problem("missing mate", str(Path(where, f"{stem}.*"))) for where, stem in lonely]
    if len(stems) < len(images) or len(masks) < len(all_masks):
        problems.append(Problem("same id twice", f"{image_dir} or {mask_dir}"))
    if problems:
        raise DataError(image_dir, problems)
    return [{"filename": path, "ann": {"seg_map": masks[_stem(path)]}} for path in images]


def _stem(path: str) -> str:
    """File name without folder and extension."""
    return os.path.splitext(os.path.basename(path))[0]


def list_images(folder: Path | str) -> list[str]:
    """Image files as `folder/name`, sorted by name."""
    names = sorted(os.listdir(folder)) if Path(folder).is_dir() else []
    return [
        os.path.join(folder, name)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    ]


def split(entries: Sequence[dict], seed: int = SEED, num_eval: int = NUM_EVAL) -> tuple[list, list]:
    """Shuffles the entries and splits off the last `num_eval`, as published.

    Args:
        entries: entries of one list.
        seed: seed of the shuffle.
        num_eval: number of validation entries.

    Returns:
        (train, eval).

    Raises:
        ValueError: one of the two would be empty.
    """
    if not 0 < num_eval < len(entries):
        raise ValueError(
            f"--num-eval {num_eval} of {len(entries)} entries leaves none for training or "
            f"validation; pass a number in 1..{len(entries) - 1}"
        )
    shuffled = list(entries)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:-num_eval], shuffled[-num_eval:]


def read_annotations(path: Path | str) -> list[Scene]:
    """The scenes of a list, in its order; the id is the stem of the image.

    Relative paths are relative to the working directory (as published), or else to the folder of
    the list.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: the list does not have the form above.
        DataError: missing files, or a repeated id.
    """
    entries = read_entries(path)
    base = _base(Path(path), entries[0]["filename"])
    scenes, problems, seen = [], [], set()
    for entry in entries:
        image, label = base / entry["filename"], entry.get("ann", {}).get("seg_map")
        labels = () if label is None else (base / label,)
        scene = Scene(image.stem, ((ImageFile(image, (0, 1, 2)),),), labels)
        gone = [file for file in scene.files if not file.is_file()]
        problems += [Problem("missing file", str(file)) for file in gone]
        if scene.name in seen:
            problems.append(Problem("same id twice", str(image)))
        seen.add(scene.name)
        scenes.append(scene)
    without = [scene for scene in scenes if not scene.labels]
    if 0 < len(without) < len(scenes):
        problems += [Problem("missing mate", f"the label of {s.images[0]}") for s in without]
    if problems:
        raise DataError(path, problems)
    return scenes


def read_entries(path: Path | str) -> list[dict]:
    """Reads and checks the entries of a list.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: the list is empty or does not have the form above.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no {path}. Make it with `python -m datasets.prepare naic2020 annotate` and "
            "`split`, or name it with --folders, such as test=image_B.json."
        )
    try:
        entries = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); make it anew") from error
    if not (isinstance(entries, list) and entries and all(map(_is_entry, entries))):
        raise ValueError(
            f'{path} is not of the form [{{"filename": PATH, "ann": {{"seg_map": PATH}}}}, ...] '
            "with at least one entry; make it with `python -m datasets.prepare naic2020 annotate`"
        )
    return entries


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        return False
    ann = entry.get("ann", {"seg_map": ""})
    return isinstance(ann, dict) and isinstance(ann.get("seg_map"), str)


def _base(path: Path, first: str) -> Path:
    """Base folder of the relative file names of a list."""
    return path.parent if not Path(first).exists() and (path.parent / first).exists() else Path()
