"""The benchmark jobs, each in two versions (sides): the published algorithm and this project.

A side of a job is built once, in a process of its own, and then run repeatedly.
"""

import argparse
import contextlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import label
import test
from benchmarks import plain
from benchmarks.loading import make_pairs
from benchmarks.machine import Work, forward_work
from datasets.build import Source
from datasets.loader import train_loader
from datasets.transforms import Augment
from inference.predictor import Member, Predictor
from inference.views import TTA_VIEWS
from models.checkpoints import make_recipe, network_of
from models.normalise import Normalise
from training.losses import SENSEEARTH_CLASS_WEIGHTS, Loss
from training.optim import build_optimizer
from utils.distributed import pick_device
from utils.metrics import ChangeConfusion
from utils.precision import autocast, pick_amp
from utils.schemes import SECOND
from utils.speed import for_prediction, for_training
from utils.state_files import read_file, save_checkpoint
from utils.structures import IGNORE_INDEX, Sample, to_device

TEACHERS = 3
VIEWS = len(TTA_VIEWS["flip_rot"])
BACKWARD = 2  # cost of the backward pass, in forward passes over the convolutions
METRIC_PAIRS = 16

Run = Callable[[], object]
Build = Callable[[argparse.Namespace], Run]


class Job(NamedTuple):
    """One row of the table."""

    plain: Build
    ours: Build
    pairs: Callable[[argparse.Namespace], int]  # processed by one run
    work: Callable[[argparse.Namespace], Work]  # minimum work of one run
    inputs: Callable[[argparse.Namespace], None] | None = None  # writes input files of both sides
    is_program: bool = False  # slow, start-up included; run fewer times


def device_of(args: argparse.Namespace) -> torch.device:
    """The device of the job."""
    return pick_device(args.device)


def recipe_of(args: argparse.Namespace) -> dict:
    """The recipe of the measured network."""
    return make_recipe(SECOND, model=args.model, backbone=args.backbone, lightweight=True)


def fresh_network(args: argparse.Namespace, seed: int = 0) -> nn.Module:
    """A network with random weights, the same at every call."""
    torch.manual_seed(seed)
    return network_of(recipe_of(args)).to(device_of(args))


def make_program_inputs(args: argparse.Namespace) -> None:
    """Writes checkpoints of random weights and tiles, of which args.pairs train, to args.root."""
    root = Path(args.root)
    with_validation = args.pairs + 1 + (args.pairs - 1) // 9  # every tenth tile
    for part, count in (("train", with_validation), ("test", args.pairs)):
        make_pairs(root / part, count, args.size)
        (root / "data").mkdir(exist_ok=True)
        (root / part / "train").rename(root / "data" / part)
        for folder in (root / "data" / part).iterdir():
            for path in sorted(folder.iterdir())[count:]:
                path.unlink()
    for seed in range(TEACHERS):
        network = fresh_network(args, seed).cpu()
        save_checkpoint(root / f"network{seed}.pth", network.state_dict(), recipe_of(args))


def make_loading_inputs(args: argparse.Namespace) -> None:
    """Writes tiles that are only loaded to args.root."""
    make_pairs(Path(args.root, "load"), args.load_pairs, args.size)


def checkpoints(args: argparse.Namespace, count: int) -> list[Path]:
    """Paths of the first `count` checkpoints."""
    return [Path(args.root, f"network{seed}.pth") for seed in range(count)]


def random_batch(args: argparse.Namespace) -> Sample:
    """Noise with labels on about a fifth of the pixels, on the device."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, 2, args.size, args.size)

    def draw(high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=generator)

    images = draw(256, shape[0], 2, 3, *shape[2:]).to(torch.uint8)
    change = (draw(5, shape[0], *shape[2:]) == 0).long()
    semantic = torch.where(change[:, None] == 1, draw(6, *shape), IGNORE_INDEX)
    batch = Sample(["noise"] * args.batch_size, images, semantic, change)
    return to_device(batch, device_of(args))


def prediction_work(args: argparse.Namespace) -> Work:
    """Minimum work of one batch in one view."""
    device, amp = device_of(args), pick_amp(args.amp, device_of(args))
    images = Normalise.of(SECOND).to(device)(random_batch(args).images)
    return forward_work(fresh_network(args).eval(), images, 4 if amp is None else 2)


def plain_inference(args: argparse.Namespace, tta: str) -> Run:
    """From uint8 tiles to probabilities as published."""
    network, images = plain.PlainNetwork(fresh_network(args).eval()), random_batch(args).images
    predict = plain.predict if tta == "none" else plain.predict_tta

    @torch.no_grad()
    def predict_batch() -> None:
        normalised = plain.normalise(images)
        predict(network, normalised[:, 0], normalised[:, 1])

    return predict_batch


def our_inference(args: argparse.Namespace, tta: str) -> Run:
    """From uint8 tiles to probabilities as label.py and test.py do it."""
    device = device_of(args)
    normalise = Normalise.of(SECOND).to(device)
    fast = for_prediction(fresh_network(args).eval(), compiled=args.compile)
    member = Member(fast, normalise)
    predictor = Predictor([member], device, pick_amp(args.amp, device), tta)
    images = random_batch(args).images
    return lambda: predictor(images)


def plain_training(args: argparse.Namespace) -> Run:
    """A step of the published code."""
    network, batch = plain.PlainNetwork(fresh_network(args)).train(), random_batch(args)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4)
    return lambda: plain.training_step(
        network, optimizer, batch.images, batch.semantic, batch.change
    )


def our_training(args: argparse.Namespace) -> Run:
    """A step of train.py."""
    device = device_of(args)
    network, batch = fresh_network(args).train(), random_batch(args)
    network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, "adam", lr=1e-4, weight_decay=1e-4)
    loss = Loss(torch.tensor(SENSEEARTH_CLASS_WEIGHTS, device=device))
    normalise, amp = Normalise.of(SECOND).to(device), pick_amp(args.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    fast = for_training(
        network,
        lambda: normalise(batch.images),
        amp,
        compiled=args.compile,
        recomputed=args.grad_checkpointing,
    )

    def step() -> None:
        pixels = loss.count_pixels(batch)
        with autocast(device, amp):
            logits = fast(normalise(batch.images))
        terms = loss(logits, batch, pixels)
        del logits
        scaler.scale(terms.total).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_networks(args: argparse.Namespace, count: int) -> list[plain.PlainNetwork]:
    """The checkpoints as the published scripts load them."""
    networks = []
    for path in checkpoints(args, count):
        network = fresh_network(args)
        network.load_state_dict(read_file(path)["model"])
        networks.append(plain.PlainNetwork(network.eval()))
    return networks


def plain_label(args: argparse.Namespace) -> Run:
    """The published label.py."""

    def run() -> None:
        tiles = plain.PlainPairs(Path(args.root, "data", "train"), labelled=True, training=True)
        batches = DataLoader(tiles, args.batch_size, num_workers=args.num_workers)
        plain.label(plain_networks(args, TEACHERS), batches, Path(args.root, "plain_labels"))

    return run


def plain_test(args: argparse.Namespace) -> Run:
    """The published test.py."""

    def run() -> None:
        tiles = plain.PlainPairs(Path(args.root, "data", "test"), labelled=False)
        batches = DataLoader(tiles, args.batch_size, num_workers=args.num_workers)
        plain.test(plain_networks(args, 1), batches, Path(args.root, "plain_masks"))

    return run


def our_script(args: argparse.Namespace, main: Callable, count: int, *words: str) -> Run:
    """label.py or test.py, in this process, with its defaults."""
    given = ["--data-root", Path(args.root, "data"), "--outdir", Path(args.root, "out")]
    given += ["--checkpoints", *checkpoints(args, count), "--device", args.device]
    given += ["--num-workers", args.num_workers, "--amp", args.amp, *words]
    given += ["--compile"] if args.compile else []

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main([str(word) for word in given])

    return run


def our_label(args: argparse.Namespace) -> Run:
    """label.py over all training tiles."""
    return our_script(
        args, label.main, TEACHERS, "--val-batch-size", args.batch_size, "--overwrite"
    )


def our_test(args: argparse.Namespace) -> Run:
    """test.py over all test tiles."""
    return our_script(args, test.main, 1, "--test-batch-size", args.batch_size)


def take(batches: Iterator, count: int) -> Run:
    """A job that draws `count` batches."""

    def run() -> None:
        for _ in range(count):
            next(batches)

    return run


def plain_loading(args: argparse.Namespace) -> Run:
    """Training batches, decoded each time."""
    tiles = plain.PlainPairs(Path(args.root, "load", "train"), labelled=True, augmented=True)
    workers = {"num_workers": args.num_workers, "persistent_workers": args.num_workers > 0}
    batches = DataLoader(tiles, args.batch_size, shuffle=True, drop_last=True, **workers)
    return take(endless(batches), args.load_pairs // args.batch_size)


def our_loading(args: argparse.Namespace) -> Run:
    """Training batches with --cache ram, after the first epoch."""
    tiles = Source("second", Path(args.root, "load")).build(
        "train", SECOND, cache="ram", augment=Augment()
    )
    batches = train_loader(tiles, args.batch_size, num_workers=args.num_workers)
    for _ in batches:
        pass
    return take(endless(batches), args.load_pairs // args.batch_size)


def endless(batches: DataLoader) -> Iterator:
    """Batches of epoch after epoch, without end."""
    while True:
        yield from batches


def loading_work(args: argparse.Namespace) -> Work:
    """Minimum work of loading: images, labels and change mask, each read and written once."""
    return Work(nbytes=2 * (2 * 3 + 2 + 1) * args.size**2 * args.load_pairs)


def random_masks(args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted and true masks (B, 2, H, W) uint8 on the device, pixels changed at both dates."""
    generator, device = torch.Generator().manual_seed(0), device_of(args)
    shape = (METRIC_PAIRS, 2, args.size, args.size)
    masks = [
        torch.randint(1, 7, shape, generator=generator)
        * (torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.2)
        for _ in range(4)
    ]
    masks = [mask.to(device, torch.uint8) for mask in masks]
    return cycle([(masks[0], masks[1]), (masks[2], masks[3])])


def count_masks(args: argparse.Namespace, confusion: Callable) -> Run:
    """Counts masks into a confusion matrix."""
    masks, counter = random_masks(args), confusion(args)
    return lambda: counter.update(*next(masks))


JOBS: dict[str, Job] = {
    "inference": Job(
        partial(plain_inference, tta="none"),
        partial(our_inference, tta="none"),
        lambda args: args.batch_size,
        prediction_work,
    ),
    "inference, six views": Job(
        partial(plain_inference, tta="flip_rot"),
        partial(our_inference, tta="flip_rot"),
        lambda args: args.batch_size,
        lambda args: prediction_work(args).times(VIEWS),
    ),
    "training step": Job(
        plain_training,
        our_training,
        lambda args: args.batch_size,
        lambda args: prediction_work(args).times(1 + BACKWARD),
    ),
    "label.py, 3 teachers": Job(
        plain_label,
        our_label,
        lambda args: args.pairs,
        lambda args: prediction_work(args).times(TEACHERS * VIEWS * args.pairs / args.batch_size),
        make_program_inputs,
        is_program=True,
    ),
    "test.py": Job(
        plain_test,
        our_test,
        lambda args: args.pairs,
        lambda args: prediction_work(args).times(VIEWS * args.pairs / args.batch_size),
        make_program_inputs,
        is_program=True,
    ),
    "data pipeline": Job(
        plain_loading,
        our_loading,
        lambda args: args.load_pairs,
        loading_work,
        make_loading_inputs,
    ),
    "metrics": Job(
        partial(count_masks, confusion=lambda args: plain.PlainConfusion(SECOND.num_classes + 1)),
        partial(
            count_masks,
            confusion=lambda args: ChangeConfusion(SECOND.num_classes, device_of(args)),
        ),
        lambda args: METRIC_PAIRS,
        lambda args: Work(nbytes=4 * METRIC_PAIRS * args.size**2),
    ),
}
