"""Reports a folder of outputs as one self-contained HTML page (no network, no other files).

`python -m report RUN_OR_MASK_DIR` shows outputs of train.py, label.py, test.py or predict.py:
images of both dates with the changes, from-to sums, scores, training curves, options.
"""

import argparse
import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from report.data import collect
from report.page import page
from utils.cli import Parser, positive_int
from utils.files import atomic_path

TEMPLATES = Path(__file__).parent / "templates"
PROGRAM = "python -m report"
NUM_IMAGES = 8
PICTURE_PX = 1600


def write_report(
    folder: Path | str,
    out: Path | str | None = None,
    images: int = NUM_IMAGES,
    data_root: Path | str | None = None,
    maps: Sequence[Path] | None = None,
) -> Path:
    """Writes the page of a folder; returns its path.

    Args:
        folder: an --outdir, one of its runs/<name> or masks/<part>, or the --out of predict.py.
        out: the page; None: report.html in the folder.
        images: number of tiles to show of each part (the worst and the best if there are labels),
            or number of maps (those with the most change).
        data_root: folder of the data set; None: as recorded in the outputs.
        maps: folders of maps in `folder` to report on; None: all of them.

    Raises:
        FileNotFoundError: there is nothing to report on.
        ValueError: the folder of `out` does not exist, or maps have different tasks or classes.
        OSError: a mask cannot be read, or the page cannot be written.
    """
    folder = Path(folder)
    out = folder / "report.html" if out is None else Path(out)
    if folder.is_dir() and not out.parent.is_dir():
        raise ValueError(
            f"--out {out}: there is no folder {out.parent}; make it first, or name another place"
        )
    root = None if data_root is None else Path(data_root)
    report = collect(folder, images, PICTURE_PX, root, maps)
    text = render(page(report))
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def render(variables: dict) -> str:
    """The HTML text of the page, made of templates, style and script.

    All variables are escaped. The page's security policy allows only its own script, no requests.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        variables,
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Show what a folder of outputs holds, as one HTML page.", PROGRAM)
    parser.add_argument(
        "folder",
        metavar="RUN_OR_MASK_DIR",
        help="an --outdir, one of its runs/NAME or masks/PART, or the --out of predict.py",
    )
    parser.add_argument("--out", metavar="FILE", help="the page (default: report.html in there)")
    parser.add_argument(
        "--images",
        type=positive_int,
        default=NUM_IMAGES,
        metavar="N",
        help="tiles to show of each part: the worst and the best where there are labels; or maps: "
        "those with the most change, the others with their numbers",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder of the data set (default: where it was when the outputs were made)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Writes one page and prints its path."""
    args = parse_args(argv)
    path = write_report(args.folder, args.out, args.images, args.data_root)
    print(f"{path} ({size_in_words(path.stat().st_size)})")


def size_in_words(num_bytes: int) -> str:
    """A file's size: "12 kB" or "3.4 MB"."""
    kilobytes = num_bytes / 1000
    return f"{kilobytes / 1000:.1f} MB" if kilobytes >= 1000 else f"{max(kilobytes, 1):.0f} kB"
