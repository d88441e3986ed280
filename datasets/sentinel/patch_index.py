"""The names of very many patches in many folders, listed once and then kept in a file.

A folder is listed again when its modification time changed, which every file that is added, removed
or renamed does; so a second look costs one question a folder, not one a file.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from utils import distributed
from utils.files import atomic_path

VERSION = 1  # of the file
SUFFIX = ".tif"
SETTLED_NS = 2 * 10**9  # some file systems tell times to two seconds only


def list_patches(
    root: Path | str,
    folders: Sequence[str],
    *,
    index_dir: Path | str | None = None,
) -> dict[str, list[str]]:
    """Ids (names of *.tif without the extension) in each folder.

    Args:
        root: holds the folders.
        folders: relative to it.
        index_dir: what is found is kept here, in a file that belongs to root; None keeps nothing.

    Returns:
        {folder: ids, sorted}; a folder that is not there has none.
    """
    kept = _load(index_dir, root)
    times = {folder: _changed(Path(root, folder)) for folder in folders}
    kept |= {folder: (None, "") for folder in folders if times[folder] is None}
    stale = [folder for folder in folders if kept.get(folder, (-1, ""))[0] != times[folder]]
    if stale:
        now = time.time_ns()
        for folder in tqdm(stale, "indexing", unit="folder", disable=not distributed.is_main()):
            kept[folder] = (times[folder], _list(Path(root, folder)))
        _save(index_dir, root, kept, now - SETTLED_NS)
    return {folder: names.split("\n") if (names := kept[folder][1]) else [] for folder in folders}


def index_path(index_dir: Path | str, root: Path | str) -> Path:
    """The file that belongs to a root."""
    digest = hashlib.sha1(str(Path(root).resolve()).encode()).hexdigest()
    return Path(index_dir, f"patches_{digest[:12]}.json")


def _changed(folder: Path) -> int | None:
    """Modification time in nanoseconds, None of a folder that is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return None


def _list(folder: Path) -> str:
    """Ids, sorted, one a line: a million short strings would take long to read back."""
    if not folder.is_dir():
        return ""
    names = [name for name in os.listdir(folder) if name.endswith(SUFFIX)]
    return "\n".join(sorted(name[: -len(SUFFIX)] for name in names if not name.startswith(".")))


def _load(index_dir: Path | str | None, root: Path | str) -> dict[str, tuple[int | None, str]]:
    """What was kept; a file that is no such index counts as none."""
    if index_dir is None:
        return {}
    try:
        content = json.loads(index_path(index_dir, root).read_text("utf-8"))
        if content["version"] != VERSION:
            return {}
        return {key: (int(when), str(names)) for key, (when, names) in content["folders"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _save(
    index_dir: Path | str | None,
    root: Path | str,
    kept: dict[str, tuple[int | None, str]],
    before: int,
) -> None:
    """Keeps folders last changed before a time; a younger one might change unnoticed."""
    if index_dir is None:
        return
    folders = {key: value for key, value in kept.items() if value[0] and value[0] < before}
    with atomic_path(index_path(index_dir, root)) as temporary:
        content = {"version": VERSION, "root": str(Path(root).resolve()), "folders": folders}
        temporary.write_text(json.dumps(content), encoding="utf-8")
