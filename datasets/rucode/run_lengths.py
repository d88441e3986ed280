"""Run-length encoding of change masks, and the submission csv of the Rucode contest.

Pixels are numbered from 1, top to bottom, then left to right. A mask is encoded as the runs of
changed pixels, `start length start length ...`; an empty mask is an empty string.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.files import atomic_path

COLUMNS = ("Id", "mask")
COLUMNS_AT_ONCE = 256  # columns of a mask that are encoded at a time; a multiple of 8
NUMBERS_AT_ONCE = 100_000
SHOWN_IDS = 5  # ids listed in an error
MAX_TEXT = 2**31 - 1  # characters of one mask; csv's own limit is 131072


def to_run_lengths(mask: np.ndarray) -> str:
    """Encodes a mask (H, W), 1 or True = changed, as run lengths."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask must be (H, W), not {mask.shape}")
    encoder = StripEncoder(*mask.shape)
    encoder.add(0, mask)
    return encoder.text()


def from_run_lengths(text: str, height: int, width: int) -> np.ndarray:
    """Decodes run lengths to a mask (H, W) uint8, 1 = changed; the inverse of `to_run_lengths`.

    Raises:
        ValueError: not pairs of integers, or runs outside the mask, unordered or overlapping.
    """
    runs = _numbers(text).reshape(-1, 2)
    first, end = runs[:, 0] - 1, runs[:, 0] - 1 + runs[:, 1]
    outside = (first < 0) | (runs[:, 1] < 1) | (end > height * width)
    if outside.any():
        run = " ".join(map(str, runs[outside][0]))
        raise ValueError(
            f"run '{run}' does not lie in a mask of {height} x {width}: pixels are numbered "
            f"1..{height * width}, a run has at least one. Is it of another image?"
        )
    if (late := np.flatnonzero(first[1:] < end[:-1])).size:
        pair = " ".join(map(str, runs[late[0] : late[0] + 2].flatten()))
        raise ValueError(f"runs '{pair}' overlap or are not in order; each must follow the last")
    steps = np.zeros(height * width + 1, np.int8)
    steps[first] += 1
    steps[end] -= 1
    flat = np.cumsum(steps[:-1], dtype=np.int8).astype(np.uint8)
    return np.ascontiguousarray(flat.reshape(width, height).T)


class StripEncoder:
    """Encodes a scene from strips of rows in any order; stores one bit per pixel."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self._bits = np.zeros((height, -(-width // 8)), np.uint8)  # packed along the rows
        self._arrived = np.zeros(height, bool)

    def add(self, top: int, strip: np.ndarray) -> None:
        """Adds a strip of rows.

        Args:
            top: first row, from 0.
            strip: (h, W), 1 or True = changed.

        Raises:
            ValueError: the strip does not lie in the scene, or holds other values.
        """
        strip = np.asarray(strip)
        fits = strip.ndim == 2 and 0 <= top <= self.height - len(strip)
        if not fits or strip.shape[1] != self.width:
            raise ValueError(
                f"a strip {strip.shape} at row {top} does not lie in a scene of "
                f"{self.height} x {self.width}; strips are (h, {self.width})"
            )
        if strip.dtype != bool and not ((strip == 0) | (strip == 1)).all():
            raise ValueError(f"a mask holds 0 and 1 = changed, not {strip.min()}..{strip.max()}")
        rows = slice(top, top + len(strip))
        self._bits[rows] = np.packbits(strip.astype(bool), axis=1)
        self._arrived[rows] = True

    def text(self) -> str:
        """The run lengths of the scene.

        Raises:
            ValueError: rows are missing.
        """
        if not self._arrived.all():
            missing = np.flatnonzero(~self._arrived)
            raise ValueError(f"{len(missing)} rows were never added, the first is {missing[0]}")
        borders = self._borders()
        first, end = borders[::2], borders[1::2]
        numbers = np.stack([first + 1, end - first], 1).flatten()
        parts = range(0, len(numbers), NUMBERS_AT_ONCE)  # lists of Python integers are large
        return " ".join(
            " ".join(map(str, numbers[i : i + NUMBERS_AT_ONCE].tolist())) for i in parts
        )

    def _borders(self) -> np.ndarray:
        """Alternating start and end positions of the runs, in column-major order from 0."""
        found, before = [], False
        for left in range(0, self.width, COLUMNS_AT_ONCE):
            packed = self._bits[:, left // 8 : (left + COLUMNS_AT_ONCE) // 8]
            columns = min(COLUMNS_AT_ONCE, self.width - left)
            flat = np.unpackbits(packed, axis=1, count=columns).T.flatten().view(bool)
            previous = np.concatenate([[before], flat[:-1]])
            found.append(np.flatnonzero(flat != previous) + left * self.height)
            before = bool(flat[-1]) if flat.size else before
        if before:
            found.append(np.array([self.height * self.width]))
        return np.concatenate(found) if found else np.zeros(0, np.int64)


def write_run_lengths(
    path: Path | str, masks: Iterable[tuple[str, str]], order: Sequence[str]
) -> None:
    """Writes `Id,mask` rows.

    Args:
        path: the csv.
        masks: (id, runs) in any order.
        order: required ids, see `read_sample_ids`.

    Raises:
        ValueError: an id is missing, unexpected or repeated.
    """
    masks = list(masks)
    texts = dict(masks)
    _refuse(path, "there twice", [*_repeated(name for name, _ in masks), *_repeated(order)])
    _refuse(path, "not in the sample submission", [n for n in texts if n not in set(order)])
    _refuse(path, "without a mask", [name for name in order if name not in texts])
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *((name, texts[name]) for name in order)])


def read_sample_ids(path: Path | str) -> list[str]:
    """The ids of a sample submission, in its order; for errors see `read_submission`."""
    return list(read_submission(path))


def read_submission(path: Path | str) -> dict[str, str]:
    """Reads a submission: {id: run lengths}, in the order of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the columns are not Id,mask, or an id is repeated.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no submission at {path}; check the path")
    csv.field_size_limit(MAX_TEXT)
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if tuple(cell.strip() for cell in header) != COLUMNS:
        raise ValueError(f"{path} must begin with the line {','.join(COLUMNS)}, not {header}")
    if bad := next((row for row in rows if len(row) != 2 or not row[0].strip()), None):
        raise ValueError(f"{path}: the row {bad} must hold an id and a mask, which may be empty")
    names = [row[0].strip() for row in rows]
    _refuse(path, "there twice", _repeated(names))
    return dict(zip(names, (row[1].strip() for row in rows), strict=True))


def _numbers(text: str) -> np.ndarray:
    """Parses integers, (n,) int64 with n even."""
    words = text.split()
    try:
        numbers = np.array([int(word) for word in words], dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"a mask is whole numbers 'start length ...', not {text[:60]!r}") from None
    if len(numbers) % 2:
        raise ValueError(
            f"a mask is pairs 'start length ...', but there are {len(numbers)} numbers; was the "
            "text cut off?"
        )
    return numbers


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _refuse(path: Path | str, what: str, names: Sequence[str]) -> None:
    """Raises ValueError if `names` is not empty."""
    if names:
        more = f" and {len(names) - SHOWN_IDS} more" if len(names) > SHOWN_IDS else ""
        raise ValueError(
            f"{path}: ids {what}: {', '.join(names[:SHOWN_IDS])}{more}. A submission has every id "
            "of the sample submission, once each."
        )
