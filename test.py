"""Predict the test tiles: masks for submission, optionally scores and figures.

By default, averages all checkpoints in outdir/models over the six published views.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.build import SCHEME_FLAGS, Source, may_have_trained, open_part, window_options
from datasets.rucode.run_lengths import write_run_lengths
from datasets.samples import SceneSamples
from inference.decide import to_masks, true_masks
from inference.destinations import Destinations, names_to_draw, record_test
from inference.ensemble import Chosen, load_predictors, refuse_several
from inference.outputs import Outputs, write_archives
from inference.overlap import HostCopy, overlap_transfers
from inference.prediction import Area, finished_areas, predict_together, scene_loader
from inference.predictor import Predictor
from inference.threshold_choice import choose_threshold
from inference.time_budget import predict_in_time
from models.checkpoints import trained_split_rule
from options.shared import source_of
from options.test import parse_args
from utils import distributed
from utils.background import BackgroundWriter
from utils.cli import run
from utils.metrics import ConfusionMatrix, confusion_for, metrics_for
from utils.precision import pick_amp
from utils.structures import Scheme

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
        data = source_of(args)
        data.refuse_missing()
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
        refuse_groups(args, data, groups, chosen.paths)
        test(args, data, groups, chosen.paths)


def test(
    args: argparse.Namespace, data: Source, groups: Sequence[Group], paths: Sequence[Path]
) -> None:
    """Predicts all scenes, whole or in blended windows; writes and scores them."""
    (scheme, predictor), where = groups[0], destinations(args)
    where.refuse_pseudo_labels()
    threshold = args.threshold
    if threshold == "auto":
        threshold = best_threshold(args, data, groups, paths)
    scenes = [open_images(args, data, scheme) for scheme, _ in groups]
    loaders = [scene_loader(one, args.test_batch_size, args.num_workers) for one in scenes]
    where.report_replaced()
    confusion = confusion_for(scheme.task, scheme.num_classes, predictor.device)
    drawn = names_to_draw(scenes[0].names, args.figures, args.preview_dir)
    with BackgroundWriter() as writer:
        labels, rle = data.entry.labels, args.rle is not None
        with Outputs(writer, scenes[0], scheme, where, labels, drawn, rle) as outputs:
            predicted = predict(args, groups, loaders, threshold, confusion, outputs)
            # a time limit measures whole batches
            for area, copy in predicted if args.time_limit else overlap_transfers(predicted):
                outputs.write(area, copy)
    counts = distributed.sum_over_ranks(confusion.counts)
    texts = distributed.gather(outputs.texts)
    if distributed.is_main():
        metrics = None
        if args.score:
            where.refuse_empty_labels(counts, scenes[0].path)
            zeros = data.entry.absent_is_zero
            metrics = metrics_for(scheme.task, counts, scheme.num_classes, zeros)
            metrics = metrics if scheme.classes else {"threshold": threshold, **metrics}
        if args.rle is not None:
            write_run_lengths(args.rle, itertools.chain(*texts), scenes[0].names)
            print(f"run lengths in {args.rle}")
        write_archives(data.entry, where, scenes[0])
        record_test(where, f"{len(scenes[0].names)} image(s)", scheme, metrics, vars(args))


def predict(
    args: argparse.Namespace,
    groups: Sequence[Group],
    loaders: Sequence[DataLoader],
    threshold: float,
    confusion: ConfusionMatrix,
    outputs: Outputs,
) -> Iterator[tuple[Area, HostCopy]]:
    """Yields finished areas and their outputs on the host; with --score, updates `confusion`."""
    each = []
    for (_, predictor), loader in zip(groups, loaders, strict=True):
        # probabilities of each batch: the mean over all networks and views
        predicted = predict_in_time(predictor, loader, args.time_limit)
        bar = tqdm(predicted, total=len(loader), unit="batch", disable=not distributed.is_main())
        each.append(finished_areas(bar, loader))
    same_class_change = groups[0][0].same_class_change
    for area in predict_together(each, [len(predictor.members) for _, predictor in groups]):
        masks = to_masks(area.probs, threshold, same_class_change, area.batch.valid)
        if args.score:
            confusion.update(masks, true_masks(area.batch).to(masks.device))
        yield area, outputs.fetch(area, masks)


def refuse_groups(
    args: argparse.Namespace, data: Source, groups: Sequence[Group], paths: Sequence[Path]
) -> None:
    """Raises ValueError if networks cannot be used together or lack a gate."""
    members = [member for _, predictor in groups for member in predictor.members]
    if args.gate and not all(member.network.has_gate for member in members):
        raise ValueError("--gate: only tfinet has a gate; leave it out, or pass --checkpoints")
    if data.entry.task != "binary_change":
        refuse_several(paths, groups)


def best_threshold(
    args: argparse.Namespace, data: Source, groups: Sequence[Group], paths: Sequence[Path]
) -> float:
    """The threshold with the best F1 on the validation scenes (--threshold auto)."""
    rule = args.val_split or trained_split_rule(paths[0]) or data.entry.split_rule
    inputs = [(p, data.build("val", s, split_rule=rule, **windows(args, data))) for s, p in groups]
    return choose_threshold(inputs, rule, Path(args.outdir), args.test_batch_size, args.num_workers)


def open_images(args: argparse.Namespace, data: Source, scheme: Scheme) -> SceneSamples:
    """Opens the scenes to predict."""
    images = open_part(data, part_of(args), scheme, args.score, **windows(args, data))
    if distributed.is_main():
        if args.score and may_have_trained(data, args.split, scheme):
            print(f"note: {data.root_path} has no test/; these images may have trained the network")
        print(f"{len(images.names)} image(s) of {images.path}")
    return images


def part_of(args: argparse.Namespace) -> str:
    """The part of the data set to predict. Here --split is a part; in train.py it is a rule."""
    return args.split or "test"


def windows(args: argparse.Namespace, data: Source) -> dict:
    """Which scenes are divided, and size, overlap and padding of their windows."""
    given = (args.tile_px, args.overlap_px, args.padding, args.whole_px)
    return window_options(data.entry, *given)


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
