"""Converts a folder in the SECOND layout to default folder names and label codings."""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from datasets.build import Source
from datasets.codecs import read_image, read_label
from datasets.layout import find_files
from utils.files import atomic_path
from utils.rasters.masks import write_mask
from utils.schemes import SECOND
from utils.structures import Scene

FIELDS = ("im1", "im2", "label1", "label2")
KEPT = (".png", ".jpg", ".jpeg")  # images that are copied byte for byte


class Job(NamedTuple):
    """One file to write."""

    source: Path
    target: Path
    is_label: bool


def convert(
    source: Path | str,
    target: Path | str,
    *,
    folders: Mapping[str, str] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Writes a copy of a SECOND-layout folder: default folder names, labels as palette PNG.

    PNG and JPEG images are copied byte for byte; TIFF images become PNG.

    Args:
        source: folder with train, val or test in it; labels in any coding of `read_label`.
        target: another folder, created if needed.
        folders: replaces default folder names of `source`.
        overwrite: replace files in the target folders; otherwise the folders must be empty.
        dry_run: check everything, write nothing.
        progress: show progress bars.

    Returns:
        Tiles per part.

    Raises:
        DataError, FileNotFoundError: the source fails the data check.
        FileExistsError: the target holds files and `overwrite` is False.
        ValueError: the target is the source.
    """
    if Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"SRC and DST are the same folder, {source}; pass another DST")
    data = Source("second", source, folders or {})
    counts = data.check(None, SECOND, progress=progress)
    scenes = {part: data.layout(SECOND).find(part).scenes for part in counts}
    jobs = [job for part in counts for job in _jobs(Path(target) / part, scenes[part])]
    present = {folder: find_files(folder) for folder in {job.target.parent for job in jobs}}
    full = sorted(str(folder) for folder, files in present.items() if files)
    if full and not overwrite:
        raise FileExistsError(
            f"there are files in {', '.join(full)}; pass another DST, or --overwrite"
        )
    if dry_run:
        return counts
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda job: _run(job, present[job.target.parent]), jobs)
        list(tqdm(done, "converting", len(jobs), unit="file", disable=not progress))
    return counts


def _jobs(target: Path, scenes: Sequence[Scene]) -> list[Job]:
    jobs = []
    for scene in scenes:
        for field, path in zip(FIELDS, (*scene.images, *scene.labels), strict=False):
            label = field.startswith("label")
            keep = not label and path.suffix.lower() in KEPT
            suffix = path.suffix.lower() if keep else ".png"
            jobs.append(Job(path, target / field / (scene.name + suffix), label))
    return jobs


def _run(job: Job, present: Mapping[str, list[Path]]) -> None:
    if job.is_label:
        write_mask(job.target, read_label(job.source, SECOND.palette), SECOND.palette)
    else:
        with atomic_path(job.target) as temporary:
            if job.source.suffix.lower() in KEPT:
                shutil.copyfile(job.source, temporary)
            else:
                Image.fromarray(read_image(job.source)).save(temporary, "PNG")
    for path in present.get(job.target.stem, ()):  # the same id under another extension
        if path != job.target:
            path.unlink()
