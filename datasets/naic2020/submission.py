"""Prediction files of the NAIC 2020 contest: a pickled list of PNG, a zip of 16-bit PNG."""

import io
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.files import atomic_path
from utils.rasters.masks import PNG_COMPRESS_LEVEL
from utils.structures import IGNORE_INDEX

CODE = 100  # class k is submitted as (k + 1) * CODE


def to_png(pred: np.ndarray) -> bytes:
    """Encodes classes (H, W) in 0..254 as an 8-bit grey PNG."""
    return _png(np.asarray(pred).astype(np.uint8))


def read_png(data: bytes) -> np.ndarray:
    """The inverse of `to_png`.

    Raises:
        ValueError: not a PNG with one band.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels = np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{len(data)} bytes that are no PNG ({error}); predict again") from error
    if pixels.ndim != 2:
        raise ValueError(f"a PNG of {pixels.shape[-1]} bands, where classes have one")
    return pixels


def read_masks(folder: Path | str, names: Sequence[str]) -> Iterator[np.ndarray]:
    """Reads masks `folder/im1/<id>.png` of 1..K; yields classes (H, W) uint8 in 0..K-1.

    The contest has no value for pixels without data, 0 in the masks; they get its first class.
    """
    for name in names:
        with Image.open(Path(folder, "im1", f"{name}.png")) as mask:
            yield np.maximum(np.array(mask), 1) - np.uint8(1)


def write_pkl(path: Path | str, pngs: Iterable[bytes]) -> int:
    """Pickles a list of PNG files, in the order of the data set; returns their number."""
    items = [bytes(png) for png in pngs]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        pickle.dump(items, file, protocol=4)  # stores bytes natively, unlike protocol 2
    return len(items)


def read_pkl(path: Path | str) -> list[bytes]:
    """Unpickles a list of byte strings, written by `write_pkl` or mmcv; executes no code.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds anything else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {path}; check the path")
    try:
        with Path(path).open("rb") as file:
            items = _BytesUnpickler(file).load()
    except Exception as error:  # malformed pickles raise many exception types
        raise ValueError(
            f"{path} is no pickled list of PNG ({error}); predict again. (The published "
            "single-GPU test writes arrays instead, which its own submission cannot read either.)"
        ) from error
    if not isinstance(items, list) or not all(isinstance(item, bytes) for item in items):
        raise ValueError(f"{path} holds something else than a list of PNG; predict again")
    return items


class _BytesUnpickler(pickle.Unpickler):
    """Unpickles only lists and bytes, including bytes stored with protocol 2."""

    def find_class(self, module: str, name: str) -> Any:
        """Allows only the functions that old protocols use for bytes, as safe replacements."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) in (("builtins", "bytes"), ("__builtin__", "bytes")):
            return _no_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def write_zip(path: Path | str, stems: Sequence[str], preds: Iterable[np.ndarray]) -> int:
    """Packs predictions for submission; the same predictions give the same bytes.

    Args:
        path: the archive to write.
        stems: image names without extension, in the order of the test list.
        preds: classes (H, W) of every image, integers in 0..254; may be a generator.

    Returns:
        The number of files `results/<stem>.png`, 16-bit grey, (class + 1) * 100.

    Raises:
        ValueError: a repeated stem, numbers of stems and predictions differ, or invalid classes.
    """
    if len(set(stems)) < len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})[:10]
        raise ValueError(f"{path}: {', '.join(twice)} twice; a name occurs once in an archive")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for stem, pred in zip(stems, preds, strict=True):
            entry = zipfile.ZipInfo(f"results/{stem}.png", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.create_system = 0o644 << 16, 3  # the same on every system
            archive.writestr(entry, _png(to_codes(pred, stem)))
    return len(stems)


def to_codes(pred: np.ndarray, name: str = "prediction") -> np.ndarray:
    """Converts classes (H, W) to the submitted uint16 values (class + 1) * 100.

    Raises:
        ValueError: not integers (H, W) in 0..254.
    """
    pred = np.asarray(pred)
    whole = pred.ndim == 2 and pred.dtype.kind in "iu"
    if not whole or (pred.size and (pred.min() < 0 or pred.max() >= IGNORE_INDEX)):
        raise ValueError(
            f"{name}: classes must be integers (H, W) in 0..{IGNORE_INDEX - 1}, not {pred.shape} "
            f"{pred.dtype}" + (f" up to {pred.max()}" if whole else "")
        )
    return (pred.astype(np.uint16) + 1) * np.uint16(CODE)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        file, "PNG", compress_level=PNG_COMPRESS_LEVEL
    )
    return file.getvalue()
