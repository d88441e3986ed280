"""Makes one map, from its images to its files, which are published when all are complete."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from inference.blending import Blender
from inference.predictor import Predictor
from maps.areas import PixelAreas
from maps.checks import OLDER, MapOptions, file_names, refuse_own_inputs
from maps.layers import Georeference, MapRows, layers_of, map_values
from maps.pairs import MapInput
from maps.polygons import check_crs, write_vectors
from maps.progress import FinishedMaps, WorkFolder
from maps.reader import MapReader
from maps.strips import MapPredictor
from maps.summary import write_class_summary, write_summary
from utils import distributed
from utils.background import BackgroundWriter
from utils.files import explain_full_disks, write_json
from utils.structures import Scheme


class MapJob(NamedTuple):
    """A map to make."""

    images: MapInput
    settings: dict[str, Any]  # must be unchanged to resume, see `maps.checks.map_settings`
    options: MapOptions

    @property
    def folder(self) -> Path:
        """Folder of its files."""
        return self.options.out / self.images.name

    def open(self, scheme: Scheme) -> MapReader:
        """A reader of its images."""
        return MapReader(self.images.images, scheme, self.options.bands, self.options.strict_grid)


def print_once(*words: object, **how: Any) -> None:
    """Prints on the first rank only."""
    if distributed.is_main():
        print(*words, **how)


def check_jobs(jobs: Sequence[MapJob], checkpoints: Sequence[Path], scheme: Scheme) -> FinishedMaps:
    """Checks all jobs before any work; raises ValueError or OSError for the first problem.

    Args:
        jobs: at least one.
        checkpoints: of the command line.
        scheme: of the networks.

    Returns:
        The maps that an interrupted run has already finished.
    """
    options = jobs[0].options
    names = file_names(options.vector, scheme)
    if distributed.is_main():
        earlier = FinishedMaps(options.out)
        for job in jobs:
            WorkFolder(job.folder).finish_publishing(partial(earlier.add, job.images.name))
    distributed.barrier()
    finished = FinishedMaps(options.out)
    for job in jobs:
        refuse_own_inputs(job.images.images, checkpoints, job.folder, names)
        if job.folder.exists() and not job.folder.is_dir():
            raise ValueError(f"--out {job.folder} is a file; name a folder")
        there = [name for name in names if (job.folder / name).exists()]
        finished.forget_unless("predict.json" in there, job.images.name)
        if there and not options.overwrite and not finished.has(job.images.name, job.settings):
            raise ValueError(
                f"{job.folder} has {', '.join(there)} already; pass --overwrite to replace the "
                "map, or another --out"
            )
        check_images(job, job.open(scheme))
    return finished


def check_images(job: MapJob, reader: MapReader) -> None:
    """Prints notes on the images; raises ValueError if an option needs a CRS they do not have."""
    image, options = job.images.images[0], job.options
    for note in reader.notes:
        print_once(note)
    placed = None if reader.transform is None else reader.crs
    if reader.scheme.task != "land_cover":
        check_crs(placed, options.vector, options.min_area, options.simplify, image)
    if placed is None:
        print_once(f"{image} does not say where on earth it lies: areas are in pixels only")
    else:
        PixelAreas(reader.crs, reader.transform, reader.height, reader.width)  # or raises


def make_map(
    job: MapJob,
    predictor: Predictor,
    scheme: Scheme,
    finished: FinishedMaps,
    about: Mapping[str, Any],
) -> None:
    """Makes one map, from the first window to the last file.

    Args:
        job: images and options of the map.
        predictor: of the networks.
        scheme: of the networks.
        finished: the map is added to it at the end.
        about: description of networks and options, copied to predict.json.
    """
    start_s = time.monotonic()
    reader, work = job.open(scheme), WorkFolder(job.folder)
    if distributed.is_main():
        if message := work.start(job.settings["rows"]):
            print(message)
        if scheme.standardise != "none":
            work.keep("moments", lambda: [[x.tolist() for x in pair] for pair in reader.measure()])
    distributed.barrier()
    if scheme.standardise != "none":
        reader.moments = [tuple(map(np.array, pair)) for pair in work.kept("moments")]
    windows = (job.options.tile_px, job.options.overlap_px)
    blender = Blender(reader.height, reader.width, *windows)
    georeference = Georeference(reader.height, reader.width, reader.crs, reader.transform)
    map_rows = MapRows(work.rows, layers_of(scheme), georeference, blender.tops)
    missing = map_rows.missing_rows()
    distributed.barrier()  # all ranks must list the missing rows before any rank writes one
    map_predictor = MapPredictor(predictor, reader, blender, job.options.test_batch_size)
    predict_rows(job.options, map_predictor, map_rows, rows_of_rank(missing), scheme)
    network_s = max(distributed.gather(map_predictor.network_s), default=0.0)
    distributed.barrier()
    if distributed.is_main():
        maps_s = time.monotonic() - start_s
        with explain_full_disks(work.out):
            write_results(job.options, work, map_rows, scheme)
            seconds = {"maps": maps_s, "network": network_s, "total": time.monotonic() - start_s}
            found = map_record(job, reader, scheme, about, seconds)
            write_json(work.ready / "predict.json", found)
            older = OLDER if job.options.overwrite else ()
            done = work.publish(older, job.settings, partial(finished.add, job.images.name))
        size = f"{reader.width} x {reader.height} px"
        print(f"{size} in {seconds['total']:.0f} s:", *done, sep="\n  ")
    distributed.barrier()


def rows_of_rank(rows: list[int]) -> list[int]:
    """This rank's share of the rows: consecutive ones, so that few are computed twice."""
    rank, world = distributed.rank(), distributed.world()
    return rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]


def predict_rows(
    options: MapOptions,
    map_predictor: MapPredictor,
    map_rows: MapRows,
    rows: list[int],
    scheme: Scheme,
) -> None:
    """Predicts rows of windows; a background thread writes each finished row."""
    bar = tqdm(
        total=map_predictor.count(rows),
        unit="window",
        disable=not distributed.is_main() or not rows,
    )
    with bar, BackgroundWriter(threads=1, max_waiting=1) as writer:
        for row, values in finished_rows(options, map_predictor, map_rows, rows, bar, scheme):
            writer.submit(map_rows.write, map_rows.folder, row, values)


def finished_rows(
    options: MapOptions,
    map_predictor: MapPredictor,
    map_rows: MapRows,
    rows: Sequence[int],
    bar: tqdm,
    scheme: Scheme,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields each row of windows: its number, and its values (h, W) by layer name."""
    row, values = None, {}
    for area in map_predictor.predict(rows, bar):
        if area.row != row:
            if row is not None:
                yield row, values
            row, values = area.row, map_rows.empty(area.row)
        decision = options.threshold, options.full_semantics
        found = map_values(area.piece.values, area.valid, scheme, map_rows.layers, *decision)
        columns = slice(area.piece.left, area.piece.left + area.piece.values.shape[2])
        for name, rectangle in found.items():
            values[name][:, columns] = rectangle
    if row is not None:
        yield row, values


def write_results(options: MapOptions, work: WorkFolder, map_rows: MapRows, scheme: Scheme) -> None:
    """Writes the final files of a map, from its rows, into `work.ready`."""
    for layer in tqdm(map_rows.layers, unit="file", desc="writing maps"):
        map_rows.join(layer, work.ready / f"{layer.name}.tif")
        (work.ready / f"{layer.name}.qml").write_text(layer.style(), encoding="utf-8")
    if scheme.task == "land_cover":
        write_class_summary(work.ready, work.ready / "classes.tif", scheme)
        return
    dates = [work.ready / f"{name}.tif" for name in ("date1", "date2") if scheme.classes]
    codes = work.ready / ("transition.tif" if scheme.classes else "change.tif")
    if options.vector:
        write_vectors(
            work.ready,
            codes,
            work.ready / "change_probability.tif",
            scheme,
            min_area_m2=options.min_area,
            simplify_m=options.simplify,
            formats=options.vector,
        )
    write_summary(work.ready, codes, scheme, *dates)


def map_record(
    job: MapJob,
    reader: MapReader,
    scheme: Scheme,
    about: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The content of predict.json."""
    return {
        "images": [str(path.resolve()) for path in job.images.images],
        **about,
        "task": scheme.task,
        "classes": list(scheme.classes),
        "palette": [list(colour) for colour in scheme.palette],
        "height": reader.height,
        "width": reader.width,
        "bands": list(scheme.bands),
        "band_numbers": reader.numbers,
        "warped": reader.note,
        "seconds": {key: round(value, 3) for key, value in seconds.items()},
    }
