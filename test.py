"""Predict the test tiles: masks to submit, and scores and figures where wanted.

`python test.py` averages every checkpoint of outdir/models over the six published views.
"""

from commands.test import parse_args
from utils.cli import run

if __name__ == "__main__":
    run(parse_args)  # --help and mistakes are answered here: what follows takes seconds to import

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets import DATASETS, DatasetEntry, find_scheme, reads_as_trained
from datasets.layout import parse_folders
from datasets.loader import eval_loader
from datasets.prediction_data import open_part, open_validation
from datasets.scene_strips import predict_together, sweep_thresholds, true_rows
from models.checkpoints import find_checkpoints, load_ensemble, trained_scheme, trained_split
from models.published import LAYOUTS, Published, described
from utils import distributed
from utils.curves import precision_recall_picture
from utils.evaluation import describe
from utils.files import save_image, write_json
from utils.inference import Predictor, to_device, to_masks
from utils.labelling import RECORD, TEST_RECORDS
from utils.metrics import ConfusionMatrix, confusion_for, metrics_for, to_json
from utils.overlap import HostCopy, one_behind
from utils.precision import pick_amp
from utils.results import draw, tile_images, true_masks
from utils.rle import write_submission
from utils.scenes import ChangeOutput
from utils.schemes import S1_BANDS, S2_BANDS
from utils.structures import Sample, Scheme
from utils.submission import read_masks, to_png, write_pkl
from utils.tile_outputs import TileOutputs
from utils.time_budget import predict_in_time
from utils.writers import BackgroundWriter, zip_files

FIGURE_PX = 1024  # longest side of a scene in a figure


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
            refuse_several(paths, groups)
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


def refuse_several(paths: list[Path], groups: list[tuple[Scheme, Predictor]]) -> None:
    """Raises ValueError if the networks read tiles in several ways."""
    if len(groups) > 1:
        ways = "; ".join(f"{' '.join(s.bands)} ({len(s.classes)} classes)" for s, _ in groups)
        raise ValueError(
            f"{', '.join(map(str, paths))} read other bands or know other classes: {ways}. Only "
            "networks that are alike are averaged; choose some with --checkpoints"
        )


def scheme_to_read(args: argparse.Namespace, path: Path, hint: Published | None) -> Scheme:
    """How a network's images are to be read: as it was trained, or else as the data set says."""
    if reads_as_trained(args.dataset, vars(args)):
        own = trained_scheme(path)
        if own is None and args.dataset == "rucode" and hint is not None and hint.model in LAYOUTS:
            own = LAYOUTS[hint.model].scheme
        if own is not None and own.task != DATASETS[args.dataset].task:
            raise ValueError(
                f"{path} was trained for {own.task}, --dataset {args.dataset} is for "
                f"{DATASETS[args.dataset].task}; choose another checkpoint (--checkpoints)"
            )
        foreign = own is not None and not reads(args.dataset, own)
        if foreign:
            raise ValueError(
                f"{path} was trained on {' '.join(own.bands)}, which --dataset {args.dataset} does "
                "not have; choose another checkpoint (--checkpoints), or another --outdir"
            )
        if own is not None:
            return own
        if DATASETS[args.dataset].scheme_options:
            raise ValueError(
                f"{path} does not say which bands and classes it has, and no args.pkl lies beside "
                "it; say so with --use-s1, --use-s2hr, --use-s2mr, --use-s2lr, --no-savanna, and "
                "which network it is with --model and --backbone"
            )
    folders = parse_folders(args.folders)
    return find_scheme(
        args.dataset, args.data_root, folders=folders, bands=args.bands, flags=vars(args)
    )


def reads(dataset: str, scheme: Scheme) -> bool:
    """Whether a data set may have the bands of a scheme."""
    sentinel = set(scheme.bands) <= {*S2_BANDS, *S1_BANDS}
    return sentinel or not DATASETS[dataset].scheme_options


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


def test_tiles(args: argparse.Namespace, scheme: Scheme, predictor: Predictor) -> None:
    """Whole tiles, in batches."""
    part, device, entry = args.split or "test", predictor.device, DATASETS[args.dataset]
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
    if distributed.is_main() and any(folder.rglob("*.*")):
        print(f"replacing masks of an earlier test in {folder}")
    confusion = confusion_for(scheme.task, scheme.num_classes, device)
    unit = "pair" if scheme.num_dates == 2 else "tile"
    bar = tqdm(total=len(tiles), unit=unit, disable=not distributed.is_main())
    with BackgroundWriter() as writer:
        outputs = TileOutputs(
            writer,
            tiles,
            scheme,
            folder,
            labels=entry.load().labels,
            probs=probs_folder(args),
            gates=Path(args.outdir, "gate", part) if args.gate else None,
            figures=figures_folder(args),
            drawn=names_to_draw(args, tiles.names),
        )
        predicted = predict_tiles(args, predictor, batches, confusion, outputs)
        # a time limit measures whole batches
        for batch, copy in predicted if args.time_limit else one_behind(predicted):
            outputs.write(batch, copy)
            bar.update(len(batch.name) * distributed.world())
    bar.close()
    counts = distributed.sum_over_ranks(confusion.counts)
    distributed.barrier()
    if distributed.is_main():
        metrics = None
        if args.score and not counts.any():
            raise ValueError(
                f"--score: no pixel of the labels of {tiles.path} has a class, so there is nothing "
                f"to score; the masks are in {folder}"
            )
        if args.score:
            metrics = metrics_for(scheme.task, counts, scheme.num_classes, entry.absent_is_zero)
        if args.zip is not None:
            path = Path(args.zip or folder.parent / f"{folder.name}.zip")
            print(f"{pack(entry, path, folder, tiles)} masks packed in {path}")
        if args.pkl is not None:
            path = Path(args.pkl or folder.parent / f"{folder.name}.pkl")
            print(f"{write_pkl(path, map(to_png, read_masks(folder, tiles.names)))} PNG in {path}")
        finish(args, part, folder, tiles.names, metrics, scheme)


def predict_tiles(
    args: argparse.Namespace,
    predictor: Predictor,
    batches: DataLoader,
    confusion: ConfusionMatrix,
    outputs: TileOutputs,
) -> Iterator[tuple[Sample, HostCopy]]:
    """Each batch with what is to be written of it; counted where there is --score."""
    for batch, probs in predict_in_time(predictor, batches, args.time_limit):
        masks = to_masks(probs, args.threshold)
        if args.score:
            confusion.update(masks, true_masks(to_device(batch, predictor.device)))
        yield batch, outputs.fetch(probs, masks)


def pack(entry: DatasetEntry, path: Path, folder: Path, tiles: Dataset) -> int:
    """Packs the masks of tiles for submission; returns the number of files."""
    functions = entry.load()
    if functions.zip is not None:
        return functions.zip(path, folder, tiles.names)
    if functions.labels is not None:
        files = (functions.labels.name(tiles.patch_of(name)) for name in tiles.names)
        return zip_files(path, folder, files)
    dates = ("im1",) if entry.task != "semantic_change" else ("im1", "im2")
    return zip_files(path, folder, (f"{date}/{name}.png" for date in dates for name in tiles.names))


def test_scenes(
    args: argparse.Namespace, groups: list[tuple[Scheme, Predictor]], val_split: str
) -> None:
    """Scenes of any size: in blended windows, written strip by strip."""
    part, (scheme, predictor) = args.split or "test", groups[0]
    threshold = args.threshold
    if threshold == "auto":
        threshold = choose_threshold(args, groups, val_split)
    views = [(p, open_part(args, s)) for s, p in groups]
    scenes, reader = views[0][1], views[0][1].reader
    folder, probs = Path(args.outdir, "masks", part), probs_folder(args)
    drawn = names_to_draw(args, scenes.names)
    confusion, texts = confusion_for(scheme.task, 0, predictor.device), []
    for i, strips in predict_together(views, args.test_batch_size, args.num_workers):
        name, geotiff, shape = scenes.names[i], reader.is_geotiff(i), reader.shapes[i]
        step = -(-max(shape) // FIGURE_PX) if name in drawn else 0
        with ChangeOutput(
            shape,
            folder / f"{name}{'.tif' if geotiff else '.png'}",
            probs and probs / f"{name}{'.tif' if geotiff else '.npz'}",
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
            images = tile_images(torch.from_numpy(images))
            picture = (images, out.preview[None], truth, scheme, name)
            draw(figures_folder(args) / f"{name}.png", *picture)
    counts = distributed.sum_over_ranks(confusion.counts)
    texts = distributed.gather(texts)
    if distributed.is_main():
        metrics = None
        if args.score:
            metrics = {"threshold": threshold, **metrics_for(scheme.task, counts, 0)}
        if args.rle is not None:
            write_submission(args.rle, itertools.chain(*texts), scenes.names)
            print(f"run lengths in {args.rle}")
        finish(args, part, folder, scenes.names, metrics, scheme, "scene(s)")


def choose_threshold(
    args: argparse.Namespace, groups: list[tuple[Scheme, Predictor]], split: str
) -> float:
    """The threshold with the best F1 on the validation scenes; writes its curve."""
    views = [(p, open_validation(args, s, split)) for s, p in groups]
    count = len(views[0][1].names)
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
            f"threshold {result['threshold']:.3f}: F1 {result['f1']:.2%} on {count} "
            f"validation scene(s) of --val-split {split}; its curve in {path.with_suffix('.png')}"
        )
    return result["threshold"]


def names_to_draw(args: argparse.Namespace, names: list[str]) -> set[str]:
    """The tiles or scenes that get a figure."""
    return set(names) if args.preview_dir is not None else evenly(names, args.figures)


def left_over(args: argparse.Namespace, part: str) -> list[Path]:
    """What an earlier test wrote in the usual places, and this one elsewhere or not at all."""
    out = Path(args.outdir)
    archive, table = out / "masks" / f"{part}.zip", out / "masks" / f"{part}.pkl"
    figures = figures_folder(args) if args.figures or args.preview_dir is not None else None
    scores, gates = out / "metrics" / f"{part}.json", out / "gate" / part
    written = {
        archive: args.zip if args.zip is None else Path(args.zip or archive),
        table: args.pkl if args.pkl is None else Path(args.pkl or table),
        out / "probs" / part: probs_folder(args),
        out / "figures" / part: figures,
        scores: scores if args.score else None,
        gates: gates if args.gate else None,
    }
    return [path for path, now in written.items() if path.exists() and path != now]


def probs_folder(args: argparse.Namespace) -> Path | None:
    """Where probabilities go, if anywhere."""
    if args.save_probs is None:
        return None
    return Path(args.save_probs or Path(args.outdir, "probs", args.split or "test"))


def figures_folder(args: argparse.Namespace) -> Path:
    """Where figures go."""
    return Path(args.preview_dir or Path(args.outdir, "figures", args.split or "test"))


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
    scheme: Scheme,
    what: str = "tiles",
) -> None:
    """Writes the scores and what made the masks, and says where everything lies."""
    networks = [str(path) for path in args.checkpoints or find_checkpoints(args.outdir)]
    record = Path(args.outdir, TEST_RECORDS, f"{part}_options.json")
    old = left_over(args, part) if record.exists() else []
    write_json(record, {"checkpoints": networks, "options": vars(args)})
    print(f"{len(names)} {what}: masks in {folder}")
    for path in old:
        print(f"{path} is of an earlier test, not of these masks")
    if args.save_probs is not None:
        print(f"probabilities in {probs_folder(args)}")
    if args.figures or args.preview_dir is not None:
        print(f"figures in {figures_folder(args)}")
    if args.gate:
        print(f"heat maps of the gate in {Path(args.outdir, 'gate', part)}")
    if metrics is not None:
        path = Path(args.outdir, "metrics", f"{part}.json")
        write_json(path, to_json({**metrics, "classes": scheme.classes}))
        if "threshold" in metrics:
            print(f"at threshold {metrics['threshold']:g}:")
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float) and k != "threshold"}
        print(describe(numbers))
        print(f"scores in {path}")


if __name__ == "__main__":
    run(
        main, "(the masks are partly new, partly of an earlier test if there was one; run it again)"
    )
