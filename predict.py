"""Maps of change, or of land cover, from georeferenced images of any size.

`python predict.py BEFORE.tif AFTER.tif --checkpoints NETWORK.pth --out DIR`
"""

from commands.predict import parse_args
from utils.cli import run

if __name__ == "__main__":
    run(parse_args)  # --help and mistakes are answered here: what follows takes seconds to import

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.map_pairs import MapInput, find_maps
from datasets.map_reader import MapReader
from datasets.map_strips import MapPredictor
from models.checkpoints import find_checkpoints, load_ensemble, trained_scheme
from models.published import LAYOUTS, Published, described
from utils import distributed, predict_checks
from utils.areas import PixelAreas
from utils.files import told_of_full_disks, write_json
from utils.inference import Predictor
from utils.map_blender import PieceBlender
from utils.map_progress import FinishedMaps, WorkFolder
from utils.maps import Georeference, MapParts, layers_of, map_values
from utils.precision import pick_amp
from utils.report import write_report
from utils.structures import Scheme
from utils.summary import write_class_summary, write_summary
from utils.vectors import check_crs, write_vectors
from utils.writers import BackgroundWriter


def main(argv: list[str] | None = None) -> None:
    """Checks everything, then makes one map after another."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        paths = [Path(path) for path in args.checkpoints or find_checkpoints(args.outdir)]
        hints = described(
            args.model, args.backbone, args.lightweight, len(paths), args.output_stride
        )
        scheme = find_scheme(paths[0], hints[0])
        maps = [
            (one, predict_checks.settings(args, one.images, paths, device))
            for one in find_maps(args.inputs, scheme.num_dates)
        ]
        finished = check(args, maps, scheme)
        members = load_ensemble(paths, device, scheme, hints, args.compile)
        predictor = Predictor(members, device, pick_amp(args.amp, device), args.tta)
        say("networks:", *paths, sep="\n  ")
        for number, (one, rules) in enumerate(maps, start=1):
            say(f"map {number} of {len(maps)}:", *map(str, one.images))
            if finished.has(one.name, rules):
                say("finished before the run was interrupted")
            else:
                make_map(args, one, rules, predictor, scheme, finished)
        if distributed.is_main():
            if args.report:
                folders = [Path(args.out, one.name) for one, _ in maps]
                print(write_report(args.out, maps=folders))
            finished.remove()


def say(*words: object, **how: Any) -> None:
    """Prints, on the first rank."""
    if distributed.is_main():
        print(*words, **how)


def find_scheme(path: Path, hint: Published | None) -> Scheme:
    """What the networks read and find: as the first of them was trained."""
    scheme = trained_scheme(path)
    if scheme is None and hint is not None and hint.model in LAYOUTS:
        scheme = LAYOUTS[hint.model].scheme
    if scheme is None:
        raise ValueError(
            f"{path} does not say what it was trained on: say what it is with --model and "
            "--backbone, or put its args.pkl beside it"
        )
    return scheme


def check(
    args: argparse.Namespace, maps: list[tuple[MapInput, dict]], scheme: Scheme
) -> FinishedMaps:
    """Raises ValueError or OSError for whatever would go wrong, before any work.

    Returns:
        The maps that an interrupted run has finished.
    """
    predict_checks.check_options(args, scheme)
    names = predict_checks.file_names(args, scheme)
    folders = [Path(args.out, one.name) for one, _ in maps]
    if distributed.is_main():
        earlier = FinishedMaps(Path(args.out))
        for (one, _), folder in zip(maps, folders, strict=True):
            WorkFolder(folder).finish_publishing(partial(earlier.add, one.name))
    distributed.barrier()
    finished = FinishedMaps(Path(args.out))
    for (one, rules), folder in zip(maps, folders, strict=True):
        predict_checks.refuse_own_inputs(args, one.images, folder, names)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is a file; name a folder")
        there = [name for name in names if (folder / name).exists()]
        finished.forget_unless("predict.json" in there, one.name)
        if there and not args.overwrite and not finished.has(one.name, rules):
            raise ValueError(
                f"{folder} has {', '.join(there)} already; pass --overwrite to replace the map, or "
                "another --out"
            )
        check_images(args, one, open_images(args, one, scheme))
    return finished


def check_images(args: argparse.Namespace, one: MapInput, reader: MapReader) -> None:
    """Says what is special about the images; raises ValueError if results are asked in vain."""
    for note in reader.notes:
        say(note)
    placed = None if reader.transform is None else reader.crs
    if reader.scheme.task != "land_cover":
        check_crs(placed, args.vector, args.min_area, args.simplify, one.images[0])
    if placed is None:
        say(f"{one.images[0]} does not say where on earth it lies: areas are in pixels only")
    else:
        PixelAreas(reader.crs, reader.transform, reader.height, reader.width)  # or raises


def open_images(args: argparse.Namespace, one: MapInput, scheme: Scheme) -> MapReader:
    """The images of a map."""
    return MapReader(one.images, scheme, args.bands, args.strict_grid)


def make_map(
    args: argparse.Namespace,
    one: MapInput,
    rules: dict[str, Any],
    predictor: Predictor,
    scheme: Scheme,
    finished: FinishedMaps,
) -> None:
    """One map, from the first window to the last file."""
    start_s = time.monotonic()
    reader, work = open_images(args, one, scheme), WorkFolder(Path(args.out, one.name))
    if distributed.is_main():
        told = work.start(rules["parts"])
        if told:
            print(told)
        if scheme.standardise != "none":
            work.keep("moments", lambda: [[x.tolist() for x in pair] for pair in reader.measure()])
    distributed.barrier()
    if scheme.standardise != "none":
        reader.moments = [tuple(map(np.array, pair)) for pair in work.kept("moments")]
    blender = PieceBlender(reader.height, reader.width, args.tile_px, args.overlap_px)
    place = Georeference(reader.height, reader.width, reader.crs, reader.transform)
    parts = MapParts(work.parts, layers_of(scheme), place, blender.tops)
    missing = parts.missing()
    distributed.barrier()  # nobody writes before all have looked
    machine = MapPredictor(predictor, reader, blender, args.test_batch_size)
    predict_parts(args, machine, parts, share(missing), scheme)
    network_s = max(distributed.gather(machine.network_s), default=0.0)
    distributed.barrier()
    if distributed.is_main():
        maps_s = time.monotonic() - start_s
        with told_of_full_disks(work.out):
            finish(args, work, parts, scheme)
            seconds = {"maps": maps_s, "network": network_s, "total": time.monotonic() - start_s}
            write_json(work.ready / "predict.json", describe(args, one, reader, scheme, seconds))
            older = predict_checks.OLDER if args.overwrite else ()
            done = work.publish(older, rules, partial(finished.add, one.name))
        size = f"{reader.width} x {reader.height} px"
        print(f"{size} in {seconds['total']:.0f} s:", *done, sep="\n  ")
    distributed.barrier()


def share(rows: list[int]) -> list[int]:
    """This rank's of the rows, one run of them, so that few are computed twice."""
    rank, world = distributed.rank(), distributed.world()
    return rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]


def predict_parts(
    args: argparse.Namespace,
    machine: MapPredictor,
    parts: MapParts,
    rows: list[int],
    scheme: Scheme,
) -> None:
    """Predicts rows of windows, and writes each in the background when it is finished."""
    bar = tqdm(
        total=machine.count(rows),
        unit="window",
        disable=not distributed.is_main() or not rows,
    )
    with bar, BackgroundWriter(threads=1, max_waiting=1) as writer:
        for row, values in finished_rows(args, machine, parts, rows, bar, scheme):
            writer.submit(parts.write, parts.folder, row, values)


def finished_rows(
    args: argparse.Namespace,
    machine: MapPredictor,
    parts: MapParts,
    rows: Sequence[int],
    bar: tqdm,
    scheme: Scheme,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(row, its maps by name) of each row of windows."""
    row, values = None, {}
    for patch in machine.predict(rows, bar):
        if patch.row != row:
            if row is not None:
                yield row, values
            row, values = patch.row, parts.empty(patch.row)
        rules = args.threshold, args.full_semantics
        found = map_values(patch.piece.values, patch.valid, scheme, parts.layers, *rules)
        columns = slice(patch.piece.left, patch.piece.left + patch.piece.values.shape[2])
        for name, rectangle in found.items():
            values[name][:, columns] = rectangle
    if row is not None:
        yield row, values


def finish(args: argparse.Namespace, work: WorkFolder, parts: MapParts, scheme: Scheme) -> None:
    """The parts of a map -> finished files, not yet under their final names."""
    for layer in tqdm(parts.layers, unit="file", desc="writing maps"):
        parts.join(layer, work.ready / f"{layer.name}.tif")
        (work.ready / f"{layer.name}.qml").write_text(layer.style(), encoding="utf-8")
    if scheme.task == "land_cover":
        write_class_summary(work.ready, work.ready / "classes.tif", scheme)
        return
    dates = [work.ready / f"{name}.tif" for name in ("date1", "date2") if scheme.classes]
    codes = work.ready / ("transition.tif" if scheme.classes else "change.tif")
    if args.vector:
        write_vectors(
            work.ready,
            codes,
            work.ready / "change_probability.tif",
            scheme,
            min_area_m2=args.min_area,
            simplify_m=args.simplify,
            formats=tuple(args.vector),
        )
    write_summary(work.ready, codes, scheme, *dates)


def describe(
    args: argparse.Namespace,
    one: MapInput,
    reader: MapReader,
    scheme: Scheme,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """predict.json: what the map was made of."""
    return {
        "images": [str(path.resolve()) for path in one.images],
        "checkpoints": [str(path) for path in args.checkpoints or find_checkpoints(args.outdir)],
        "options": {name: value for name, value in vars(args).items() if name != "change_only"},
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


if __name__ == "__main__":
    run(main, "(the same command goes on where this stopped)")
