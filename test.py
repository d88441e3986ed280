"""Predict the test tiles: masks for submission, optionally scores and figures.

By default, averages all checkpoints in outdir/models over the six published views.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.build import SCHEME_FLAGS, Source, may_have_trained, open_part
from datasets.layout import parse_folders
from datasets.loader import eval_loader
from datasets.rucode.run_lengths import write_submission
from inference.decide import to_masks, true_masks
from inference.destinations import Destinations, finish_test, names_to_draw
from inference.ensemble import Chosen, load_predictors, refuse_several
from inference.outputs import SceneOutputs, TileOutputs, write_submissions
from inference.overlap import HostCopy, overlap_transfers
from inference.predictor import Predictor
from inference.strips import predict_together, true_rows
from inference.threshold_choice import choose_threshold
from inference.time_budget import predict_in_time
from models.checkpoints import trained_split
from options.test import parse_args
from utils import distributed
from utils.background import BackgroundWriter
from utils.cli import run
from utils.metrics import ConfusionMatrix, confusion_for, metrics_for
from utils.precision import pick_amp
from utils.structures import Sample, Scheme, to_device

Group = tuple[Scheme, Predictor]  # networks that read images in the same way


def main(argv: list[str] | None = None) -> None:
    """Predicts every tile or scene of the test part."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        networks = (args.model, args.backbone, args.lightweight, args.output_stride)
        chosen = Chosen.of(args.checkpoints, args.outdir, *networks)
        if distributed.is_main():
            print("networks:", *chosen.paths, sep="\n  ")
        folders = parse_folders(args.folders)
        data = Source(args.dataset, args.data_root, folders, args.label_coding, args.outdir)
        groups = load_predictors(
            chosen,
            data,
            device,
            bands=args.bands,
            flags={name: getattr(args, name) for name in SCHEME_FLAGS},
            amp=pick_amp(args.amp, device),
            tta=args.tta,
            compiled=args.compile,
        )
        if data.entry.scenes:
            rule = args.val_split or trained_split(chosen.paths[0]) or data.entry.split
            test_scenes(args, data, groups, rule)
        else:
            refuse_several(chosen.paths, groups)
            test_tiles(args, data, *groups[0])


def test_tiles(
    args: argparse.Namespace, data: Source, scheme: Scheme, predictor: Predictor
) -> None:
    """Predicts whole tiles in batches, writes and scores them."""
    where = destinations(args)
    where.refuse_pseudo_labels()
    if args.gate and not all(member.network.has_gate for member in predictor.members):
        raise ValueError("--gate: only tfinet has a gate; leave it out, or pass --checkpoints")
    tiles = open_images(args, data, scheme)
    shares = {"rank": distributed.rank(), "world": distributed.world()}
    batches = eval_loader(tiles, args.test_batch_size, num_workers=args.num_workers, **shares)
    where.report_replaced()
    confusion = confusion_for(scheme.task, scheme.num_classes, predictor.device)
    unit = "pair" if scheme.num_dates == 2 else "tile"
    bar = tqdm(total=len(tiles), unit=unit, disable=not distributed.is_main())
    with BackgroundWriter() as writer:
        drawn = names_to_draw(tiles.names, args.figures, args.preview_dir)
        outputs = TileOutputs(writer, tiles, scheme, where, data.entry.labels, drawn)
        predicted = predict_tiles(args, predictor, batches, confusion, outputs)
        # a time limit measures whole batches
        for batch, copy in predicted if args.time_limit else overlap_transfers(predicted):
            outputs.write(batch, copy)
            bar.update(len(batch.name) * distributed.world())
    bar.close()
    counts = distributed.sum_over_ranks(confusion.counts)
    distributed.barrier()
    if distributed.is_main():
        metrics = None
        if args.score:
            where.refuse_empty_labels(counts, tiles.path)
            zeros = data.entry.absent_is_zero
            metrics = metrics_for(scheme.task, counts, scheme.num_classes, zeros)
        write_submissions(data.entry, where, tiles)
        finish_test(where, f"{len(tiles.names)} tiles", scheme, metrics, vars(args))


def predict_tiles(
    args: argparse.Namespace,
    predictor: Predictor,
    batches: DataLoader,
    confusion: ConfusionMatrix,
    outputs: TileOutputs,
) -> Iterator[tuple[Sample, HostCopy]]:
    """Yields each batch and its outputs on the host; with --score, also updates `confusion`."""
    # probs: the mean over all networks and views
    for batch, probs in predict_in_time(predictor, batches, args.time_limit):
        masks = to_masks(probs, args.threshold)
        if args.score:
            confusion.update(masks, true_masks(to_device(batch, predictor.device)))
        yield batch, outputs.fetch(probs, masks)


def test_scenes(
    args: argparse.Namespace, data: Source, groups: Sequence[Group], val_rule: str
) -> None:
    """Predicts scenes of any size in blended windows, written strip by strip."""
    where, (scheme, predictor), threshold = destinations(args), groups[0], args.threshold
    reading = {"batch_size": args.test_batch_size, "num_workers": args.num_workers}
    if threshold == "auto":
        inputs = [(p, data.build("val", s, split=val_rule, **windows(args))) for s, p in groups]
        threshold = choose_threshold(inputs, val_rule, Path(args.outdir), **reading)
    inputs = [(p, open_images(args, data, s)) for s, p in groups]
    scenes = inputs[0][1]
    drawn = names_to_draw(scenes.names, args.figures, args.preview_dir)
    confusion = confusion_for(scheme.task, 0, predictor.device)
    outputs = SceneOutputs(scenes, scheme, where, drawn, rle=args.rle is not None)
    for i, strips in predict_together(inputs, **reading):
        with outputs.open(i) as out:
            for strip in strips:  # the mean over all networks and views, blended
                change = strip.values[-1]
                mask = (change > threshold).to(torch.uint8)
                out.write(strip.top, change, mask)
                if args.score:
                    confusion.update(mask, true_rows(scenes, i, strip))
    counts = distributed.sum_over_ranks(confusion.counts)
    texts = distributed.gather(outputs.texts)
    if distributed.is_main():
        metrics = None
        if args.score:
            metrics = {"threshold": threshold, **metrics_for(scheme.task, counts, 0)}
        if args.rle is not None:
            write_submission(args.rle, itertools.chain(*texts), scenes.names)
            print(f"run lengths in {args.rle}")
        finish_test(where, f"{len(scenes.names)} scene(s)", scheme, metrics, vars(args))


def open_images(args: argparse.Namespace, data: Source, scheme: Scheme) -> Dataset:
    """Opens the tiles, or windows of scenes, to predict."""
    cut = windows(args) if data.entry.scenes else {}
    images = open_part(data, part_of(args), scheme, args.score, **cut)
    if distributed.is_main():
        if args.score and may_have_trained(data, args.split):
            print(f"note: {args.data_root} has no test/; these images may have trained the network")
        kind = "scenes" if data.entry.scenes else "tiles"
        print(f"{len(images.names)} {kind} of {images.path}")
    return images


def part_of(args: argparse.Namespace) -> str:
    """The part of the data set to predict. Here --split is a part; in train.py it is a rule."""
    return args.split or "test"


def windows(args: argparse.Namespace) -> dict:
    """Window size, overlap and padding for scenes."""
    overlap_px = args.tile_px // 4 if args.overlap_px is None else args.overlap_px
    return {"tile_px": args.tile_px, "overlap_px": overlap_px, "padding": args.padding}


def destinations(args: argparse.Namespace) -> Destinations:
    """Output paths of the test."""
    return Destinations.of(
        args.outdir,
        part_of(args),
        save_probs=args.save_probs,
        archive=args.zip,
        table=args.pkl,
        gate=args.gate,
        figures=args.figures,
        preview_dir=args.preview_dir,
        score=args.score,
    )


if __name__ == "__main__":
    run(
        main, "(the masks are partly new, partly of an earlier test if there was one; run it again)"
    )
