"""Makes one map, from its images to its files, which are published when all are complete."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.loader import eval_loader
from datasets.samples import SceneSamples
from inference.prediction import Area, finished_areas, predict_batches
from inference.predictor import Predictor
from maps.areas import PixelAreas
from maps.checks import OLDER, VALUE_FLAGS, MapOptions, file_names, refuse_own_inputs
from maps.layers import Georeference, MapRows, layers_of, map_values
from maps.pairs import MapInput
from maps.polygons import check_crs, write_vectors
from maps.progress import FinishedMaps, WorkFolder
from maps.reader import MapImages, Told
from maps.summary import write_class_summary, write_summary
from maps.vector_files import LAYER, refuse_open
from utils import distributed
from utils.background import BackgroundWriter
from utils.files import explain_full_disks, write_json
from utils.probabilities import stack_probs
from utils.rasters.writing import RowJoiner
from utils.structures import Probs, Scheme

POLYGONS = f"{LAYER}.gpkg"
READERS = 2  # threads that read windows


class MapJob(NamedTuple):
    """A map to make."""

    images: MapInput
    settings: dict[str, Any]  # must be unchanged to resume, see `maps.checks.map_settings`
    options: MapOptions

    @property
    def folder(self) -> Path:
        """Folder of its files."""
        return self.options.out / self.images.name

    def open(self, scheme: Scheme) -> MapImages:
        """Its images."""
        options, images = self.options, self.images.images
        values = [getattr(options, flag) or [None] for flag in VALUE_FLAGS]
        each = [given * len(images) if len(given) == 1 else given for given in values]
        told = [Told(*one) for one in zip(*each, strict=True)]
        return MapImages(images, scheme, options.bands, options.strict_grid, told)


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
            refuse_open(job.folder / POLYGONS)
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


def check_images(job: MapJob, opened: MapImages) -> None:
    """Prints notes on the images; raises ValueError if an option needs a CRS they do not have."""
    image, options = job.images.images[0], job.options
    for note in opened.notes:
        print_once(note)
    placed = None if opened.transform is None else opened.crs
    if opened.scheme.task != "land_cover":
        check_crs(placed, options.vector, options.min_area, options.simplify, image)
    if placed is None:
        print_once(f"{image} does not say where on earth it lies: areas are in pixels only")
    else:
        PixelAreas(opened.crs, opened.transform, opened.height, opened.width)  # or raises


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
    images, work = job.open(scheme), WorkFolder(job.folder)
    scenes = images.samples(job.options.tile_px, job.options.overlap_px)
    if distributed.is_main():
        if message := work.start(job.settings["rows"]):
            print(message)
        if scheme.standardise != "none":
            moments = scenes.reader.moments
            work.keep("moments", lambda: [[x.tolist() for x in pair] for pair in moments(0)])
    distributed.barrier()
    if scheme.standardise != "none":
        pairs = [tuple(map(np.array, pair)) for pair in work.kept("moments")]
        scenes.reader.keep_moments(0, pairs)
    georeference = Georeference(images.height, images.width, images.crs, images.transform)
    tops = sorted({window.top for _, window in scenes.windows})
    map_rows = MapRows(work.rows, layers_of(scheme), georeference, tops)
    missing = map_rows.missing_rows()
    distributed.barrier()  # all ranks must list the missing rows before any rank writes one
    timed = TimedPredictor(predictor)
    predict_rows(job.options, timed, scenes, map_rows, rows_of_rank(missing))
    network_s = max(distributed.gather(timed.seconds), default=0.0)
    distributed.barrier()
    if distributed.is_main():
        maps_s = time.monotonic() - start_s
        with explain_full_disks(work.out):
            write_results(job.options, work, map_rows, scheme)
            seconds = {"maps": maps_s, "network": network_s, "total": time.monotonic() - start_s}
            found = map_record(job, images, scheme, about, seconds)
            write_json(work.ready / "predict.json", found)
            older = OLDER if job.options.overwrite else ()
            refuse_open(job.folder / POLYGONS)  # it may have been opened in the meantime
            done = work.publish(older, job.settings, partial(finished.add, job.images.name))
        size = f"{images.width} x {images.height} px"
        print(f"{size} in {seconds['total']:.0f} s:", *done, sep="\n  ")
    distributed.barrier()


def rows_of_rank(rows: list[int]) -> list[int]:
    """This rank's share of the rows: consecutive ones, so that few are computed twice."""
    rank, world = distributed.rank(), distributed.world()
    return rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]


class TimedPredictor:
    """A Predictor that measures the time spent in the networks.

    Attributes:
        seconds: so far.
    """

    def __init__(self, predictor: Predictor):
        self.predictor, self.device, self.seconds = predictor, predictor.device, 0.0

    def __call__(self, *args: Any, **options: Any) -> Probs:
        """See Predictor; waits for the result."""
        start_s = time.monotonic()
        probs = self.predictor(*args, **options)
        self.predictor.wait()
        self.seconds += time.monotonic() - start_s
        return probs


def predict_rows(
    options: MapOptions,
    predictor: TimedPredictor,
    scenes: SceneSamples,
    map_rows: MapRows,
    rows: Sequence[int],
) -> None:
    """Predicts rows of windows; a background thread writes each finished row.

    The row above each of them is also predicted, because their overlap is blended.
    """
    needed = {map_rows.tops[number] for row in rows for number in (max(row - 1, 0), row)}
    indices = [i for i, (_, window) in enumerate(scenes.windows) if window.top in needed]
    batches = eval_loader(
        scenes, options.test_batch_size, indices=indices, num_workers=READERS, threads=True
    )
    silent = not distributed.is_main() or not rows
    bar = tqdm(total=len(indices), unit="window", disable=silent)
    with bar, BackgroundWriter(threads=1, max_waiting=1) as writer:
        areas = finished_areas(predict_batches(predictor, batches), batches)
        for row, values in rows_of_values(areas, options, scenes.scheme, map_rows, rows, bar):
            writer.submit(map_rows.write, map_rows.folder, row, values)


def rows_of_values(
    areas: Iterable[Area],
    options: MapOptions,
    scheme: Scheme,
    map_rows: MapRows,
    rows: Sequence[int],
    bar: tqdm,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields each of some rows of windows: its number, and its values (h, W) by layer name."""
    joiner = RowJoiner(map_rows.georeference.height, map_rows.georeference.width)
    wanted = {map_rows.tops[row]: row for row in rows}
    decision = options.threshold, options.full_semantics
    for area in areas:
        bar.update()
        if area.top in wanted:
            probs, valid = stack_probs(area.probs)[0], area.batch.valid
            valid = None if valid is None else valid[0]
            values = map_values(probs, valid, scheme, map_rows.layers, *decision)
            for top, strip in joiner.add(area.top, area.left, values):
                yield wanted[top], strip


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
    images: MapImages,
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
        "height": images.height,
        "width": images.width,
        "bands": list(scheme.bands),
        "band_numbers": images.numbers,
        "warped": images.note,
        "notes": images.notes,
        "seconds": {key: round(value, 3) for key, value in seconds.items()},
    }
