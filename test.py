"""Predict the test tiles: masks to submit, and scores and figures where wanted.

`python test.py` averages every checkpoint of outdir/models over the six published views.
"""

import argparse
import itertools
import math
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets import DATASETS, build_dataset, check_dataset, find_scheme
from datasets.layout import parse_folders
from datasets.loader import eval_loader
from datasets.scene_strips import predict_together, sweep_thresholds, true_rows
from models import BACKBONES, NETWORKS
from models.checkpoints import find_checkpoints, load_ensemble, trained_scheme, trained_split
from models.published import LAYOUTS, Published, described
from utils import distributed, options, test_options
from utils.cli import Parser, run
from utils.curves import precision_recall_picture
from utils.evaluation import describe
from utils.files import save_image, write_json
from utils.inference import Predictor, to_device, to_masks
from utils.labelling import RECORD
from utils.metrics import confusion_for, metrics_for, to_json
from utils.precision import pick_amp
from utils.results import draw, submit_gates, submit_masks, submit_probs, tile_images, true_masks
from utils.rle import write_submission
from utils.scenes import ChangeOutput
from utils.structures import Scheme
from utils.time_budget import predict_in_time
from utils.writers import BackgroundWriter, zip_masks

FIGURE_PX = 1024  # longest side of a scene in a figure


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("Predict change (and land cover of both dates).", prog="test.py")
    data = options.add_data_options(parser, DATASETS)
    test_options.add_part_option(data)
    options.add_scene_data_options(data)
    options.add_ensemble_options(parser, NETWORKS, BACKBONES)
    test_options.add_prediction_options(parser)
    test_options.add_scene_options(parser)
    test_options.add_output_options(parser)
    options.add_runtime_options(parser)
    args = parser.parse_args(argv)
    scenes = DATASETS[args.dataset].scenes
    if args.gate and scenes:
        parser.error(
            "--gate: only tfinet has a gate, and it is for tiles with classes; leave it out"
        )
    refused = test_options.TILES_ONLY if scenes else test_options.SCENES_ONLY
    for name in parser.given(argv) & refused:
        parser.error(
            f"--{name.replace('_', '-')} is for data sets of {'tiles' if scenes else 'scenes'}, "
            f"--dataset {args.dataset} is none; leave it out"
        )
    if args.test_batch_size is None:
        args.test_batch_size = 4 if scenes else 16
    if args.threshold == "auto" and not scenes:
        parser.error(
            f"--threshold auto is for data sets of scenes, --dataset {args.dataset} is none; pass "
            "a number"
        )
    return args


def main(argv: list[str] | None = None) -> None:
    """Predicts every tile or scene once."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        paths = [Path(path) for path in args.checkpoints or find_checkpoints(args.outdir)]
        if distributed.is_main():
            print("networks:", *paths, sep="\n  ")
        groups = load_groups(args, paths, device)
        if DATASETS[args.dataset].scenes:
            split = trained_split(paths[0]) or DATASETS[args.dataset].split
            test_scenes(args, groups, args.val_split or split)
        else:
            test_tiles(args, *groups[0])


def load_groups(
    args: argparse.Namespace, paths: list[Path], device: torch.device
) -> list[tuple[Scheme, Predictor]]:
    """The networks, by how they want images to be read: one group of tiles, some of scenes."""
    hints = described(args.model, args.backbone, args.lightweight, len(paths), args.output_stride)
    groups: dict[Scheme, list[int]] = {}
    for i, path in enumerate(paths):
        groups.setdefault(scheme_to_read(args, path, hints[i]), []).append(i)
    return [
        (scheme, load_predictor(args, [(paths[i], hints[i]) for i in chosen], device, scheme))
        for scheme, chosen in groups.items()
    ]


def scheme_to_read(args: argparse.Namespace, path: Path, hint: Published | None) -> Scheme:
    """How a network's images are to be read: of scenes as it was trained, else as the data set."""
    if DATASETS[args.dataset].scenes and args.bands is None:
        own = trained_scheme(path)
        if own is None and args.dataset == "rucode" and hint is not None and hint.model in LAYOUTS:
            own = LAYOUTS[hint.model].scheme
        if own is not None and own.task != DATASETS[args.dataset].task:
            raise ValueError(
                f"{path} was trained for {own.task}, --dataset {args.dataset} is for "
                f"{DATASETS[args.dataset].task}; choose another checkpoint (--checkpoints)"
            )
        if own is not None:
            return own
    folders = parse_folders(args.folders)
    return find_scheme(args.dataset, args.data_root, folders=folders, bands=args.bands)


def load_predictor(
    args: argparse.Namespace,
    networks: list[tuple[Path, Published | None]],
    device: torch.device,
    scheme: Scheme,
) -> Predictor:
    """Networks that read images alike, ready to predict."""
    paths, hints = zip(*networks, strict=True)
    members = load_ensemble(paths, device, scheme, hints, args.compile)
    return Predictor(members, device, pick_amp(args.amp, device), args.tta)


def open_part(args: argparse.Namespace, scheme: Scheme, **windows) -> Dataset:
    """The tiles or scenes to predict, checked.

    Raises:
        DataError, FileNotFoundError, ValueError: see the data set; or --score without labels.
    """
    where = {
        "root": args.data_root,
        "scheme": scheme,
        "folders": parse_folders(args.folders),
        **options.label_coding(args.label_coding),
    }
    part, seen = args.split or "test", Path(args.outdir, "data_check.json")
    scenes = DATASETS[args.dataset].scenes
    if scenes and distributed.is_main():  # whose files are opened when they are built
        check_dataset(args.dataset, [part], seen=seen, **where)
    distributed.barrier()
    tiles = build_dataset(args.dataset, part, **where, **windows)
    if args.score and not tiles.labelled:
        raise ValueError(f"--score: {tiles.path} has no labels; leave out --score")
    if distributed.is_main():
        if not scenes:
            check_dataset(args.dataset, [tiles.part], seen=seen, **where)
        print(f"{len(tiles.names)} {'scenes' if scenes else 'tiles'} of {tiles.path}")
    distributed.barrier()
    return tiles


def test_tiles(args: argparse.Namespace, scheme: Scheme, predictor: Predictor) -> None:
    """Tiles of one size: whole, in batches."""
    part, device = args.split or "test", predictor.device
    folder = Path(args.outdir, "masks", part)
    if (folder / RECORD).exists():
        raise ValueError(
            f"{folder} holds pseudo labels, which these masks would replace; pass another --outdir"
        )
    if args.gate and not all(member.network.has_gate for member in predictor.members):
        raise ValueError("--gate: only tfinet has a gate; leave it out, or pass --checkpoints")
    tiles = open_part(args, scheme)
    batches = eval_loader(
        tiles,
        args.test_batch_size,
        rank=distributed.rank(),
        world=distributed.world(),
        num_workers=args.num_workers,
    )
    if distributed.is_main() and any(folder.glob("im1/*.png")):
        print(f"replacing masks of an earlier test in {folder}")
    drawn = evenly(tiles.names, args.figures)
    probs_folder = Path(args.save_probs or Path(args.outdir, "probs", part))
    confusion = confusion_for(scheme.task, scheme.num_classes, device)
    bar = tqdm(total=len(tiles), unit="pair", disable=not distributed.is_main())
    with BackgroundWriter() as writer:
        for batch, probs in predict_in_time(predictor, batches, args.time_limit):
            masks = to_masks(probs, args.threshold)
            if args.score:
                confusion.update(masks, true_masks(to_device(batch, device)))
            masks = masks.cpu().numpy()
            submit_masks(writer, folder, batch.name, masks, scheme)
            if args.save_probs is not None:
                submit_probs(writer, probs_folder, batch.name, probs)
            if args.gate:
                submit_gates(writer, Path(args.outdir, "gate", part), batch.name, probs)
            for i, name in enumerate(batch.name):
                if name in drawn:
                    truth = true_masks(batch)[i].numpy() if tiles.labelled else None
                    picture = (tile_images(batch.images[i]), masks[i], truth, scheme, name)
                    writer.submit(draw, Path(args.outdir, "figures", part, f"{name}.png"), *picture)
            bar.update(len(batch.name) * distributed.world())
    bar.close()
    counts = distributed.sum_over_ranks(confusion.counts)
    distributed.barrier()
    if distributed.is_main():
        metrics = metrics_for(scheme.task, counts, scheme.num_classes) if args.score else None
        if args.zip is not None:
            path = Path(args.zip or folder.with_suffix(".zip"))
            print(f"{zip_masks(path, folder, tiles.names)} masks packed in {path}")
        finish(args, part, folder, tiles.names, metrics)


def test_scenes(
    args: argparse.Namespace, groups: list[tuple[Scheme, Predictor]], val_split: str
) -> None:
    """Scenes of any size: in blended windows, written strip by strip."""
    part, (scheme, predictor) = args.split or "test", groups[0]
    threshold = args.threshold
    if threshold == "auto":
        threshold = choose_threshold(args, groups, val_split)
    views = [(p, open_part(args, s, **grid_options(args))) for s, p in groups]
    scenes, reader = views[0][1], views[0][1].reader
    folder, probs_folder = Path(args.outdir, "masks", part), args.save_probs
    if probs_folder == "":
        probs_folder = Path(args.outdir, "probs", part)
    drawn = evenly(scenes.names, args.figures)
    confusion, texts = confusion_for(scheme.task, 0, predictor.device), []
    for i, strips in predict_together(views, args.test_batch_size, args.num_workers):
        name, geotiff, shape = scenes.names[i], reader.is_geotiff(i), reader.shapes[i]
        step = -(-max(shape) // FIGURE_PX) if name in drawn else 0
        with ChangeOutput(
            shape,
            folder / f"{name}{'.tif' if geotiff else '.png'}",
            probs_folder and Path(probs_folder, f"{name}{'.tif' if geotiff else '.npz'}"),
            threshold=threshold,
            palette=scheme.palette,
            rle=args.rle is not None,
            preview_step=step,
            **reader.place(i),
        ) as out:
            for strip in strips:
                mask = out.write(strip.top, strip.values[-1])
                if args.score:
                    confusion.update(mask, true_rows(scenes, i, strip))
        (folder / f"{name}{'.png' if geotiff else '.tif'}").unlink(missing_ok=True)  # an older mask
        if out.encoder is not None:
            texts.append((name, out.encoder.text()))
        if step:
            images, truth = reader.preview(i, step)
            truth = truth[None] if scenes.labelled else None
            picture = (tile_images(torch.from_numpy(images)), out.preview[None], truth)
            picture = (*picture, scheme, name)
            draw(Path(args.outdir, "figures", part, f"{name}.png"), *picture)
    counts = distributed.sum_over_ranks(confusion.counts)
    texts = distributed.gather(texts)
    if distributed.is_main():
        metrics = None
        if args.score:
            metrics = {"threshold": threshold, **metrics_for(scheme.task, counts, 0)}
        if args.rle is not None:
            write_submission(args.rle, itertools.chain(*texts), scenes.names)
            print(f"run lengths in {args.rle}")
        finish(args, part, folder, scenes.names, metrics, "scene(s)")


def grid_options(args: argparse.Namespace) -> dict:
    """The windows of a scene."""
    overlap_px = args.tile_px // 4 if args.overlap_px is None else args.overlap_px
    return {"tile_px": args.tile_px, "overlap_px": overlap_px, "padding": args.padding}


def choose_threshold(
    args: argparse.Namespace, groups: list[tuple[Scheme, Predictor]], split: str
) -> float:
    """The threshold with the best F1 on the validation scenes; writes its curve."""
    views = []
    for scheme, predictor in groups:
        scenes = build_dataset(
            args.dataset,
            "val",
            args.data_root,
            scheme=scheme,
            folders=parse_folders(args.folders),
            split=split,
            **grid_options(args),
            **options.label_coding(args.label_coding),
        )
        views.append((predictor, scenes))
    result = sweep_thresholds(views, args.test_batch_size, args.num_workers)
    if math.isnan(result["threshold"]):
        raise ValueError(
            "--threshold auto: no pixel of the validation scenes changed, so none is better than "
            "another; pass a number, or choose other scenes with --val-split"
        )
    if distributed.is_main():
        path = Path(args.outdir, "metrics", "threshold.json")
        write_json(path, to_json(result))
        save_image(path.with_suffix(".png"), precision_recall_picture(result))
        print(
            f"threshold {result['threshold']:.3f}: F1 {result['f1']:.2%} on {len(scenes.names)} "
            f"validation scene(s) of --val-split {split}; its curve in {path.with_suffix('.png')}"
        )
    return result["threshold"]


def evenly(names: list[str], count: int) -> set[str]:
    """`count` of the names (or all), at equal distances."""
    count = min(max(count, 0), len(names))
    return {names[i * len(names) // count] for i in range(count)}


def finish(
    args: argparse.Namespace,
    part: str,
    folder: Path,
    names: list[str],
    metrics: dict | None,
    what: str = "tiles",
) -> None:
    """Writes the scores, and says where everything lies."""
    print(f"{len(names)} {what}: masks in {folder}")
    if args.save_probs is not None:
        print(f"probabilities in {args.save_probs or Path(args.outdir, 'probs', part)}")
    if args.figures:
        print(f"figures in {Path(args.outdir, 'figures', part)}")
    if args.gate:
        print(f"heat maps of the gate in {Path(args.outdir, 'gate', part)}")
    if metrics is not None:
        path = Path(args.outdir, "metrics", f"{part}.json")
        write_json(path, to_json(metrics))
        if "threshold" in metrics:
            print(f"at threshold {metrics['threshold']:g}:")
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float) and k != "threshold"}
        print(describe(numbers))
        print(f"scores in {path}")


if __name__ == "__main__":
    run(main)
