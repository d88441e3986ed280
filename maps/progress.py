"""Progress of a map, kept in a hidden folder so that an interrupted run can continue."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import make_folder, write_json
from utils.rasters.gdal import rasterio

NAME = ".predict"  # the hidden folder, beside a map's files
LOCK = "lock"  # file in it, locked by the process that works there
FINISHED = ".predict-finished.json"  # in --out: finished maps of a run that is not complete


class WorkFolder:
    """The hidden folder beside the final files, with rows and files not yet published.

    Args:
        out: folder of the final files.

    Attributes:
        rows: folder of the finished rows of windows.
        ready: folder of finished files.
    """

    def __init__(self, out: Path):
        self.out, self.folder = out, out / NAME
        self.rows, self.ready = self.folder / "rows", self.folder / "ready"
        self._settings, self._list = self.folder / "settings.json", self.folder / "publish.json"

    def start(self, settings: Mapping[str, Any]) -> str | None:
        """Creates the folder; keeps rows of an interrupted run if its settings are the same.

        Returns:
            A message about the interrupted run; None if there was none.

        Raises:
            ValueError: another run is working in this folder.
        """
        settings = json.loads(json.dumps(settings))
        make_folder(self.folder)
        self._lock_out_others()
        before = self._read()
        message = None
        if before is not None and before != settings:
            keys = sorted(settings.keys() | before.keys())
            changed = [key for key in keys if settings.get(key) != before.get(key)]
            message = f"starting anew: {', '.join(changed)} changed since the interrupted run"
        if before != settings:
            self._empty()
        elif any(self.rows.rglob("[!.]*.tif")):
            message = "going on with an interrupted run"
        shutil.rmtree(self.ready, ignore_errors=True)
        make_folder(self.ready)
        make_folder(self.rows)
        for half in self.rows.rglob(".*"):  # temporary files of a process killed while writing
            half.unlink(missing_ok=True)
        write_json(self._settings, settings)
        return message

    def _lock_out_others(self) -> None:
        """Locks the folder until this process ends (Unix only; does nothing elsewhere)."""
        try:
            import fcntl
        except ImportError:
            return
        self._lock = (self.folder / LOCK).open("w")  # kept open: closing it releases the lock
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another run makes a map in {self.out} just now; wait for its end, or choose "
                "another folder (--out)"
            ) from None

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._settings.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep(self, name: str, compute: Any) -> Any:
        """`compute()`, JSON values, saved so that a resumed run does not compute them again."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_json(path, compute())
        return self.kept(name)

    def kept(self, name: str) -> Any:
        """The values saved by `keep` under this name."""
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def publish(
        self,
        older: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        note: Callable[[Mapping[str, Any]], None] = lambda settings: None,
    ) -> list[Path]:
        """Moves every finished file to its final name, and removes the folder.

        Args:
            older: names of files of an earlier map, removed unless this map has them too.
            settings: with which the map was made; None: `note` is not called.
            note: called with the settings when all files are in place.

        Returns:
            Paths of the published files, without .aux.xml and .qml.
        """
        names = sorted(path.name for path in self.ready.iterdir())
        remove = sorted(set(older) - set(names))
        write_json(self._list, {"move": names, "remove": remove, "settings": settings})
        self.finish_publishing(note)
        shown = [name for name in names if not name.endswith((".aux.xml", ".qml"))]
        return [self.out / name for name in shown]

    def finish_publishing(
        self, note: Callable[[Mapping[str, Any]], None] = lambda settings: None
    ) -> bool:
        """Finishes an interrupted `publish`, if there is one; returns whether there was."""
        if not self._list.is_file():
            return False
        names = json.loads(self._list.read_text(encoding="utf-8"))
        for name in names["remove"]:
            (self.out / name).unlink(missing_ok=True)
        for name in names["move"]:
            if (self.ready / name).exists():
                os.replace(self.ready / name, self.out / name)
        if names["settings"] is not None:
            note(names["settings"])
        self.remove()
        return True

    def _empty(self) -> None:
        """Removes everything but the lock, beginning with the list of files to publish."""
        self._list.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def remove(self) -> None:
        """Removes the folder and its content, beginning with the list of files to publish."""
        self._list.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class FinishedMaps:
    """Record of the finished maps of a run with several maps; a resumed run skips them.

    Args:
        out: the folder of the run.
    """

    def __init__(self, out: Path):
        self.path = out / FINISHED
        found = self.path.is_file()
        self.settings = json.loads(self.path.read_text(encoding="utf-8")) if found else {}

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the map of this name was finished with these settings."""
        return self.settings.get(name) == json.loads(json.dumps(settings))

    def forget_unless(self, there: bool, name: str) -> None:
        """Forgets a recorded map if it is no longer `there` (its files were removed)."""
        if not there:
            self.settings.pop(name, None)

    def add(self, name: str, settings: Mapping[str, Any]) -> None:
        """Records a published map."""
        self.settings[name] = settings
        write_json(self.path, self.settings)

    def remove(self) -> None:
        """Deletes the record, when the run is complete."""
        self.path.unlink(missing_ok=True)


def fingerprint(path: Path) -> str:
    """Identifies a file's state by its path, size and modification time."""
    stat = path.stat()
    return f"{path.resolve()} ({stat.st_size} bytes, {stat.st_mtime_ns} ns)"


def image_fingerprints(path: Path) -> list[str]:
    """Fingerprints of an image and of all files it uses: headers, masks, sources of a VRT."""
    seen, waiting = {}, [path]
    while waiting:
        file = waiting.pop()
        if file.resolve() in seen or not file.exists():
            continue
        seen[file.resolve()] = fingerprint(file)
        try:
            with rasterio().open(file) as image:
                waiting += map(Path, image.files)
        except rasterio().errors.RasterioError:  # a header, a mask
            continue
    return sorted(seen.values())
