"""Reads tables from csv, xlsx or xls; the first line names the columns."""

import csv
import io
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from utils.files import read_text
from utils.rasters.reading import decoding


def read_table(path: Path | str) -> list[dict[str, str]]:
    """Rows as {column name: text}, without empty rows.

    Args:
        path: .xlsx or .xls (first sheet), otherwise text with commas, semicolons or tabs.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be read.
        ValueError: no rows, a repeated column, an encoding that `read_text` does not know, or the
            package for this format is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--table {path}: no such file")
    readers = {".xlsx": _read_xlsx, ".xls": _read_xls}
    rows = [
        [_text(cell) for cell in row] for row in readers.get(path.suffix.lower(), _read_csv)(path)
    ]
    header, *rows = [row for row in rows if any(row)] or [[]]
    if not rows:
        raise ValueError(f"--table {path} has no rows; the first line names the columns")
    if twice := sorted({key for key in header if key and header.count(key) > 1}):
        raise ValueError(f"--table {path} has two columns {', '.join(twice)}; rename one")
    return [dict(zip(header, row, strict=False)) for row in rows]


def column(rows: list[dict[str, str]], name: str | None, flag: str) -> list[str]:
    """The texts of one column.

    Raises:
        ValueError: no such column, or an empty cell in it.
    """
    known = [key for key in rows[0] if key]
    if name not in known:
        wrong = f"{flag} {name!r} is no column" if name else f"{flag} is missing"
        raise ValueError(f"{wrong}; the table has {', '.join(known)}")
    empty = [index + 2 for index, row in enumerate(rows) if not row.get(name)]
    if empty:
        raise ValueError(f"{flag} {name!r} is empty in row(s) {', '.join(map(str, empty[:10]))}")
    return [row[name] for row in rows]


def _read_csv(path: Path) -> Iterable[list[str]]:
    text = read_text(path)
    first = text.split("\n", 1)[0]
    with decoding(path):
        lines = io.StringIO(text, newline="")
        return list(csv.reader(lines, delimiter=max(",;\t", key=first.count)))


def _read_xlsx(path: Path) -> Iterable[tuple]:
    openpyxl = _package("openpyxl", path)
    with decoding(path):
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            return list(book.worksheets[0].iter_rows(values_only=True))
        finally:
            book.close()


def _read_xls(path: Path) -> Iterable[list]:
    xlrd = _package("xlrd", path)
    with decoding(path), xlrd.open_workbook(str(path)) as book:
        sheet = book.sheet_by_index(0)
        return [sheet.row_values(index) for index in range(sheet.nrows)]


def _package(name: str, path: Path) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(
            f"--table {path}: reading {path.suffix} takes a package that is not installed; "
            f"`pip install {name}`, or save the table as csv"
        ) from None


def _text(cell: object) -> str:
    """Text of a cell; whole numbers, which spreadsheets store as 20180922.0, lose the `.0`."""
    whole = isinstance(cell, float) and cell.is_integer()
    return "" if cell is None else str(int(cell) if whole else cell).strip()
