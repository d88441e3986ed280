"""The command line of train.py."""

import argparse
from collections.abc import Iterable

from datasets import DATASETS
from datasets.sentinel.data_sets import add_band_flags
from models import BACKBONES, NETWORKS
from models.build import backbone_of
from options import shared
from options.resume import take_over_options
from options.rucode_config import read_rucode_config
from options.shared import OUTPUT_STRIDES, add_tta_option
from training.schedule import LR_POLICIES, MOMENTA, check_flags
from utils.cli import SWITCH, Parser, fraction, one_of, positive_float, positive_int

CHANGE_ONLY = {"swap_dates", "change_loss", "changed_weight"}  # without effect on one date
FUSIONS = ("features", "difference", "concat")


def build_parser() -> Parser:
    """Builds the parser with all flags of train.py."""
    description = "Train a network on tiles of two dates (or one)."
    parser = Parser(description, prog="train.py", read_json=read_rucode_config)
    data = shared.add_data_options(parser, DATASETS)
    shared.add_split_option(data)
    shared.add_scene_data_options(data)
    add_band_flags(data)
    add_training_data_options(data, DATASETS)
    model = shared.add_model_options(parser, NETWORKS, BACKBONES)
    add_training_model_options(model)
    add_optimisation_options(parser)
    add_run_options(shared.add_runtime_options(parser))
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line; with --resume, uses the options of the interrupted run."""
    parser = build_parser()
    args = parser.parse_args(argv)
    args.backbone, given = backbone_of(args.model, args.backbone), parser.given(argv)
    args.extensions = []
    check_flags(args.optimizer, args.momentum, args.lr_policy, args.lr, args.lr_min, args.lr_gamma)
    if DATASETS[args.dataset].task == "land_cover":
        for name in shared.without_disabled(args, given & CHANGE_ONLY):
            parser.error(
                f"--{name.replace('_', '-')} is for change, --dataset {args.dataset} has one date; "
                "leave it out"
            )
    if args.resume is not None:
        take_over_options(parser, args, given)
    check_data_flags(args.dataset, args.val_dataset, args.val_root, args.split)
    if args.load_from:  # our own files describe themselves; given flags must not contradict them
        args.network_flags = sorted(given & {"model", "backbone", "lightweight", "output_stride"})
    if "cache_dir" in given and args.cache != "disk":
        parser.error("--cache-dir is for --cache disk; leave it out, or pass --cache disk")
    if args.grad_checkpointing and args.compile:
        remedy = "or pass --no-grad-checkpointing or --no-compile beside --resume"
        parser.error(
            f"--grad-checkpointing and --compile exclude each other; leave one out, {remedy}"
        )
    return args


def check_data_flags(
    dataset: str,
    val_dataset: str | None,
    val_root: str | None,
    split_rule: str | None,
) -> None:
    """Raises ValueError for contradictory data flags; arguments are the values of the flags."""
    if val_dataset is not None and split_rule not in (None, "official"):
        raise ValueError(
            f"--split {split_rule} and --val-dataset {val_dataset} both choose the "
            "validation images; leave one out"
        )
    if val_dataset is None and val_root is not None:
        raise ValueError("--val-root belongs to --val-dataset; pass both, or neither")


def add_training_data_options(group: argparse._ArgumentGroup, datasets: Iterable[str]) -> None:
    """Adds flags for training and validation data, cache and augmentation."""
    group.add_argument(
        "--val-dataset",
        type=one_of("data set", list(datasets)),
        metavar="NAME",
        help="validate on the val part of another data set with the same classes and bands, such "
        "as dfc2020 with --dataset sen12ms; then the whole of --dataset's train part trains",
    )
    group.add_argument(
        "--val-root", metavar="DIR", help="folder of --val-dataset (default: its own)"
    )
    group.add_argument(
        "--use-pseudo-label",
        nargs="?",
        const="",
        metavar="DIR",
        help="take classes from label.py's masks (bare: OUTDIR/masks/train); change stays true",
    )
    group.add_argument(
        "--cache",
        choices=("ram", "disk"),
        help="keep decoded tiles: in memory, one copy a machine; or in a file that later runs find",
    )
    group.add_argument(
        "--cache-dir", metavar="DIR", default="data/cache", help="folder of --cache disk"
    )
    group.add_argument("--crop-size", type=positive_int, metavar="PX", help="random crops")
    group.add_argument(
        "--positive-crops",
        type=fraction,
        metavar="P",
        help="chance that a crop is drawn so that it holds a change; binary (default: 0) and "
        "rucode (0.7)",
    )
    group.add_argument(
        "--samples-per-image",
        type=positive_int,
        metavar="N",
        help="crops of each image an epoch; binary and folder (default: 1), rucode (100)",
    )
    group.add_argument(
        "--orient",
        choices=("six", "turn_flip", "none"),
        help="random flips and turns: six = one of the six published, turn_flip = each half "
        "of the time, none (default: six; rucode: turn_flip; naic2020 and Sentinel data: none)",
    )
    group.add_argument(
        "--swap-dates",
        **SWITCH,
        help="exchange the dates at random",
    )
    group.add_argument(
        "--jitter", type=fraction, default=0.0, help="photometric change per date, 0..1"
    )


def add_training_model_options(group: argparse._ArgumentGroup) -> None:
    """Adds flags for the network and its initial weights."""
    group.add_argument(
        "--output-stride",
        "--out-stride",
        type=int,
        choices=OUTPUT_STRIDES,
        help="image px per px of the deepest map (default: 8 for fcn, pspnet, deeplabv3plus, "
        "tfinet and mmseg_*, 16 for dfc_deeplabv3plus, where timm has it, else the backbone's own)",
    )
    group.add_argument("--dropout", type=fraction, default=0.1, help="of the heads, 0..1")
    group.add_argument(
        "--fusion",
        choices=FUSIONS,
        help="unet and unetplusplus: the dates meet as features (default), as one difference image "
        "or as bands side by side; the latter two for binary change only",
    )
    group.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="siamese_unet: swapping the dates changes nothing (default), or its published decoder",
    )
    group.add_argument(
        "--init",
        choices=("paper", "released"),
        help="tfinet: weights drawn as its paper says (default: all but the backbone's), or as its "
        "code does (the backbone's too, whatever --pretrained)",
    )
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
    """Adds flags for the optimiser, the loss and the training loop."""
    _add_optimizer_options(parser.add_argument_group("optimiser"))
    _add_loss_options(parser.add_argument_group("loss"))
    _add_loop_options(parser.add_argument_group("training loop"))


def _add_optimizer_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--optimizer", choices=list(MOMENTA), default="adam", help="what takes the steps"
    )
    group.add_argument(
        "--lr",
        type=positive_float,
        default=0.00015,
        help="of the backbone; of a network without one, of everything",
    )
    group.add_argument(
        "--head-lr-factor",
        type=positive_float,
        default=10.0,
        help="times --lr, for the heads on a backbone",
    )
    group.add_argument(
        "--momentum",
        type=fraction,
        help="of --optimizer sgd (default: 0.9) and rmsprop (default: 0)",
    )
    group.add_argument(
        "--weight-decay", type=float, default=1e-4, help="L2 penalty on every weight"
    )
    group.add_argument(
        "--lr-policy",
        choices=list(LR_POLICIES),
        default="poly",
        help="; ".join(f"{name}: {text}" for name, text in LR_POLICIES.items()),
    )
    group.add_argument("--lr-gamma", type=fraction, help="of --lr-policy step and exponential")
    group.add_argument(
        "--lr-min",
        type=fraction,
        default=0.0,
        metavar="LR",
        help="where --lr-policy poly ends",
    )
    group.add_argument(
        "--ema",
        nargs="?",
        type=fraction,
        const=0.999,
        metavar="DECAY",
        help="validate and save a moving average of the weights (bare: 0.999 a step)",
    )


def _add_loss_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--change-loss",
        choices=("bce", "dice_bce"),
        default="bce",
        help="bce: cross-entropy, changed pixels --changed-weight times; dice_bce: Dice and "
        "unweighted cross-entropy",
    )
    group.add_argument(
        "--changed-weight", type=positive_float, default=2.0, help="of changed pixels in bce"
    )
    group.add_argument(
        "--class-weights",
        nargs="+",
        type=float,
        metavar="W",
        help="one weight a class (default: 2 1 2 2 1 1 for SECOND's six, as published; all 1 for "
        "others and with --use-pseudo-label)",
    )
    group.add_argument(
        "--loss-mean-over",
        choices=("labelled", "all"),
        default="labelled",
        help="what the classes' loss is divided by: labelled pixels, or all, ignored ones and "
        "padding counting 0",
    )
    group.add_argument(
        "--aux-weight",
        type=float,
        help="of the loss of tfinet's gate (default: 2) or of mmseg_*'s auxiliary head (0.4)",
    )


def _add_loop_options(group: argparse._ArgumentGroup) -> None:
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
        help="work through each batch in N parts: less memory, the same loss but for batch norm "
        "and Dice",
    )
    group.add_argument(
        "--grad-checkpointing",
        **SWITCH,
        help="compute maps within blocks of a ResNet or HRNet again instead of keeping them: less "
        "memory, slower, the same numbers; not with --compile",
    )
    group.add_argument(
        "--sync-bn",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="batch statistics over all processes, so that N compute what one would",
    )
    group.add_argument(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on one GPU launch a network's kernels together: the same numbers, faster with small "
        "batches; not with --accumulate or --grad-checkpointing, nor where --compile finds no "
        "ResNet or HRNet",
    )
    _add_interval_options(group)
    add_tta_option(group, "none")
    group.add_argument("--save-mask", **SWITCH, help="write validation masks to OUTDIR/masks/val")


def _add_interval_options(group: argparse._ArgumentGroup) -> None:
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
        "--keep-every",
        type=positive_int,
        metavar="STEPS",
        help="keep the weights of these steps for good, as step_N.pth in the run's folder",
    )
    group.add_argument(
        "--early-stop",
        type=positive_int,
        metavar="N",
        help="stop after N validations in a row without a better score",
    )
    group.add_argument(
        "--log-every", type=positive_int, default=10, metavar="STEPS", help="log interval"
    )


def add_run_options(group: argparse._ArgumentGroup) -> None:
    """Adds flags for the run folder."""
    group.add_argument(
        "--name", help="of the run's folder OUTDIR/runs/NAME (default: model, backbone and time)"
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="FILE",
        help="go on with an interrupted run's last.pth (bare: the newest run under OUTDIR/runs); "
        "with more --epochs or --max-steps lengthen it, at its last learning rate or with a new "
        "--lr-policy for the added steps",
    )
