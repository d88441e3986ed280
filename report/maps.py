"""Reads the maps of predict.py for a report: a section for each, pictures at a bounded size."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from report.files import bounded, read_bounded, read_json, scheme_of_checkpoint
from report.images import Grid, read_dates
from report.pictures import picture_data
from report.structures import Amounts, Report, Section, add_up
from report.sums import read_amounts
from report.tiles import Picture
from utils.rasters.gdal import rasterio
from utils.schemes import CHANGE_PALETTE, WHITE
from utils.structures import IGNORE_INDEX, Scheme

RECORDED = {"task", "classes", "palette"}  # fields of the scheme in predict.json


def find_maps(folder: Path) -> list[Path]:
    """The folders of maps: this folder, or its subfolders with maps; may be empty."""
    if is_map(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in inside if is_map(path)]


def is_map(folder: Path) -> bool:
    """Whether the folder has a map of predict.py."""
    return (folder / "change.tif").exists() or (folder / "classes.tif").exists()


def report_of_maps(folder: Path, maps: Sequence[Path], images: int, longest: int) -> Report:
    """The report of maps with the same classes, a section for each.

    Args:
        folder: gives the page its title.
        maps: folders of predict.py, at least one.
        images: number of maps to show, those with the most change (or the largest); only numbers
            are reported for the others.
        longest: largest side of a picture in pixels.

    Raises:
        ValueError: a map has another task or other classes than the first.
    """
    records = [read_json(path / "predict.json") or {} for path in maps]
    read_scheme = cache(scheme_of_checkpoint)  # all maps usually have the same checkpoint
    schemes = [scheme_of_map(*pair, read_scheme) for pair in zip(maps, records, strict=True)]
    check_alike(maps, schemes)
    scheme = schemes[0]
    amounts = [read_amounts(path, scheme) for path in tqdm(maps, unit="map", disable=None)]
    alike = _in_one_unit(maps, scheme, amounts)
    shown = _most_changed(alike, images)
    sections = []
    for number, (path, record) in enumerate(zip(maps, records, strict=True)):
        picture, note = read_map(path, record, schemes[number], longest, number in shown)
        pictures = [picture_data(picture, scheme)] if picture else []
        title = "Map" if path == folder else path.name
        brief = number not in shown
        section = Section(path.name, title, 1, pictures, [], amounts[number], None, note=note)
        sections.append(section._replace(brief=brief))
    used = dict.fromkeys(str(p) for record in records for p in record.get("checkpoints", ()))
    heading = "Prediction" if len(maps) == 1 else f"Prediction of {maps[0].name}"
    known = {heading: records[0]} if records[0] else {}
    total = add_up(alike) if len(maps) > 1 else None
    return Report(folder, scheme, sections, [], None, [], list(used), known, None, True, total)


def _most_changed(amounts: Sequence[Amounts], count: int) -> set[int]:
    """Numbers of the `count` maps with the largest changed area, or else the largest area."""
    sizes = [(one.changed, one.total, -number) for number, one in enumerate(amounts)]
    return {-number for _, _, number in sorted(sizes, reverse=True)[:count]}


def _in_one_unit(
    maps: Sequence[Path], scheme: Scheme, amounts: Sequence[Amounts]
) -> Sequence[Amounts]:
    """The amounts in a common unit: pixels, unless all maps have areas in hectares."""
    if len({one.unit for one in amounts}) == 1:
        return amounts
    return [read_amounts(path, scheme, in_pixels=True) for path in maps]


def check_alike(maps: Sequence[Path], schemes: Sequence[Scheme]) -> None:
    """Raises ValueError unless all maps have the task and classes of the first."""
    for path, scheme in zip(maps, schemes, strict=True):
        if (scheme.task, scheme.classes) != (schemes[0].task, schemes[0].classes):
            raise ValueError(
                f"{maps[0]} ({_kind(schemes[0])}) and {path} ({_kind(scheme)}) are different kinds "
                "of maps; a report needs one task and the same classes. Report each folder by "
                f"itself: python -m report {path}"
            )


def _kind(scheme: Scheme) -> str:
    names = ", ".join(scheme.classes[:3]) + (", ..." if scheme.num_classes > 3 else "")
    return scheme.task.replace("_", " ") + (f" of {names}" if names else "")


def scheme_of_map(
    folder: Path,
    record: Mapping[str, Any],
    read_scheme: Callable[[Path], Scheme | None] = scheme_of_checkpoint,
) -> Scheme:
    """Task, classes, palette and bands of a map.

    They come from predict.json. Missing fields come from the checkpoint named there. Without a
    checkpoint, task, classes and palette come from the tags and colours of the map's files.

    Args:
        folder: of the map.
        record: predict.json.
        read_scheme: reads the scheme of a checkpoint; not called if predict.json is complete.
    """
    named = [] if {*RECORDED, "bands"} <= record.keys() else record.get("checkpoints", ())[:1]
    trained = next((read_scheme(Path(path)) for path in named), None)
    if RECORDED - record.keys():
        return trained or _scheme_of_files(folder)
    palette = tuple(tuple(colour) for colour in record["palette"])
    scheme = Scheme(record["task"], tuple(record["classes"]), palette)
    if "bands" in record:
        return scheme._replace(bands=tuple(record["bands"]))
    same = trained and (trained.task, trained.classes) == (scheme.task, scheme.classes)
    return scheme._replace(bands=trained.bands) if same else scheme


def _scheme_of_files(folder: Path) -> Scheme:
    land_cover = (folder / "classes.tif").exists()
    path = folder / ("classes.tif" if land_cover else "date1.tif")
    if not path.exists():
        return Scheme("binary_change", (), CHANGE_PALETTE)
    with rasterio().open(path) as file:
        tags, table = file.tags(1), file.colormap(1)
    numbers = sorted(int(k[6:]) for k in tags if k.startswith("CLASS_") and k[6:].isdecimal())
    classes = tuple(tags[f"CLASS_{number}"] for number in numbers if number > 0)
    palette = (WHITE, *(tuple(table[number][:3]) for number in numbers if number > 0))
    return Scheme("land_cover" if land_cover else "semantic_change", classes, palette)


def read_map(
    folder: Path, record: Mapping[str, Any], scheme: Scheme, longest: int, with_picture: bool = True
) -> tuple[Picture | None, str]:
    """The picture of a map, and a remark on its size, grid and images.

    Args:
        folder: of the map.
        record: predict.json.
        scheme: classes and palette.
        longest: largest side of the picture in pixels.
        with_picture: False: only the remark, the picture is None.
    """
    first = folder / ("classes.tif" if scheme.task == "land_cover" else "change.tif")
    with rasterio().open(first) as file:
        size = (file.height, file.width)
        grid = Grid(size, bounded(size, longest), file.crs, file.transform)
    if not with_picture:
        return None, _remark(grid, 1)
    images, note = read_dates(record, scheme, grid)
    maps = {name: _read(folder / f"{name}.tif", longest) for name in _names(scheme)}
    pred, changed = _masks(maps, scheme)
    probability_name = "confidence" if scheme.task == "land_cover" else "change_probability"
    probability = _read(folder / f"{probability_name}.tif", longest)
    name = " → ".join(Path(path).name for path in record.get("images", ())) or folder.name
    step = size[0] / grid.shown[0]
    picture = Picture(name, images, pred, changed=changed, probability=probability, step=step)
    remarks = [_remark(grid, step), record.get("warped"), note]
    return picture, " ".join(str(text) for text in remarks if text)


def _remark(grid: Grid, step: float) -> str:
    """Size and reference system of a map in a sentence or two."""
    crs = f" in {grid.crs.to_string()}" if grid.crs and len(grid.crs.to_string()) < 20 else ""
    smaller = f", drawn 1 : {step:.3g}" if step > 1 else ""
    text = f"{grid.size[1]:,} x {grid.size[0]:,} pixels{crs}{smaller}."
    return text if grid.crs else f"{text} No CRS: areas in pixels only."


def _names(scheme: Scheme) -> tuple[str, ...]:
    if scheme.task == "land_cover":
        return ("classes",)
    return ("change", "date1", "date2") if scheme.classes else ("change",)


def _read(path: Path, longest: int) -> np.ndarray | None:
    return read_bounded(path, longest)[0] if path.exists() else None


def _masks(
    maps: Mapping[str, np.ndarray | None], scheme: Scheme
) -> tuple[np.ndarray, np.ndarray | None]:
    """Masks (D, h, w), IGNORE_INDEX = no data; and the changed pixels (h, w), or None.

    The changed pixels are given only if unchanged pixels also have classes.
    """
    if scheme.task == "land_cover":
        return maps["classes"][None], None
    change = maps["change"]
    if maps.get("date1") is None or maps.get("date2") is None:
        return change[None], None
    dates = np.stack([maps["date1"], maps["date2"]])
    changed = change == 1
    everywhere = ((dates > 0) & (dates != IGNORE_INDEX) & ~changed).any()
    return dates, changed if everywhere else None
