"""Writing files that are never seen half-written."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, if need be.

    Raises:
        OSError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}); choose another output folder"
        ) from error


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed onto it on success, removed on failure.

    The suffix is kept, for writers that look at it. Parent folders are made.
    """
    path = Path(path)
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    os.chmod(name, 0o644)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def told_of_full_disks(folder: Path) -> Iterator[None]:
    """Says what to do where there is no room left: what is raised for it says that only."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            f"could not write all files of {folder}: the disk is full. Make room and run the same "
            "command again: it goes on."
        ) from error


def save_image(path: Path | str, image: Image.Image) -> None:
    """Writes a picture in the format of its suffix."""
    with atomic_path(path) as temporary:
        image.save(temporary)


def write_json(path: Path | str, value: object) -> None:
    """Writes `value` as indented JSON; NaN must have become None before (JSON has no NaN)."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
