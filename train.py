"""Train a network, such as `python train.py --backbone hrnet_w18 --pretrained --model pspnet`.

If several GPUs are visible, one process per GPU is started; torchrun also works.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from datasets.build import (
    SCHEME_FLAGS,
    TRAINING_FLAGS,
    Source,
    check_training_data,
    common_scheme,
    scheme_as_trained,
    training_options,
    window_options,
)
from datasets.loader import example_images, refuse_other_sizes, train_loader
from datasets.transforms import Augment
from inference.ensemble import load_ensemble
from inference.prediction import scene_loader
from inference.predictor import Member, Predictor
from models.build import OPTIONS, check_batch
from models.checkpoints import make_recipe, network_of, trained_scheme
from models.initialise import start_network
from models.normalise import Normalise
from models.published import Published
from models.siamese import Network
from options.shared import source_of
from options.train import parse_args
from training.log import RunLog
from training.losses import Loss, class_weights
from training.monitor import LossMonitor
from training.optim import WeightAverage, build_optimizer, set_lr
from training.progress import Progress
from training.run import Run
from training.run_folders import resume_hint
from training.schedule import Extension, learning_rate, lengthened
from training.steps import Calendar, endless, micro_batches
from training.validation import BEST_BY, validate
from utils import distributed
from utils.cli import run
from utils.distributed import gradients_synced
from utils.precision import autocast, pick_amp
from utils.speed import for_prediction, for_training
from utils.structures import Scheme, to_device


def main(argv: list[str] | None = None) -> None:
    """Trains, or with --load-from validates once."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        torch.manual_seed(args.seed)
        if args.load_from:
            validate_once(args, device)
            return
        try:
            train(args, device)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(resume_hint(args.outdir, args.name)) from None


def train(args: argparse.Namespace, device: torch.device) -> None:
    """Trains on labelled pairs; saves the best and the last checkpoint."""
    scheme = common_scheme(*sources(args), bands(args), flags(args))
    loss = build_loss(args, scheme, device)
    check_training_data(*sources(args), split_rule(args), scheme)
    train_batches, val_batches = training_batches(args, scheme), validation_batches(args, scheme)
    network, recipe = network_to_train(args, scheme, device)
    normalise, amp = Normalise.of(scheme).to(device), pick_amp(args.amp, device)
    optimizer = build_optimizer(
        network, args.optimizer, args.lr, args.weight_decay, args.head_lr_factor, args.momentum
    )
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    ema = None if args.ema is None else WeightAverage(network, args.ema)
    saved = Run(args.outdir, args.name, recipe=recipe, options=vars(args), resume=args.resume)
    step = saved.restore(network, optimizer, scaler, ema)
    calendar, schedule = build_schedule(args, len(train_batches))
    saved.refuse_complete(step, calendar.total_steps, args.early_stop)
    parallel = accelerate(args, network, train_batches, normalise, amp)
    saved.open(step)
    monitor, progress = LossMonitor(), Progress(scheme, saved.log, calendar, step, args.batch_size)

    for batch in endless(train_batches, start_step=step):
        torch.manual_seed(args.seed + 1_000_003 * step + distributed.rank())  # dropout
        set_lr(optimizer, lr := schedule(step))
        batch = to_device(batch, device)
        pixels = loss.count_pixels(batch, args.accumulate)
        for micro_batch, is_last in micro_batches(batch, args.accumulate):
            with gradients_synced(parallel, is_last):
                with autocast(device, amp):
                    logits = parallel(normalise(micro_batch.images))
                terms = loss(logits, micro_batch, pixels)
                del logits  # the backward pass does not need them
                # DistributedDataParallel averages gradients, but losses of ranks must be summed
                scaler.scale(terms.total * distributed.world()).backward()
            monitor.add(step + 1, micro_batch.name, terms)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.update(network)
        step = progress.advance(step)

        due = calendar.due(step)
        if due.logs:
            progress.report(step, **monitor.read(), lr=lr)
        if due.validates:
            saved.save_last(network, optimizer, scaler, ema, step)  # an error here costs no step
            with ema.applied(network) if ema else nullcontext():
                member = Member(for_prediction(network), normalise)
                predictor = Predictor([member], device, amp, args.tta)
                metrics = validate(predictor, val_batches, saved.log, step, **val_options(args))
                saved.keep_best(network, metrics[BEST_BY[scheme.task]])
        done = due.done or saved.is_stale(args.early_stop)
        if due.saves or due.validates or done:
            saved.save_last(network, optimizer, scaler, ema, step)
        if due.keeps:
            saved.keep_step(network, ema, step)
        if done:
            break
    progress.close()


def sources(args: argparse.Namespace) -> tuple[Source, Source | None]:
    """The training data set, and that of --val-dataset; None: a part of the first validates."""
    data = source_of(args)
    if args.val_dataset is None:
        return data, None
    return data, data._replace(dataset=args.val_dataset, root=args.val_root)


def split_rule(args: argparse.Namespace) -> str:
    """The split rule; "official" if another data set is used for validation."""
    data, validation = sources(args)
    return args.split or (data.entry.split_rule if validation is None else "official")


def bands(args: argparse.Namespace) -> list[str] | None:
    """Bands to read; None: default. For binary change, --fusion difference uses grey."""
    grey = args.fusion == "difference" and sources(args)[0].entry.task == "binary_change"
    return ["grey"] if args.bands is None and grey else args.bands


def flags(args: argparse.Namespace) -> dict[str, bool]:
    """Values of the flags that choose bands and classes of Sentinel data."""
    return {name: getattr(args, name) for name in SCHEME_FLAGS}


def training_batches(args: argparse.Namespace, scheme: Scheme) -> DataLoader:
    """Shuffled training batches with random augmentation."""
    data, _ = sources(args)
    augment = Augment(
        orient=args.orient or data.entry.orient,
        swap_dates=args.swap_dates,
        crop_size=args.crop_size,
        jitter=args.jitter,
        turns_oblong=args.batch_size == distributed.world(),
    )
    pseudo_labels = args.use_pseudo_label
    if pseudo_labels == "":
        pseudo_labels = Path(args.outdir, "masks", "train")
    tiles = data.build(
        "train",
        scheme,
        split_rule=split_rule(args),
        pseudo_label_dir=pseudo_labels,
        augment=augment,
        seed=args.seed,
        cache=args.cache,
        cache_dir=args.cache_dir,
        **training_options(args.dataset, {name: getattr(args, name) for name in TRAINING_FLAGS}),
    )
    refuse_other_sizes(tiles)
    if distributed.is_main() and (small := tiles.num_smaller_than_crops()):
        print(
            f"note: {small} of {len(tiles.names)} images are smaller than --crop-size "
            f"{args.crop_size}; they are padded with pixels that are not labelled"
        )
    shares = {"rank": distributed.rank(), "world": distributed.world()}
    return train_loader(
        tiles, args.batch_size, seed=args.seed, num_workers=args.num_workers, **shares
    )


def validation_batches(args: argparse.Namespace, scheme: Scheme) -> DataLoader:
    """Validation batches, without augmentation."""
    data, validation = sources(args)
    source = validation or data
    tiles = source.build(
        "val",
        scheme,
        split_rule=split_rule(args) if validation is None else None,
        cache=args.cache,
        cache_dir=args.cache_dir,
        **window_options(source.entry),
    )
    if not tiles.labelled:
        raise ValueError(f"--val-dataset {args.val_dataset}: {tiles.path} has no labels")
    return scene_loader(tiles, args.val_batch_size, args.num_workers)


def build_loss(args: argparse.Namespace, scheme: Scheme, device: torch.device) -> Loss:
    """Builds the training loss."""
    weights = class_weights(args.class_weights, scheme, args.use_pseudo_label is not None)
    weights = None if weights is None else weights.to(device)
    return Loss(
        weights, args.change_loss, args.changed_weight, args.aux_weight, args.loss_mean_over
    )


def network_to_train(
    args: argparse.Namespace, scheme: Scheme, device: torch.device
) -> tuple[Network, dict]:
    """Builds the network with its initial weights on the device; also returns its recipe.

    Raises:
        ValueError, OSError: see models.build and models.initialise; or the batch is too small.
    """
    world = distributed.world()
    check_batch(args.model, args.batch_size, args.accumulate, world, args.sync_bn)
    options = {name: getattr(args, name) for name in OPTIONS}
    recipe = make_recipe(
        scheme,
        model=args.model,
        backbone=args.backbone,
        lightweight=args.lightweight,
        output_stride=args.output_stride,
        dropout=args.dropout,
        fine_tuned=args.pretrained is not None or args.pretrain_from is not None,
        options={name: value for name, value in options.items() if value is not None},
        split_rule=split_rule(args),
    )
    if args.resume:
        network, origin = network_of(recipe), f"weights from {args.resume}"
    else:
        network, origin = start_network(recipe, args.pretrained, args.pretrain_from, args.init)
    if distributed.is_main():
        print(f"{args.model} on {recipe['backbone'] or 'no backbone'}: {origin}")
    return network.to(device, memory_format=torch.channels_last), recipe


def accelerate(
    args: argparse.Namespace,
    network: Network,
    batches: DataLoader,
    normalise: Normalise,
    amp: torch.dtype | None,
) -> nn.Module:
    """Prepares the network for the loop: speed-ups, and averaging of gradients over ranks."""
    device = next(network.parameters()).device
    fast = for_training(
        network,
        lambda: normalise(example_images(batches, args.batch_size).to(device)),
        amp,
        compiled=args.compile,
        recomputed=args.grad_checkpointing,
        replayed=args.cuda_graphs and args.accumulate == 1,
        sync_bn=args.sync_bn,
    )
    return distributed.wrap(fast, args.sync_bn)


def build_schedule(
    args: argparse.Namespace, steps_per_epoch: int
) -> tuple[Calendar, Callable[[int], float]]:
    """The calendar of logging, validation and saving, and the learning rate by step."""
    total_steps = args.max_steps or args.epochs * steps_per_epoch
    calendar = Calendar(
        total_steps,
        steps_per_epoch,
        args.log_every,
        args.val_every,
        args.save_every,
        args.keep_every,
    )
    rate = partial(learning_rate, steps_per_epoch=steps_per_epoch)
    first = {"policy": args.lr_policy, "lr": args.lr}
    first |= {"gamma": args.lr_gamma, "lr_min": args.lr_min}
    unit = 1 if args.max_steps else steps_per_epoch
    added = [Extension(unit * start, *rest) for start, *rest in args.extensions]
    return calendar, lengthened(rate, first, added, total_steps)


def val_options(args: argparse.Namespace) -> dict:
    """Arguments of `validate`: outputs, and the IoU of absent classes."""
    data, validation = sources(args)
    entry = (validation or data).entry
    masks = {"outdir": args.outdir, "save_mask": args.save_mask, "labels": entry.labels}
    return {**masks, "absent_is_zero": entry.absent_is_zero}


def validate_once(args: argparse.Namespace, device: torch.device) -> None:
    """Validates one checkpoint, ours or a published one (--load-from)."""
    own = trained_scheme(args.load_from)
    scheme = own if scheme_as_trained(args.dataset, args.bands, flags(args)) else None
    scheme = scheme or common_scheme(*sources(args), bands(args), flags(args))
    check_training_data(*sources(args), split_rule(args), scheme)
    val_batches = validation_batches(args, scheme)
    given = args.network_flags if own else Published._fields  # our own files: only given flags
    hint = Published(**{field: getattr(args, field) for field in given})
    members = load_ensemble([args.load_from], device, scheme, [hint])
    predictor = Predictor(members, device, pick_amp(args.amp, device), args.tta)
    validate(predictor, val_batches, RunLog(None), 0, **val_options(args))


if __name__ == "__main__":
    run(main)
