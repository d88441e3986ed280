"""Run folders: finding the run to resume, and the options saved in its folder."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.files import write_json


def find_run(given: str, outdir: str, name: str | None) -> Path:
    """The `last.pth` of the run at `given`, a file or folder; "" for the newest run.

    Raises:
        FileNotFoundError: there is no last.pth, or no args.json beside it.
        ValueError: its folder is not OUTDIR/runs/NAME.
    """
    path = Path(given) if given else _newest_run(outdir, name)
    path = path / "last.pth" if path.is_dir() else path
    for file in (path, path.parent / "args.json"):
        if not file.is_file():
            raise FileNotFoundError(
                f"--resume {given}: there is no {file}; pass the last.pth of a run in OUTDIR/runs"
            )
    if path.absolute().parents[1].name != "runs":
        raise ValueError(
            f"--resume {given}: a run's folder is OUTDIR/runs/NAME, whose best network is in "
            f"OUTDIR/models; {path.parent} lies elsewhere, move it back"
        )
    return path


def resume_hint(outdir: str, name: str | None) -> str:
    """The command that resumes the newest or named run, or a note that it saved nothing."""
    folders = sorted(Path(outdir, "runs").glob(name or "*"), key=lambda path: path.stat().st_mtime)
    if not folders or not (folders[-1] / "last.pth").exists():
        return "(before anything was saved)"
    return f"(go on with: python train.py --resume {folders[-1] / 'last.pth'})"


def outdir_of(last: Path) -> Path:
    """The OUTDIR of OUTDIR/runs/NAME/last.pth, even if the folder was moved since the start."""
    return (last if len(last.parts) > 2 else last.absolute()).parents[2]


def _newest_run(outdir: str, name: str | None) -> Path:
    """The most recently written `last.pth` under OUTDIR/runs."""
    found = sorted(Path(outdir, "runs").glob(f"{name or '*'}/last.pth"), key=os.path.getmtime)
    if not found:
        raise FileNotFoundError(
            f"--resume: no last.pth under {outdir}/runs/{name or '*'}; pass the --outdir of the "
            "run. It is written after the first epoch (or --save-every STEPS); before that start "
            "without --resume."
        )
    return found[-1]


def write_options(folder: Path, options: dict[str, Any]) -> None:
    """Writes `args.json`: every resolved option, the command, versions and the git commit."""
    packages = ("torch", "torchvision", "timm", "numpy", "pillow")
    write_json(
        folder / "args.json",
        {
            "options": options,
            "command": sys.argv,
            "python": sys.version.split()[0],
            "versions": {name: _version(name) for name in packages},
            "git_commit": _git_commit(),
        },
    )


def read_options(folder: Path) -> dict[str, Any]:
    """The options that `write_options` wrote."""
    return json.loads((folder / "args.json").read_text(encoding="utf-8"))["options"]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
