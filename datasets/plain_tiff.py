"""Small uncompressed TIFFs straight from their bytes: several times as fast as through GDAL.

Only what patches usually are is known: one image of strips, 8, 16 or 32 bits a value. Of any other
file, a broken one included, nothing is given, and the caller takes a real library.
"""

import struct
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
OFFSETS, SAMPLES, LENGTHS, PLANAR, FORMAT = 273, 277, 279, 284, 339
TYPES = {1: "B", 3: "H", 4: "I"}  # of the values of a tag that are of use here
KINDS = {1: "u", 2: "i", 3: "f"}  # sample format -> numpy's kind
DTYPES = ("u1", "i1", "u2", "i2", "f4", "u4", "i4")
USUAL = {BITS: (1,), COMPRESSION: (1,), SAMPLES: (1,), PLANAR: (1,), FORMAT: (1,)}
COLOURS = (0, 1, 2, 3)  # photometric: grey, RGB and palettes, whose values are stored as they are


def read_plain(path: Path | str) -> np.ndarray | None:
    """All bands of an uncompressed TIFF.

    Returns:
        (C, H, W) in the file's dtype, a view whose axes may lie in any order in memory; None of a
        file that is compressed, tiled, large, cut off, or no TIFF.
    """
    data = np.fromfile(path, np.uint8)
    try:
        return _pixels(data, data[:8].tobytes())
    except (struct.error, KeyError, ValueError):
        return None


def _pixels(data: np.ndarray, head: bytes) -> np.ndarray | None:
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return None
    order = "<" if head[:1] == b"I" else ">"
    tags = {**USUAL, **_tags(data, order, struct.unpack(order + "I", head[4:])[0])}
    dtype = _dtype(tags, order)
    if dtype is None or tags[COMPRESSION] != (1,) or tags[PHOTOMETRIC][0] not in COLOURS:
        return None
    (width,), (height,), (count,) = tags[WIDTH], tags[HEIGHT], tags[SAMPLES]
    stored = _strips(data, tags[OFFSETS], tags[LENGTHS])
    if stored is None or len(stored) != width * height * count * dtype.itemsize:
        return None
    values = stored.view(dtype)
    if tags[PLANAR] == (1,):
        return values.reshape(height, width, count).transpose(2, 0, 1)
    return values.reshape(count, height, width)


def _tags(data: np.ndarray, order: str, start: int) -> dict[int, tuple[int, ...]]:
    """The tags of the first image whose values are whole numbers."""
    (count,) = struct.unpack_from(order + "H", data, start)
    found = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        if kind in TYPES and number < 1 << 16:
            form = f"{order}{number}{TYPES[kind]}"
            inline = struct.calcsize(form) <= 4
            place = entry + 8 if inline else struct.unpack_from(order + "I", data, entry + 8)[0]
            found[tag] = struct.unpack_from(form, data, place)
    return found


def _dtype(tags: dict[int, tuple[int, ...]], order: str) -> np.dtype | None:
    """Of all values; None where bands differ, or one that is not known here."""
    bits, formats = set(tags[BITS]), set(tags[FORMAT])
    if len(bits) > 1 or len(formats) > 1 or bits.pop() % 8:
        return None
    name = f"{KINDS[formats.pop()]}{tags[BITS][0] // 8}"
    return np.dtype(order + name) if name in DTYPES else None


def _strips(
    data: np.ndarray, starts: tuple[int, ...], lengths: tuple[int, ...]
) -> np.ndarray | None:
    """The bytes of all strips, one after the other; None where some are not in the file."""
    first = np.array(starts, np.int64)
    ends = first + np.array(lengths, np.int64)
    if (first < 8).any() or (ends > len(data)).any():
        return None
    if (first[1:] == ends[:-1]).all():
        return np.ascontiguousarray(data[first[0] : ends[-1]])
    return np.concatenate([data[a:b] for a, b in zip(first, ends, strict=True)])
