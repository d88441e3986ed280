"""Summaries of a map as csv and JSON: pixels, hectares and per cent by class or from-to code."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maps.areas import M2_PER_HA, PixelAreas, check_grids
from maps.transitions import num_codes, pair, read_codes, strips
from utils.files import atomic_path, write_json
from utils.rasters.gdal import rasterio
from utils.structures import Scheme

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

STRIP_PIXELS = 2**22  # read at a time
HEADER = ("from", "to", "code", "pixels", "hectares", "percent")
CLASS_HEADER = ("class", "value", "pixels", "hectares", "percent")


def write_summary(
    folder: Path | str,
    transition_tif: Path | str,
    scheme: Scheme,
    date1_tif: Path | str | None = None,
    date2_tif: Path | str | None = None,
) -> dict:
    """Writes `summary.csv` and `summary.json` into `folder`; returns the content of the JSON.

    The csv has a header and a line for each code (`unchanged` first), then `changed`, `valid` and
    `no data`. Percentages refer to the valid area. The encoding is UTF-8, with a byte order mark if
    a name is not ASCII, so that spreadsheets decode it.

    Keys of the JSON; hectares are None (null) if the map has no CRS:
        task, classes: of the scheme.
        crs: of the map, "EPSG:..." if it has such a code; or None.
        area_method: method of maps.areas; or None.
        pixels, hectares: each {"valid", "unchanged", "changed", "nodata"}.
        percent: {"unchanged", "changed"} of the valid area; None if no pixel is valid.
        matrix: {"labels", "pixels", "hectares", "percent"}: K + 1 names, "unchanged" first, and
            (K + 1) x (K + 1) numbers: [f][t] changed from class f to class t, [0][0] unchanged,
            the rest of row and column 0 is 0. Without classes, the labels are "unchanged" and
            "changed", and [1][1] is changed.
        dates: {"date1", "date2"}, of the given maps: {"pixels", "hectares"}, each K + 1 numbers of
            the valid area by class; [0] is the area without a class.

    Args:
        folder: created if missing.
        transition_tif: codes of maps.transitions; for a binary change, 0 and 1.
        scheme: classes.
        date1_tif: classes of date 1 on the same grid: 0, 1..K, and its nodata value.
        date2_tif: the same of date 2.

    Raises:
        ValueError: a value is no code or class, the maps are on different grids, or the task is
            land cover (see `write_class_summary`).
    """
    if scheme.task == "land_cover":
        raise ValueError("a summary of changes needs two dates; land cover has one")
    with ExitStack() as stack:
        file = stack.enter_context(rasterio().open(transition_tif))
        given = {"date1": date1_tif, "date2": date2_tif}
        dates = {
            name: stack.enter_context(rasterio().open(path)) for name, path in given.items() if path
        }
        for other in dates.values():
            check_grids(file, other)
        areas = PixelAreas(file.crs, file.transform, file.height, file.width)
        codes, by_class = _count(file, dates, areas, scheme)
        crs = file.crs.to_string() if file.crs else None
    summary = {
        **_head(scheme, crs, areas),
        **_totals(codes),
        "matrix": _matrix(codes, scheme),
        "dates": {name: _numbers(sums) for name, sums in by_class.items()},
    }
    write_json(Path(folder, "summary.json"), summary)
    _write_csv(Path(folder, "summary.csv"), HEADER, _csv_lines(codes, scheme))
    return summary


def write_class_summary(folder: Path | str, classes_tif: Path | str, scheme: Scheme) -> dict:
    """Writes `summary.csv` and `summary.json` of a land-cover map; returns the JSON's content.

    The csv has a header, a line for each class, then `valid` and `no data`, as in `write_summary`.

    Keys of the JSON: task, classes, crs and area_method as in `write_summary`; pixels and hectares,
    each {"valid", "nodata"}; by_class: {"pixels", "hectares", "percent"}, each K numbers, per cent
    of the valid area.

    Args:
        folder: created if missing.
        classes_tif: 1..K, and its nodata value.
        scheme: classes.

    Raises:
        ValueError: a value that is no class.
    """
    with rasterio().open(classes_tif) as file:
        areas = PixelAreas(file.crs, file.transform, file.height, file.width)
        sums = _no_sums(scheme.num_classes + 1, areas)  # the last: of pixels without data
        for window in strips(file, STRIP_PIXELS):
            area_m2 = areas.of_window(window)
            values = file.read(1, window=window).astype(np.int64)
            known = values != file.nodata
            if not np.isin(values[known], range(1, scheme.num_classes + 1)).all():
                raise ValueError(
                    f"{classes_tif} holds a value that is no class: they lie in "
                    f"1..{scheme.num_classes}; was it made with another checkpoint?"
                )
            sums.add(np.where(known, values - 1, scheme.num_classes).ravel(), area_m2.ravel())
        crs = file.crs.to_string() if file.crs else None
    by_class = _Sums(sums.pixels[:-1], sums.area_m2[:-1])
    totals = {"pixels": sums.pixels, "hectares": sums.area_m2 / M2_PER_HA}
    percent = _percent(sums)
    summary = {
        **_head(scheme, crs, areas),
        **{
            key: {"valid": _plain(values[:-1].sum()), "nodata": _plain(values[-1])}
            for key, values in totals.items()
        },
        "by_class": {**_numbers(by_class), "percent": [_plain(share) for share in percent[:-1]]},
    }
    write_json(Path(folder, "summary.json"), summary)
    lines = [
        (name, str(index + 1), *_cells(sums, percent, index))
        for index, name in enumerate(scheme.classes)
    ]
    lines.append(("valid", "", *_cells(sums, percent, slice(0, -1))))
    lines.append(("no data", "", *_cells(sums, np.full_like(percent, np.nan), -1)))
    _write_csv(Path(folder, "summary.csv"), CLASS_HEADER, lines)
    return summary


def _head(scheme: Scheme, crs: str | None, areas: PixelAreas) -> dict:
    """The first keys of every summary."""
    return {
        "task": scheme.task,
        "classes": list(scheme.classes),
        "crs": crs,
        "area_method": areas.method,
    }


class _Sums(NamedTuple):
    """Pixel counts and areas of N values."""

    pixels: np.ndarray  # (N,) int64
    area_m2: np.ndarray  # (N,) float64, NaN without a CRS

    def add(self, values: np.ndarray, area_m2: np.ndarray) -> None:
        """Adds pixels: (n,) values 0..N-1, and (n,) areas in square metres."""
        count = len(self.pixels)
        self.pixels[:] += np.bincount(values, minlength=count)
        self.area_m2[:] += np.bincount(values, area_m2, minlength=count)


def _count(
    file: DatasetReader, dates: dict[str, DatasetReader], areas: PixelAreas, scheme: Scheme
) -> tuple[_Sums, dict[str, _Sums]]:
    """Sums by code (the last entry: pixels without data), and by class of each date."""
    num_classes, count = scheme.num_classes, num_codes(scheme.num_classes)
    codes = _no_sums(count + 1, areas)
    by_class = {name: _no_sums(num_classes + 1, areas) for name in dates}
    for window in strips(file, STRIP_PIXELS):
        area_m2 = areas.of_window(window)
        strip, valid = read_codes(file, window, scheme)
        codes.add(np.where(valid, strip, count).ravel(), area_m2.ravel())
        for name, date in dates.items():
            values = date.read(1, window=window)
            values = np.where(values == date.nodata, 0, values)[valid]
            if values.max(initial=0) > num_classes:
                raise ValueError(
                    f"{date.name} holds {values.max()}, but classes lie in 0..{num_classes}; was "
                    "it made with another checkpoint?"
                )
            by_class[name].add(values, area_m2[valid])
    return codes, by_class


def _no_sums(count: int, areas: PixelAreas) -> _Sums:
    return _Sums(np.zeros(count, np.int64), np.full(count, 0.0 if areas.method else np.nan))


def _totals(codes: _Sums) -> dict:
    """Keys pixels, hectares and percent of the summary."""
    totals = {}
    for name, sums, unit in (("pixels", codes.pixels, 1), ("hectares", codes.area_m2, M2_PER_HA)):
        parts = {
            "valid": sums[:-1].sum(),
            "unchanged": sums[0],
            "changed": sums[1:-1].sum(),
            "nodata": sums[-1],
        }
        totals[name] = {
            key: _plain(value / unit if unit > 1 else value) for key, value in parts.items()
        }
    share = _percent(codes)
    changed = share[1:-1].sum()
    totals["percent"] = {"unchanged": _plain(share[0]), "changed": _plain(changed)}
    return totals


def _percent(codes: _Sums) -> np.ndarray:
    """(N,) per cent of the valid area, or without a CRS of the valid pixels; NaN if none."""
    sums = codes.pixels if np.isnan(codes.area_m2).any() else codes.area_m2
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * sums / sums[:-1].sum()


def _matrix(codes: _Sums, scheme: Scheme) -> dict:
    labels = ["unchanged", *(scheme.classes or ("changed",))]
    matrix = {"labels": labels}
    numbers = {"pixels": codes.pixels, "hectares": codes.area_m2 / M2_PER_HA}
    for name, sums in {**numbers, "percent": _percent(codes)}.items():
        table = np.zeros((len(labels), len(labels)), sums.dtype)
        table[0, 0] = sums[0]
        table[1:, 1:] = sums[1:-1].reshape(len(labels) - 1, -1)
        matrix[name] = [[_plain(value) for value in row] for row in table]
    return matrix


def _numbers(sums: _Sums) -> dict:
    hectares = sums.area_m2 / M2_PER_HA
    return {
        "pixels": [_plain(value) for value in sums.pixels],
        "hectares": [_plain(value) for value in hectares],
    }


def _plain(value: np.number) -> int | float | None:
    """A number for JSON; NaN becomes None."""
    value = value.item()
    return None if value != value else value


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    encoding = "utf-8" if text.getvalue().isascii() else "utf-8-sig"
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding=encoding, newline="")


def _csv_lines(codes: _Sums, scheme: Scheme) -> Iterator[tuple[str, ...]]:
    """Yields a line for each code, then the sums."""
    percent, names = _percent(codes), ("unchanged", *scheme.classes)
    for code in range(len(codes.pixels) - 1):
        origin, target = pair(code, scheme.num_classes)
        between = (names[origin], names[target]) if scheme.classes or not code else ("changed",) * 2
        yield (*between, str(code), *_cells(codes, percent, code))
    for name, which in (("changed", slice(1, -1)), ("valid", slice(0, -1))):
        yield name, "", "", *_cells(codes, percent, which)
    yield "no data", "", "", *_cells(codes, np.full_like(percent, np.nan), -1)


def _cells(codes: _Sums, percent: np.ndarray, which: int | slice) -> tuple[str, str, str]:
    """Texts of pixels, hectares and per cent, summed over the codes `which`; "" if unknown."""
    hectares, share = codes.area_m2[which].sum() / M2_PER_HA, percent[which].sum()
    known = ("" if value != value else f"{value:.6f}" for value in (hectares, share))
    return str(codes.pixels[which].sum()), *known
