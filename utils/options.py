"""The groups of flags. A script adds the groups whose every flag it uses."""

import argparse
import os
from collections.abc import Iterable

from utils.cli import Parser, fraction, one_of, positive_float, positive_int
from utils.inference import TTA_VIEWS
from utils.precision import AMP_CHOICES

OUTPUT_STRIDES = (8, 16, 32)


def add_data_options(parser: Parser, datasets: Iterable[str]) -> argparse._ArgumentGroup:
    """Where the tiles are."""
    names = list(datasets)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset", default="second", type=one_of("data set", names), help=", ".join(names)
    )
    group.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder with train/ val/ test/ (default: the data set's own; second: data/dataset)",
    )
    group.add_argument(
        "--folders",
        nargs="+",
        metavar="KEY=NAME",
        help="other folder names, such as im1=A im2=B train=SECOND_train_set "
        "(keys: train val test im1 im2 label1 label2)",
    )
    return group


def add_split_option(group: argparse._ArgumentGroup) -> None:
    """Which training tiles validate."""
    group.add_argument(
        "--split",
        default="every10th",
        metavar="RULE",
        help="which tiles validate: every10th of train/, hash10 (10 %% by a hash of the id), "
        "official (a labelled val/), or a text file of ids",
    )


def add_model_options(
    parser: Parser, networks: Iterable[str], backbones: Iterable[str]
) -> argparse._ArgumentGroup:
    """Which network."""
    group = parser.add_argument_group("model")
    names = list(networks)
    group.add_argument(
        "--model", default="pspnet", type=one_of("network", names), help=", ".join(names)
    )
    group.add_argument(
        "--backbone",
        default="hrnet_w18",
        help=f"{', '.join(backbones)}, or any timm model with a feature pyramid",
    )
    group.add_argument(
        "--lightweight", action="store_true", help="depthwise-separable convolutions in the heads"
    )
    return group


def add_ensemble_options(
    parser: Parser, networks: Iterable[str], backbones: Iterable[str]
) -> argparse._ArgumentGroup:
    """Which trained networks."""
    group = parser.add_argument_group("networks")
    group.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="FILE",
        help="trained networks to average (default: all of OUTDIR/models/*.pth)",
    )
    group.add_argument(
        "--model",
        nargs="+",
        type=one_of("network", networks),
        help="for published state dicts, which do not say: one for all, or one for each",
    )
    group.add_argument(
        "--backbone", nargs="+", help=f"likewise, such as {', '.join(list(backbones)[:3])}"
    )
    group.add_argument("--lightweight", action="store_true", help="likewise: depthwise heads")
    return group


def add_tta_option(group: argparse._ArgumentGroup, default: str) -> None:
    """Test-time augmentation."""
    group.add_argument(
        "--tta",
        nargs="?",
        const="flip_rot",
        default=default,
        choices=list(TTA_VIEWS),
        help="average over views: flip_rot = the six published, d4 = all eight; bare: flip_rot",
    )


def add_runtime_options(parser: Parser) -> argparse._ArgumentGroup:
    """How and where it runs."""
    group = parser.add_argument_group("runtime")
    group.add_argument("--outdir", default="outdir", metavar="DIR", help="everything goes here")
    group.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto and cuda use every visible GPU, one process each",
    )
    group.add_argument(
        "--amp", default="auto", choices=AMP_CHOICES, help="arithmetic; auto: bf16 if it is fast"
    )
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the network (slow start, then faster)"
    )
    group.add_argument(
        "--num-workers", default=default_workers(), type=int, help="processes that read tiles"
    )
    group.add_argument("--seed", default=0, type=int, help="of every random choice")
    return group


def default_workers() -> int:
    """As many as there are cores, at most 8."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 8)


def add_training_data_options(group: argparse._ArgumentGroup) -> None:
    """What training does to its tiles."""
    group.add_argument(
        "--use-pseudo-label",
        nargs="?",
        const="",
        metavar="DIR",
        help="take classes from label.py's masks (bare: OUTDIR/masks/train); change stays true",
    )
    group.add_argument(
        "--cache", choices=("ram",), help="keep decoded tiles in memory, one copy a process"
    )
    group.add_argument("--crop-size", type=positive_int, metavar="PX", help="random crops")
    group.add_argument("--swap-dates", action="store_true", help="exchange the dates at random")
    group.add_argument(
        "--jitter", type=fraction, default=0.0, help="photometric change per date, 0..1"
    )


def add_training_model_options(group: argparse._ArgumentGroup) -> None:
    """How a network is built and what it starts from."""
    group.add_argument(
        "--output-stride",
        "--out-stride",
        type=int,
        choices=OUTPUT_STRIDES,
        help="image px per px of the deepest map (default: 8 for fcn, pspnet and deeplabv3plus "
        "where timm has it, else the backbone's own)",
    )
    group.add_argument("--dropout", type=fraction, default=0.1, help="of the heads, 0..1")
    group.add_argument(
        "--pretrained",
        nargs="?",
        const="",
        metavar="FILE",
        help="ImageNet backbone (bare: data/pretrained_models/BACKBONE.pth, else timm's download)",
    )
    group.add_argument(
        "--pretrain-from", metavar="FILE", help="start from a checkpoint, as far as it fits"
    )
    group.add_argument("--load-from", metavar="FILE", help="validate this checkpoint and stop")


def add_optimisation_options(parser: Parser) -> None:
    """The training loop."""
    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--epochs", type=positive_int, default=30, help="passes over the training tiles"
    )
    group.add_argument("--max-steps", type=positive_int, help="stop after this many steps instead")
    group.add_argument(
        "--batch-size", type=positive_int, default=8, help="pairs a step, all GPUs together"
    )
    group.add_argument("--val-batch-size", type=positive_int, default=16, help="pairs at a time")
    group.add_argument(
        "--accumulate",
        type=positive_int,
        default=1,
        metavar="N",
        help="work through each batch in N parts: less memory, the same loss but for batch norm",
    )
    group.add_argument(
        "--lr", type=positive_float, default=0.00015, help="of the backbone; heads 10x"
    )
    group.add_argument("--weight-decay", type=float, default=1e-4, help="of Adam")
    group.add_argument(
        "--class-weights",
        nargs="+",
        type=float,
        metavar="W",
        help="one weight a class (default: 2 1 2 2 1 1 for six classes, as published; all 1 with "
        "--use-pseudo-label)",
    )
    group.add_argument(
        "--ema",
        nargs="?",
        type=fraction,
        const=0.999,
        metavar="DECAY",
        help="validate and save a moving average of the weights (bare: 0.999 a step)",
    )
    group.add_argument(
        "--sync-bn",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="batch statistics over all processes, so that N compute what one would",
    )
    group.add_argument(
        "--val-every", type=positive_int, metavar="STEPS", help="validate (default: each epoch)"
    )
    group.add_argument(
        "--save-every",
        type=positive_int,
        metavar="STEPS",
        help="save last.pth (default: each epoch)",
    )
    group.add_argument(
        "--log-every", type=positive_int, default=10, metavar="STEPS", help="log interval"
    )
    add_tta_option(group, "none")
    group.add_argument(
        "--save-mask", action="store_true", help="write validation masks to OUTDIR/masks/val"
    )


def add_run_options(group: argparse._ArgumentGroup) -> None:
    """The run's folder."""
    group.add_argument(
        "--name", help="of the run's folder OUTDIR/runs/NAME (default: model, backbone and time)"
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="FILE",
        help="go on with an interrupted run's last.pth (bare: the newest run under OUTDIR/runs)",
    )
