"""Train a network, such as `python train.py --backbone hrnet_w18 --pretrained --model pspnet`.

With several GPUs visible it starts one process for each by itself; torchrun works too.
"""

from commands.train import build_parser, parse_args
from utils.cli import run

if __name__ == "__main__":
    run(parse_args)  # --help and mistakes are answered here: what follows takes seconds to import

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import reads_as_trained
from datasets.training_data import (
    build_train_loader,
    build_val_loader,
    check_data,
    scheme_of_data,
    split_rule,
    validation_entry,
)
from models import NETWORKS, given_options
from models.checkpoints import load_ensemble, make_recipe, network_of, trained_scheme
from models.initialise import start_network
from models.published import Published
from utils import distributed
from utils.batch_norm import widen_batch_norms
from utils.channel_padding import pad_channels
from utils.compiling import compile_blocks
from utils.cuda_graphs import Graphed
from utils.evaluation import BEST_BY, validate
from utils.inference import Member, Normalise, Predictor, to_device
from utils.log import RunLog
from utils.losses import Objective, class_weights
from utils.monitor import LossMonitor
from utils.optim import WeightAverage, build_optimizer, set_lr
from utils.precision import pick_amp
from utils.recomputing import recompute_blocks
from utils.runs import Run
from utils.schedule import learning_rate
from utils.structures import Scheme
from utils.training import endless, forward_backward, is_due

__all__ = ["build_parser", "main", "parse_args"]


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
            raise KeyboardInterrupt(resume_hint(args)) from None


def resume_hint(args: argparse.Namespace) -> str:
    """How to go on with the newest run, or with the named one, once it has saved something."""
    runs = Path(args.outdir, "runs")
    folders = sorted(runs.glob(args.name or "*"), key=lambda path: path.stat().st_mtime)
    if not folders or not (folders[-1] / "last.pth").exists():
        return "(before anything was saved)"
    return f"(go on with: python train.py --resume {folders[-1] / 'last.pth'})"


def train(args: argparse.Namespace, device: torch.device) -> None:
    """The whole of training."""
    scheme = scheme_of_data(args)
    objective = build_objective(args, scheme, device)
    check_data(args, scheme)
    train_batches, val_batches = build_train_loader(args, scheme), build_val_loader(args, scheme)
    network, recipe = build_network(args, scheme, device)
    normalise = Normalise.of(scheme).to(device)
    optimizer = build_optimizer(
        network, args.optimizer, args.lr, args.weight_decay, args.head_lr_factor, args.momentum
    )
    amp = pick_amp(args.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    ema = None if args.ema is None else WeightAverage(network, args.ema)
    saved = Run(
        args.outdir,
        args.name,
        stem="_".join(filter(None, (args.model, recipe["backbone"]))),
        recipe=recipe,
        options=vars(args),
        resume=args.resume,
    )
    step = saved.restore(network, optimizer, scaler, ema)
    steps_per_epoch = len(train_batches)
    total_steps = args.max_steps or args.epochs * steps_per_epoch
    schedule = build_schedule(args, total_steps, steps_per_epoch)
    refuse_complete(saved, step, total_steps, args.early_stop)

    example = partial(example_images, train_batches, args.batch_size, normalise, device)
    parallel = distributed.wrap(launched(args, network, example, device), args.sync_bn)
    monitor, bar = LossMonitor(), start_bar(args, scheme, step, total_steps)
    network.train()
    for batch in endless(train_batches, start_step=step):
        torch.manual_seed(args.seed + 1_000_003 * step + distributed.rank())  # dropout
        lr = schedule(step)
        set_lr(optimizer, lr)
        batch = to_device(batch, device)
        terms = forward_backward(
            parallel, normalise, batch, objective, args.accumulate, scaler, amp
        )
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
            losses = dict(monitor.read(), lr=lr)
            saved.log.write("train", step, **losses)
            bar.set_description(f"epoch {-(-step // steps_per_epoch)}")
            bar.set_postfix({key: f"{value:.2g}" for key, value in losses.items()})
        if validates:
            with ema.applied(network) if ema else nullcontext():
                member = Member.fast(network, normalise)
                predictor = Predictor([member], device, amp, args.tta)
                metrics = validate(
                    predictor, val_batches, scheme, saved.log, step, **reporting(args)
                )
                saved.keep_best(network, metrics[BEST_BY[scheme.task]])
            done = done or saved.is_stale(args.early_stop)
        if saves or done:
            saved.save_last(network, optimizer, scaler, ema, step)
        if is_due(step, args.keep_every):
            saved.keep_step(network, ema, step)
        if done:
            break
    bar.close()
    saved.log.close()


def launched(
    args: argparse.Namespace,
    network: nn.Module,
    example: Callable[[], Tensor],
    device: torch.device,
) -> nn.Module:
    """The network in the way that it runs fastest: compiled, its kernels replayed, or one by one.

    `example`: makes images like those of a batch (B, T, C, H, W), normalised.
    """
    alone, on_cuda = distributed.world() == 1, device.type == "cuda"
    replays = on_cuda and args.cuda_graphs and alone and args.accumulate == 1
    replays = replays and not args.grad_checkpointing
    if on_cuda and (replays or args.compile) and (alone or not args.sync_bn):
        pad_channels(network)  # launched one by one, its many small kernels would cost more
    if not args.compile:
        widen_batch_norms(network)
    elif not compile_blocks(network):
        return torch.compile(network)
    return Graphed(network.train(), example(), pick_amp(args.amp, device)) if replays else network


def example_images(
    batches: DataLoader, batch_size: int, normalise: Normalise, device: torch.device
) -> Tensor:
    """Images like those of a batch (B, T, C, H, W), normalised, on the device."""
    images = batches.dataset[0].images.to(device)
    return normalise(images.expand(batch_size, *images.shape))


def refuse_complete(saved: Run, step: int, total_steps: int, early_stop: int | None) -> None:
    """Raises ValueError if a resumed run has nothing left to do."""
    if step >= total_steps or saved.is_stale(early_stop):
        raise ValueError(
            f"--resume: {saved.folder} is complete after {step} steps; to train on, start a new "
            f"run with --pretrain-from {saved.folder / 'last.pth'}"
        )


def start_bar(args: argparse.Namespace, scheme: Scheme, step: int, total_steps: int) -> tqdm:
    """The progress bar, in pairs (or tiles) of all processes; of the first one only."""
    return tqdm(
        total=total_steps * args.batch_size,
        initial=step * args.batch_size,
        unit="pair" if scheme.num_dates == 2 else "tile",
        disable=not distributed.is_main(),
    )


def build_objective(args: argparse.Namespace, scheme: Scheme, device: torch.device) -> Objective:
    """What is minimised."""
    weights = class_weights(args.class_weights, scheme, args.use_pseudo_label is not None)
    if weights is not None:
        weights = weights.to(device)
    return Objective(
        weights, args.change_loss, args.changed_weight, args.aux_weight, args.loss_mean_over
    )


def build_schedule(
    args: argparse.Namespace, total_steps: int, steps_per_epoch: int
) -> Callable[[int], float]:
    """Steps taken so far -> the learning rate of the next."""
    return partial(
        learning_rate,
        args.lr_policy,
        args.lr,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        gamma=args.lr_gamma,
        lr_min=args.lr_min,
    )


def reporting(args: argparse.Namespace) -> dict:
    """What validation writes, and how it counts."""
    return {
        "outdir": args.outdir,
        "save_mask": args.save_mask,
        "absent_is_zero": validation_entry(args).absent_is_zero,
    }


def build_network(
    args: argparse.Namespace, scheme: Scheme, device: torch.device
) -> tuple[nn.Module, dict]:
    """The network with its starting weights on the device, and its recipe.

    Raises:
        ValueError, OSError: see models.build_network and models.initialise; or a batch too small.
    """
    if args.batch_size // distributed.world() < args.accumulate:
        raise ValueError(
            f"--accumulate {args.accumulate} cuts {args.batch_size // distributed.world()} pairs a "
            "process into parts; lower it, or raise --batch-size"
        )
    smallest = NETWORKS[args.model].load().smallest_batch
    together = args.batch_size // args.accumulate // (1 if args.sync_bn else distributed.world())
    if together < smallest:
        raise ValueError(
            f"--model {args.model} pools whole maps and normalises over the batch: it needs at "
            f"least {smallest} pairs at a time, got {together}. Raise --batch-size, or lower "
            "--accumulate."
        )
    recipe = make_recipe(
        scheme,
        model=args.model,
        backbone=args.backbone,
        lightweight=args.lightweight,
        output_stride=args.output_stride,
        dropout=args.dropout,
        fine_tuned=args.pretrained is not None or args.pretrain_from is not None,
        options=given_options(vars(args)),
        split=split_rule(args),
    )
    if args.resume:
        network, told = network_of(recipe), f"weights from {args.resume}"
    else:
        network, told = start_network(recipe, args.pretrained, args.pretrain_from, args.init)
    if args.grad_checkpointing:
        recompute_blocks(network)
    if distributed.is_main():
        print(f"{args.model} on {recipe['backbone'] or 'no backbone'}: {told}")
    return network.to(device, memory_format=torch.channels_last), recipe


def validate_once(args: argparse.Namespace, device: torch.device) -> None:
    """--load-from: one validation pass over a checkpoint, ours or a published one."""
    own = trained_scheme(args.load_from)
    scheme = own if reads_as_trained(args.dataset, vars(args)) else None
    scheme = scheme or scheme_of_data(args)
    check_data(args, scheme)
    val_batches = build_val_loader(args, scheme)
    said = args.described if own else Published._fields  # of our own files defaults claim nothing
    hint = Published(**{field: getattr(args, field) for field in said})
    members = load_ensemble([args.load_from], device, scheme, [hint])
    predictor = Predictor(members, device, pick_amp(args.amp, device), args.tta)
    validate(predictor, val_batches, scheme, RunLog(None), 0, **reporting(args))


if __name__ == "__main__":
    run(main)
