"""File names of many patches in many folders, listed once and stored in an index file.

A folder is listed again if its modification time has changed, which happens when a file is added,
removed or renamed. Later calls need one `stat` per folder, not one per file.
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

VERSION = 1  # of the index file
SUFFIX = ".tif"
SETTLED_NS = 2 * 10**9  # some file systems store times with a resolution of two seconds


def list_patches(
    root: Path | str,
    folders: Sequence[str],
    *,
    index_dir: Path | str | None = None,
) -> dict[str, list[str]]:
    """Ids (names of *.tif without the extension) in each folder.

    Args:
        root: parent of the folders.
        folders: folders relative to root.
        index_dir: folder of the index file, see `index_path`; None = no index file.

    Returns:
        {folder: ids, sorted}; empty for a missing folder.
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
    """Path of the index file of a root."""
    digest = hashlib.sha1(str(Path(root).resolve()).encode()).hexdigest()
    return Path(index_dir, f"patches_{digest[:12]}.json")


def _changed(folder: Path) -> int | None:
    """Modification time in nanoseconds; None for a missing folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return None


def _list(folder: Path) -> str:
    """Sorted ids, one per line; one long string loads faster than a million short ones."""
    if not folder.is_dir():
        return ""
    names = [name for name in os.listdir(folder) if name.endswith(SUFFIX)]
    return "\n".join(sorted(name[: -len(SUFFIX)] for name in names if not name.startswith(".")))


def _load(index_dir: Path | str | None, root: Path | str) -> dict[str, tuple[int | None, str]]:
    """Reads the index file; empty if it is missing or invalid."""
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
    """Saves folders last changed before a time; newer ones may still change unnoticed."""
    if index_dir is None:
        return
    folders = {key: value for key, value in kept.items() if value[0] and value[0] < before}
    with atomic_path(index_path(index_dir, root)) as temporary:
        content = {"version": VERSION, "root": str(Path(root).resolve()), "folders": folders}
        temporary.write_text(json.dumps(content), encoding="utf-8")
