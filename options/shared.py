"""Groups of flags shared by several scripts; a script adds only groups that it uses completely."""

import argparse
import os
from collections.abc import Iterable

import torch

from datasets.build import Source
from datasets.change_masks import CODINGS
from datasets.layout import parse_names
from inference.views import TTA_VIEWS
from utils.cli import SWITCH, Parser, one_of

AMP_CHOICES = ("auto", "bf16", "fp16", "fp32")
OUTPUT_STRIDES = (8, 16, 32)


def without_disabled(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Sorted `names` without switches that are turned off."""
    return sorted(name for name in names if getattr(args, name) is not False)


def add_data_options(parser: Parser, datasets: Iterable[str]) -> argparse._ArgumentGroup:
    """Adds flags for the data set and its folders."""
    names = list(datasets)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset", default="second", type=one_of("data set", names), help=", ".join(names)
    )
    group.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder of the data set (default: its own; second: data/dataset)",
    )
    group.add_argument(
        "--folders",
        nargs="+",
        metavar="KEY=NAME",
        help="other names of folders and files, such as im1=A im2=B train=SECOND_train_set "
        "(keys: train val test im1 im2 label1 label2; pairs: also change label classes; binary: "
        "label; rucode: images masks sample_submission; folder: images labels classes; naic2020: "
        "the lists train val test; sen12ms: holdout_scenes)",
    )
    group.add_argument(
        "--suffixes",
        nargs="+",
        metavar="KEY=END",
        help="ends of file names that are not in the ids, such as im1=_pre im2=_post; keys as of "
        "--folders; pairs, binary, folder",
    )
    return group


def source_of(args: argparse.Namespace) -> Source:
    """The data set that the flags of `add_data_options` and `add_scene_data_options` name.

    Raises:
        ValueError: a value of --folders or --suffixes without the form KEY=NAME.
    """
    return Source(
        args.dataset,
        args.data_root,
        parse_names(args.folders),
        args.label_coding,
        args.outdir,
        parse_names(args.suffixes, "--suffixes"),
    )


def add_scene_data_options(group: argparse._ArgumentGroup) -> None:
    """Adds flags for data sets with images of any size and number of bands."""
    group.add_argument(
        "--bands",
        nargs="+",
        metavar="BAND",
        help="bands to read, by name or number from 1, or grey; pairs, binary, folder, rucode "
        "(default: all but alpha; red green blue of rucode's; grey with --fusion difference)",
    )
    group.add_argument(
        "--label-coding",
        choices=CODINGS,
        help="change masks: 01 = 0, 1 and 255 for not labelled; 0255 = 0 and 255 for changed; each "
        "= each file by its own values; auto (default) looks at all masks of the data set",
    )


def add_split_option(group: argparse._ArgumentGroup) -> None:
    """Adds --split, the rule for validation tiles."""
    group.add_argument(
        "--split",
        metavar="RULE",
        help="which tiles validate: every10th of train/, hash10 (10 %% by a hash of the id), "
        "official (a labelled val/), leave_out:ID, area[:SHARE] (the bottom rows of every image), "
        "or a text file of ids (default: every10th; rucode: "
        "area; naic2020 and sen12ms: official)",
    )


def add_model_options(
    parser: Parser, networks: Iterable[str], backbones: Iterable[str]
) -> argparse._ArgumentGroup:
    """Adds flags for the network."""
    group = parser.add_argument_group("model")
    names = list(networks)
    group.add_argument(
        "--model", default="pspnet", type=one_of("network", names), help=", ".join(names)
    )
    group.add_argument(
        "--backbone",
        help=f"{', '.join(backbones)}, or any timm model with a feature pyramid (default: "
        "hrnet_w18; resnet101 with dfc_deeplabv3plus, resnet101c with mmseg_*; none with "
        "plain_unet, which takes none)",
    )
    group.add_argument(
        "--lightweight",
        **SWITCH,
        help="depthwise-separable convolutions in the heads",
    )
    return group


def add_ensemble_options(
    parser: Parser, networks: Iterable[str], backbones: Iterable[str]
) -> argparse._ArgumentGroup:
    """Adds flags for trained networks."""
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
        help="network of published state dicts; ours name it: one for all, or one for each",
    )
    group.add_argument(
        "--backbone",
        nargs="+",
        help=f"as --model: of published files; such as {', '.join(list(backbones)[:3])}",
    )
    group.add_argument(
        "--lightweight",
        **SWITCH,
        help="published files only: they have depthwise heads",
    )
    group.add_argument(
        "--output-stride",
        "--out-stride",
        type=int,
        choices=OUTPUT_STRIDES,
        help="published files only: stride of the backbone (default: the network's)",
    )
    return group


def add_tta_option(group: argparse._ArgumentGroup, default: str) -> None:
    """Adds --tta, test-time augmentation."""
    group.add_argument(
        "--tta",
        nargs="?",
        const="flip_rot",
        default=default,
        choices=list(TTA_VIEWS),
        help="views to average over: none; flip_lr = flipped left to right too; flip_rot = the six "
        "published (flips and rotations); d4 = all eight; bare: flip_rot",
    )


def add_device_options(group: argparse._ArgumentGroup) -> None:
    """Adds flags for device and precision."""
    group.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto and cuda use every visible GPU, one process each",
    )
    group.add_argument(
        "--amp", default="auto", choices=AMP_CHOICES, help="arithmetic; auto: bf16 if it is fast"
    )


def add_runtime_options(parser: Parser) -> argparse._ArgumentGroup:
    """Adds flags for output folder, device, precision, workers and seed."""
    group = parser.add_argument_group("runtime")
    group.add_argument("--outdir", default="outdir", metavar="DIR", help="everything goes here")
    add_device_options(group)
    group.add_argument(
        "--compile",
        **SWITCH,
        help="torch.compile: slow start; pays in training on a GPU",
    )
    group.add_argument(
        "--num-workers",
        default=default_workers(),
        type=int,
        help="processes that read tiles; threads, where a cache has them decoded",
    )
    group.add_argument("--seed", default=0, type=int, help="of every random choice")
    return group


def default_workers() -> int:
    """Number of available cores, at most 8."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 8)


def usual_batch_size(device: str) -> int:
    """Pairs of 512 px at a time in prediction; on a CPU more of them cost memory only."""
    return 16 if device != "cpu" and torch.cuda.is_available() else 4
