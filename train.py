"""Train a network, such as `python train.py --backbone hrnet_w18 --pretrained --model pspnet`.

With several GPUs visible it starts one process for each by itself; torchrun works too.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import DATASETS, build_dataset, check_dataset
from datasets.layout import parse_folders, part_path
from datasets.loader import eval_loader, train_loader
from datasets.transforms import Augment
from models import BACKBONES, NETWORKS
from models.checkpoints import (
    load_ensemble,
    load_matching,
    make_recipe,
    network_of,
)
from models.pretrained import find_pretrained, load_pretrained
from models.published import Published
from utils import distributed, options
from utils.cli import Parser, run
from utils.evaluation import BEST_BY, describe, evaluate, example_picture, submit_masks
from utils.files import write_json
from utils.inference import Member, Normalise, Predictor, to_device
from utils.log import RunLog, read_options
from utils.losses import SENSEEARTH_CLASS_WEIGHTS
from utils.metrics import to_json
from utils.monitor import LossMonitor
from utils.optim import WeightAverage, build_adam, poly_lr, set_lr
from utils.precision import pick_amp
from utils.runs import Run, newest_run
from utils.structures import Probs, Sample
from utils.training import endless, forward_backward, is_due
from utils.writers import BackgroundWriter

NUM_PICTURES = 4  # validation tiles drawn for TensorBoard

# what may differ when a run goes on: nothing that changes its numbers
FREE_ON_RESUME = {"resume", "config", "device", "num_workers", "compile", "save_every", "log_every"}


def build_parser() -> Parser:
    """Every flag of training."""
    parser = Parser("Train a network on tiles of two dates (or one).", prog="train.py")
    data = options.add_data_options(parser, DATASETS)
    options.add_split_option(data)
    options.add_training_data_options(data)
    model = options.add_model_options(parser, NETWORKS, BACKBONES)
    options.add_training_model_options(model)
    options.add_optimisation_options(parser)
    options.add_run_options(options.add_runtime_options(parser))
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; with --resume, the options of the interrupted run."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.resume is None:
        return args
    args.resume = str(Path(args.resume) if args.resume else newest_run(args.outdir, args.name))
    given = parser.given(argv)
    for key, value in read_options(Path(args.resume).parent).items():
        if key in ("name", "outdir"):  # the run's own, however it was found
            setattr(args, key, value)
            continue
        if key in ("resume", "config") or (key in given and key in FREE_ON_RESUME):
            continue
        if key in given and getattr(args, key) != value:
            parser.error(
                f"--{key.replace('_', '-')} {getattr(args, key)} differs from the interrupted "
                f"run's {'default' if value is None else value}; leave it out, or start a new run "
                "without --resume"
            )
        setattr(args, key, value)
    return args


def main(argv: list[str] | None = None) -> None:
    """Trains, or with --load-from validates once."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        if args.load_from:
            validate_once(args, device)
        else:
            train(args, device)


def train(args: argparse.Namespace, device: torch.device) -> None:
    """The whole of training."""
    scheme = DATASETS[args.dataset].scheme
    weights = class_weights(args, scheme.num_classes)
    check_data(args)
    train_batches, val_batches = build_train_loader(args), build_val_loader(args)
    network, recipe = build_network(args, device)
    normalise = Normalise.of(scheme).to(device)
    weights = None if weights is None else torch.tensor(weights, device=device)
    optimizer = build_adam(network, args.lr, args.weight_decay)
    amp = pick_amp(args.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    ema = None if args.ema is None else WeightAverage(network, args.ema)
    saved = Run(
        args.outdir,
        args.name,
        stem=f"{args.model}_{args.backbone}",
        recipe=recipe,
        options=vars(args),
        resume=args.resume,
    )
    step = saved.restore(network, optimizer, scaler, ema)
    compiled = torch.compile(network) if args.compile else network
    parallel = distributed.wrap(compiled, args.sync_bn)

    steps_per_epoch = len(train_batches)
    total_steps = args.max_steps or args.epochs * steps_per_epoch
    monitor = LossMonitor()
    sizes = {"total": total_steps * args.batch_size, "initial": step * args.batch_size}
    bar = tqdm(**sizes, unit="pair", disable=not distributed.is_main())
    if step >= total_steps:
        raise ValueError(f"--resume: {saved.folder} is complete, all {total_steps} steps are taken")
    network.train()
    for batch in endless(train_batches, start_step=step):
        torch.manual_seed(args.seed + 1_000_003 * step + distributed.rank())  # dropout
        set_lr(optimizer, poly_lr(args.lr, step, total_steps))
        batch = to_device(batch, device)
        terms = forward_backward(parallel, normalise, batch, weights, args.accumulate, scaler, amp)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.update(network)
        step += 1
        monitor.add(step, batch.name, terms)
        bar.update(args.batch_size)

        done = step == total_steps
        ends_epoch = step % steps_per_epoch == 0 or done
        saves = ends_epoch or is_due(step, args.save_every)
        validates = ends_epoch if args.val_every is None else done or is_due(step, args.val_every)
        if is_due(step, args.log_every) or saves or validates:
            losses = dict(monitor.read(), lr=optimizer.param_groups[0]["lr"])
            saved.log.write("train", step, **losses)
            bar.set_description(f"epoch {-(-step // steps_per_epoch)}")
            bar.set_postfix({key: f"{value:.2g}" for key, value in losses.items()})
        if validates:
            with ema.applied(network) if ema else nullcontext():
                member = Member.fast(network, normalise)
                predictor = Predictor([member], device, amp, args.tta)
                metrics = validate(args, predictor, val_batches, saved.log, step)
                saved.keep_best(network, metrics[BEST_BY[scheme.task]])
        if saves:
            saved.save_last(network, optimizer, scaler, ema, step)
        if done:
            break
    bar.close()
    saved.log.close()


def build_train_loader(args: argparse.Namespace) -> DataLoader:
    """The batches of training.

    Raises:
        DataError, FileNotFoundError, ValueError: see datasets.second and datasets.loader.
    """
    pseudo_labels = args.use_pseudo_label
    if pseudo_labels == "":
        pseudo_labels = Path(args.outdir, "masks", "train")
    tiles = build_dataset(
        args.dataset,
        "train",
        pseudo_label_dir=pseudo_labels,
        augment=Augment(swap_dates=args.swap_dates, crop_size=args.crop_size, jitter=args.jitter),
        seed=args.seed,
        **where(args),
    )
    return train_loader(tiles, args.batch_size, seed=args.seed, **sharing(args))


def build_val_loader(args: argparse.Namespace) -> DataLoader:
    """The batches of validation; raises as `build_train_loader`."""
    tiles = build_dataset(args.dataset, "val", **where(args))
    return eval_loader(tiles, args.val_batch_size, **sharing(args))


def check_data(args: argparse.Namespace) -> None:
    """Looks at every file that training reads; DataError or FileNotFoundError if one is bad."""
    if distributed.is_main():
        folders, root = parse_folders(args.folders), args.data_root or DATASETS[args.dataset].root
        official = args.split == "official" and part_path(root, "val", folders).is_dir()
        parts = ["train", "val"] if official else ["train"]
        seen = Path(args.outdir, "data_check.json")
        check_dataset(args.dataset, parts, root, seen=seen, folders=folders)
    distributed.barrier()


def where(args: argparse.Namespace) -> dict:
    """Which tiles, from where, kept how: what training and validation share."""
    return {
        "root": args.data_root,
        "folders": parse_folders(args.folders),
        "split": args.split,
        "cache": args.cache,
    }


def sharing(args: argparse.Namespace) -> dict:
    """How the tiles are shared out over processes and read."""
    return {
        "rank": distributed.rank(),
        "world": distributed.world(),
        "num_workers": args.num_workers,
    }


def build_network(args: argparse.Namespace, device: torch.device) -> tuple[nn.Module, dict]:
    """The network with its starting weights on the device, and its recipe.

    Raises:
        ValueError, OSError: see models.build_network and models.checkpoints; or a batch too small.
    """
    if args.batch_size // distributed.world() < args.accumulate:
        raise ValueError(
            f"--accumulate {args.accumulate} cuts {args.batch_size // distributed.world()} pairs a "
            "process into parts; lower it, or raise --batch-size"
        )
    smallest = NETWORKS[args.model].smallest_batch
    together = args.batch_size // args.accumulate // (1 if args.sync_bn else distributed.world())
    if together < smallest:
        raise ValueError(
            f"--model {args.model} pools whole maps and normalises over the batch: it needs at "
            f"least {smallest} pairs at a time, got {together}. Raise --batch-size, or lower "
            "--accumulate."
        )
    recipe = make_recipe(
        DATASETS[args.dataset].scheme,
        model=args.model,
        backbone=args.backbone,
        lightweight=args.lightweight,
        output_stride=args.output_stride,
        dropout=args.dropout,
        fine_tuned=args.pretrained is not None or args.pretrain_from is not None,
    )
    local = None
    if args.pretrained is not None and not args.resume:
        local = Path(args.pretrained) if args.pretrained else find_pretrained(args.backbone)
    download = args.pretrained == "" and local is None and not args.resume
    network = network_of(recipe, pretrained=download)
    told = f"weights from {args.resume}" if args.resume else "random weights"
    if local is not None:
        load_pretrained(network.backbone, local)
        told = f"ImageNet weights from {local}"
    elif download:
        told = "ImageNet weights downloaded by timm"
    if args.pretrain_from and not args.resume:
        told = load_matching(network, args.pretrain_from)
    if distributed.is_main():
        print(f"{args.model} on {args.backbone}: {told}")
    return network.to(device, memory_format=torch.channels_last), recipe


def class_weights(args: argparse.Namespace, num_classes: int) -> list[float] | None:
    """--class-weights, or the published ones where they apply; None means all 1.

    Raises:
        ValueError: not one weight a class.
    """
    if args.class_weights is not None:
        if len(args.class_weights) != num_classes:
            raise ValueError(
                f"--class-weights has {len(args.class_weights)} numbers; --dataset {args.dataset} "
                f"has {num_classes} classes: {', '.join(DATASETS[args.dataset].scheme.classes)}"
            )
        return args.class_weights
    published = args.use_pseudo_label is None and num_classes == len(SENSEEARTH_CLASS_WEIGHTS)
    return list(SENSEEARTH_CLASS_WEIGHTS) if published else None


def validate(
    args: argparse.Namespace, predictor: Predictor, batches: DataLoader, log: RunLog, step: int
) -> dict:
    """Scores the validation tiles; logs, writes masks and pictures; returns the metrics."""
    scheme = DATASETS[args.dataset].scheme
    with BackgroundWriter() as writer:
        pictures = 0 if log.folder else NUM_PICTURES  # drawn so far

        def on_batch(batch: Sample, probs: Probs, masks: Tensor) -> None:
            nonlocal pictures
            if not args.save_mask and pictures == NUM_PICTURES:
                return
            masks = masks.cpu().numpy()
            if args.save_mask:
                submit_masks(writer, Path(args.outdir, "masks", "val"), batch.name, masks, scheme)
            for i in range(min(len(masks), NUM_PICTURES - pictures)):
                pictures += 1
                log.picture(batch.name[i], step, example_picture(batch, masks, i, scheme))

        metrics = evaluate(predictor, batches, scheme, on_batch)
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
    log.write("val", step, **to_json(numbers))
    if distributed.is_main():
        write_json(Path(args.outdir, "metrics", "val.json"), to_json(metrics))
        tqdm.write(f"step {step}: {describe(numbers)}")
    return metrics


def validate_once(args: argparse.Namespace, device: torch.device) -> None:
    """--load-from: one validation pass over a checkpoint, ours or a published one."""
    scheme = DATASETS[args.dataset].scheme
    check_data(args)
    val_batches = build_val_loader(args)
    published = Published(args.model, args.backbone, args.lightweight)
    members = load_ensemble([args.load_from], device, scheme, [published])
    predictor = Predictor(members, device, pick_amp(args.amp, device), args.tta)
    validate(args, predictor, val_batches, RunLog(None), 0)


if __name__ == "__main__":
    run(main, "(go on with: python train.py --resume)")
