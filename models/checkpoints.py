"""Writes and reads our checkpoints, and reads published ones, without executing pickled code.

Our checkpoints hold `model` (a state dict), `recipe` (plain values that rebuild the network) and,
in `last.pth` of a run, the state to resume training.

`python -m models.checkpoints convert IN OUT --model M --backbone B [--lightweight]` converts a
published file to our format. With args.pkl of the DFC2020 baseline beside it, IN and OUT suffice.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import NETWORKS
from models.args_pkl import find_args, read_args
from models.build import backbone_of, build_network, default_output_stride
from models.onnx_network import is_onnx, read_recipe
from models.published import (
    PUBLISHED_FORMATS,
    Published,
    check_one_score,
    network_from_args,
    state_dict_of,
    their_key,
    to_ours,
)
from utils.cli import run
from utils.state_files import SHOWN_KEYS, check_file, load_strictly, read_file, save_checkpoint
from utils.structures import Scheme

RECIPE_KEYS = {
    "model",
    "backbone",
    "lightweight",
    "output_stride",
    "dropout",
    "fine_tuned",
    "options",
    "split",
    *Scheme._fields,
} - {"same_class_change"}  # younger than the first checkpoints


def make_recipe(
    scheme: Scheme,
    *,
    model: str,
    backbone: str | None = None,
    lightweight: bool = False,
    output_stride: int | None = None,
    dropout: float = 0.1,
    fine_tuned: bool = False,
    options: Mapping[str, object] | None = None,
    split_rule: str | None = None,
) -> dict[str, Any]:
    """Recipe: plain values that rebuild a network and describe its classes.

    `backbone` or `output_stride` None: the default of the network. `fine_tuned`: training starts
    from trained weights (sets the momentum of batch norms). `options`: see `build_network`.
    `split_rule`: value of --split in training.
    """
    backbone = backbone_of(model, backbone)
    if output_stride is None:
        output_stride = default_output_stride(model, backbone)
    return {
        "model": model,
        "backbone": backbone,
        "lightweight": lightweight,
        "output_stride": output_stride,
        "dropout": dropout,
        "fine_tuned": fine_tuned,
        "options": dict(options or {}),
        "split": split_rule,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in scheme._asdict().items()},
    }


def scheme_of(recipe: dict[str, Any]) -> Scheme:
    """The data set scheme of a recipe."""
    values = {field: recipe[field] for field in Scheme._fields if field in recipe}
    values["palette"] = tuple(tuple(color) for color in values["palette"])
    return Scheme(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def network_of(recipe: dict[str, Any], pretrained: bool = False) -> nn.Module:
    """Builds a network with new weights from its recipe."""
    network = build_network(
        recipe["model"],
        recipe["backbone"],
        num_classes=len(recipe["classes"]),
        task=recipe["task"],
        in_channels=len(recipe["bands"]),
        lightweight=recipe["lightweight"],
        output_stride=recipe["output_stride"],
        dropout=recipe["dropout"],
        pretrained=pretrained,
        options=recipe["options"],
    )
    if recipe["fine_tuned"] and recipe["backbone"] is not None:
        network.backbone.keep_statistics()
    return network


def load_network(
    path: Path | str,
    device: torch.device | str = "cpu",
    published: Published | None = None,
    scheme: Scheme | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Loads a trained network in eval mode, and its recipe.

    Args:
        path: one of our checkpoints, or a published state dict.
        device: device of the network.
        published: description of a published file; args.pkl or args.json beside it has precedence.
        scheme: data set of a published file; only used with `published`.

    Raises:
        FileNotFoundError, ValueError: see `read_file`, `load_strictly`, `read_args`; or a published
            file without a description.
    """
    _refuse_exported(path)
    content = read_file(path)
    shown = str
    if "recipe" in content:
        recipe, state = content["recipe"], content["model"]
        check_recipe(path, recipe)
        refuse_contradiction(path, published_of(recipe), published)
        if content.get("ema"):
            state = content["ema"]["weights"]
    else:
        own, own_scheme = _network_beside(path, content)
        if own is not None:
            refuse_contradiction(path, own, published, find_args(path))
            published, scheme = own, own_scheme
        if published is None or scheme is None:
            raise ValueError(
                f"{path} is a bare state dict: say what it is with --model, --backbone and, for "
                "depthwise-separable heads, --lightweight, or put its args.pkl beside it"
            )
        if published.model not in PUBLISHED_FORMATS:
            raise ValueError(
                f"{path}: there are no published weights for --model={published.model!r}; "
                f"choose from {', '.join(PUBLISHED_FORMATS)}"
            )
        state_format = PUBLISHED_FORMATS[published.model]
        recipe = make_recipe(scheme, **published._asdict(), options=state_format.options)
        state = to_ours(state_dict_of(content), state_format)
        check_one_score(state, state_format, path)
        shown = partial(their_key, state_format=state_format)
    network = network_of(recipe)
    load_strictly(network, state, path, shown)
    return network.to(device).eval(), recipe


def check_recipe(path: Path | str, recipe: Mapping[str, Any]) -> None:
    """Raises ValueError if a recipe lacks an entry; `path` is for the error message."""
    missing = RECIPE_KEYS - recipe.keys()
    if missing:
        raise ValueError(
            f"{path}: its recipe lacks {', '.join(sorted(missing))}; the file is damaged, or "
            "of another version of this program. Train, convert or export it again."
        )


def _refuse_exported(path: Path | str) -> None:
    check_file(path)
    if is_onnx(path):
        raise ValueError(
            f"{path} is an exported network, whose weights cannot be taken out; pass the "
            "checkpoint that it was exported from"
        )
    if Path(path).suffix.lower() == ".pt2":
        raise ValueError(
            f"{path} is a program of torch.export, and reading that could run code; pass the "
            "checkpoint that it was exported from, or export that as --format onnx"
        )


def _network_beside(
    path: Path | str, content: Mapping[str, Any]
) -> tuple[Published, Scheme] | tuple[None, None]:
    """What args.pkl or args.json says about a DFC2020 baseline file; (None, None) without."""
    args = find_args(path) if "model_state_dict" in content else None
    return (None, None) if args is None else network_from_args(read_args(args), args)


def published_of(recipe: Mapping[str, Any]) -> Published:
    """The model, backbone, heads and output stride of a recipe."""
    return Published(**{field: recipe[field] for field in Published._fields})


def refuse_contradiction(
    path: Path | str, own: Published, given: Published | None, source: Path | None = None
) -> None:
    """Raises ValueError if the command line (`given`) contradicts the network in a file (`own`).

    `source`: file that describes `path`; None: `path` itself.
    """
    if given is None:
        return
    name = f"{own.model} on {own.backbone or 'no backbone'}"
    origin = f"{source} says that {path}" if source else f"{path}"
    remedy = "leave it out, or, where other checkpoints need it, give one for each"
    for option in ("model", "backbone"):
        value = getattr(given, option)
        if value not in (None, getattr(own, option)):
            raise ValueError(f"--{option} {value}: {origin} is {name}; {remedy}")
    if given.output_stride not in (None, own.output_stride):
        raise ValueError(
            f"--output-stride {given.output_stride}: {origin} is {name} with "
            f"{own.output_stride or 'none to choose'}; leave it out"
        )
    if given.lightweight and not own.lightweight:
        raise ValueError(f"--lightweight: {origin} is {name} that is not; leave it out")


def _read_contents(path: Path | str) -> dict[str, Any]:
    """Contents of a checkpoint; for an exported network, only its recipe.

    Raises:
        FileNotFoundError, ValueError: see `read_file`, `OnnxNetwork`.
    """
    if is_onnx(path):
        return {"recipe": read_recipe(path)}
    _refuse_exported(path)
    return read_file(path)


def trained_scheme(path: Path | str) -> Scheme | None:
    """The data set scheme of our checkpoints and of files with an args.pkl; otherwise None."""
    content = _read_contents(path)
    if "recipe" in content:
        check_recipe(path, content["recipe"])
        return scheme_of(content["recipe"])
    return _network_beside(path, content)[1]


def trained_split_rule(path: Path | str) -> str | None:
    """The value of --split in the training of one of our checkpoints; None if unknown."""
    return _read_contents(path).get("recipe", {}).get("split")


def find_checkpoints(outdir: Path | str) -> list[Path]:
    """All of OUTDIR/models/*.pth, sorted.

    Raises:
        FileNotFoundError: there are no checkpoints.
    """
    paths = sorted(Path(outdir, "models").glob("[!.]*.pth"))
    if not paths:
        raise FileNotFoundError(
            f"no checkpoints in {Path(outdir, 'models')}; train one (train.py), or name some with "
            "--checkpoints"
        )
    return paths


def load_matching(network: nn.Module, path: Path | str) -> str:
    """Loads the entries of a file that match in name and shape (--pretrain-from).

    From `last.pth` of a run with --ema, the averaged weights are loaded, as in `load_network`.

    Returns:
        A report line for the log.

    Raises:
        FileNotFoundError, ValueError: see `read_file`; or less than a tenth matches.
    """
    _refuse_exported(path)
    content = read_file(path)
    state = content["ema"]["weights"] if content.get("ema") else state_dict_of(content)
    own = network.state_dict()
    model = next(name for name, kind in NETWORKS.items() if type(network) is kind)
    if "recipe" not in content and model in PUBLISHED_FORMATS:
        renamed = to_ours(state, PUBLISHED_FORMATS[model])
        if len(renamed.keys() & own.keys()) > len(state.keys() & own.keys()):  # has published names
            state = renamed
    fits = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if len(fits) < len(own) / 10:
        raise ValueError(
            f"--pretrain-from {path}: {len(fits)} of the network's {len(own)} entries are in that "
            "file; it belongs to another network. Pass its --model and --backbone."
        )
    network.load_state_dict(fits, strict=False)
    fresh = [k for k in own if k not in fits]
    report_line = f"{path}: loaded {len(fits)} of {len(own)} entries"
    return f"{report_line}; fresh: {', '.join(fresh[:SHOWN_KEYS])}" if fresh else report_line


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.checkpoints", description="Convert published checkpoints."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    convert = commands.add_parser("convert", help="published file -> one of ours")
    convert.add_argument("source", metavar="IN", type=Path, help="published state dict (.pth)")
    convert.add_argument("target", metavar="OUT", type=Path, help="file to write (.pth)")
    convert.add_argument(
        "--model",
        choices=sorted(PUBLISHED_FORMATS),
        help="may be left out if args.pkl lies beside IN",
    )
    convert.add_argument(
        "--backbone", help="such as hrnet_w18 (default: the one usual with --model)"
    )
    convert.add_argument("--lightweight", action="store_true", help="depthwise-separable heads")
    convert.add_argument(
        "--output-stride", type=int, help="of the backbone (default: the one of --model)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Converts a published file to our format."""
    args = parse_args(argv)
    if args.target.exists() and not args.overwrite:
        raise ValueError(f"{args.target} exists; pass --overwrite to replace it")
    published = scheme = None
    if args.model is not None:
        published = Published(args.model, args.backbone, args.lightweight, args.output_stride)
        scheme = PUBLISHED_FORMATS[args.model].scheme
        if scheme is None:
            raise ValueError(
                f"--model {args.model}: which bands and classes {args.source} has is in its "
                "args.pkl; put that beside it and leave out --model"
            )
    network, recipe = load_network(args.source, published=published, scheme=scheme)
    save_checkpoint(args.target, network.state_dict(), recipe)
    print(f"wrote {args.target} ({args.target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main)
