"""Text of files in several encodings, and atomic writing of files."""

import codecs
import errno
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents, if missing.

    Raises:
        OSError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}); choose another output folder"
        ) from error


def read_text(path: Path | str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        ValueError: another encoding.
    """
    data = Path(path).read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        name = "UTF-16" if wide else "UTF-8"
        raise ValueError(f"{path} is not {name} ({error}); save it as UTF-8") from error


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to `path` on success, removed on failure.

    The temporary path has the same suffix. Parent folders are created.
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
def explain_full_disks(folder: Path) -> Iterator[None]:
    """Context manager that replaces the error of a full disk by one with a remedy."""
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


def zip_files(zip_path: Path | str, folder: Path | str, files: Iterable[str]) -> int:
    """Packs masks for submission; the same masks give the same bytes.

    Args:
        zip_path: the archive to write.
        folder: of the masks.
        files: paths relative to `folder`, such as im1/00001.png; also their names in the archive.

    Returns:
        The number of files packed.

    Raises:
        FileNotFoundError: a file is missing.
    """
    files = sorted(files)
    with atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in files:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.create_system = 0o644 << 16, 3  # the same on every system
            archive.writestr(entry, Path(folder, name).read_bytes())
    return len(files)
