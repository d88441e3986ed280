"""Exports a trained network to ONNX or to a torch.export program, for use without this code.

`python -m models.export CHECKPOINT [--out FILE] [--format onnx|torch_export]`. The input of both
is `images`, float32 (B, T, C, H, W), normalised, with any B, H and W. Outputs are the fields of
Logits that the network has, by name. The metadata hold the recipe, so that an ONNX file can replace
its checkpoint (--checkpoints FILE.onnx).
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints import load_network, scheme_of, trained_scheme
from models.onnx_network import METADATA, OnnxNetwork, require
from models.recording import output_names, record, without_adaptive_pooling
from utils.cli import Parser, positive_int, run
from utils.files import atomic_path
from utils.probabilities import to_probs
from utils.structures import Logits

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
CHECKED_SIZES = ((1, 128, 160), (3, 131, 97))  # batch, height, width; other sizes than in `record`
TOLERANCE = 1e-3  # maximum difference of probabilities


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, recipe: dict[str, Any], opset: int | None
) -> None:
    """Writes an ONNX file. `opset`: operator set version; None: default of torch.

    Raises:
        ValueError: torch cannot write that opset.
    """
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of the exporter
        exported = torch.onnx.export(
            without_adaptive_pooling(program),
            input_names=["images"],
            output_names=output_names(program),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    model = exported.model_proto
    written = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset not in (None, written):
        raise ValueError(
            f"--opset {opset}: torch {torch.__version__} could write opset {written} only; pass "
            "that, or leave it out"
        )
    _annotate(model, recipe)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _annotate(model: Any, recipe: dict[str, Any]) -> None:
    """Names the dynamic axes of an onnx.ModelProto and adds the recipe to its metadata."""
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        for size, name in ((sizes[0], "batch"), (sizes[-2], "height"), (sizes[-1], "width")):
            size.dim_param = name
    del model.graph.value_info[:]  # has the old axis names; only viewers read it
    model.producer_name = METADATA
    model.doc_string = "images: (B, T, C, H, W), normalised: (pixel / scale - mean) / std by band"
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, metadata(recipe)


def metadata(recipe: dict[str, Any]) -> str:
    """Metadata of an exported file as JSON: recipe and torch version."""
    return json.dumps({"recipe": recipe, "torch": str(torch.__version__)})


def write_program(
    program: torch.export.ExportedProgram, path: Path, recipe: dict[str, Any]
) -> None:
    """Writes a .pt2 file for `torch.export.load`; the recipe is in the extra file twodates.json."""
    torch.export.save(program, str(path), extra_files={f"{METADATA}.json": metadata(recipe)})


def read_program(path: Path) -> Callable[[Tensor], Logits]:
    """Loads the network of a .pt2 file that this process has written.

    Only for trusted files: torch.export.load may execute code from the file.
    """
    module = torch.export.load(str(path)).module()
    return lambda images: Logits(**module(images))


@torch.no_grad()
def largest_difference(
    network: Callable[[Tensor], Logits], other: Callable[[Tensor], Logits], images: Tensor
) -> float:
    """Largest difference between the probabilities of two networks; NaN if one of them has NaN.

    Raises:
        ValueError: the networks have different heads.
    """
    differences = []
    for name, a, b in zip(
        Logits._fields, to_probs(network(images)), to_probs(other(images)), strict=False
    ):
        if (a is None) != (b is None):
            raise ValueError(f"only one of the two networks gives {name} scores")
        if a is not None:
            differences.append((a - b).abs().max())
    return float(torch.stack(differences).max())


def check(
    network: Callable[[Tensor], Logits],
    written: Callable[[Tensor], Logits],
    dates: int,
    bands: int,
) -> None:
    """Compares an exported network with the original on random images; prints the differences.

    Raises:
        ValueError: their probabilities differ by more than TOLERANCE.
    """
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in CHECKED_SIZES:
        images = torch.randn(batch, dates, bands, height, width, generator=generator)
        difference = largest_difference(network, written, images)
        print(f"{batch} x {height} x {width} px: probabilities differ by at most {difference:.1e}")
        if not difference <= TOLERANCE:
            raise ValueError(
                f"at {height} x {width} px the exported network's probabilities differ from the "
                f"original's by {difference:.1e}, which must stay below {TOLERANCE:g}; no file is "
                "written. Try another --format or --opset, or another version of torch."
            )


def export(
    checkpoint: Path | str, target: Path, file_format: str = "onnx", opset: int | None = None
) -> None:
    """Exports a checkpoint; the file is kept only if its predictions match the original.

    Args:
        checkpoint: one of our checkpoints.
        target: the file to write.
        file_format: a key of SUFFIXES.
        opset: ONNX operator set version; None: default of torch.

    Raises:
        FileNotFoundError, ValueError: see `load_network`; packages are missing, torch cannot
            export this network, or predictions differ.
    """
    network, recipe = load_network(checkpoint)
    scheme = scheme_of(recipe)
    dates, bands = scheme.num_dates, len(scheme.bands)
    with atomic_path(target) as temporary:
        try:
            program = record(network, dates, bands)
            if file_format == "onnx":
                write_onnx(program, temporary, recipe, opset)
                check(network, OnnxNetwork(temporary), dates, bands)
            else:
                write_program(program, temporary, recipe)
                check(network, read_program(temporary), dates, bands)
        except Exception as error:  # exporters of torch raise many exception types
            if isinstance(error, (ValueError, OSError)):
                raise
            raise ValueError(_cannot(recipe, file_format, error)) from error


def _cannot(recipe: dict[str, Any], file_format: str, error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:200]
    if line.startswith("Guard failed"):  # followed by a formula
        line = "it holds for some sizes only"
    other = "" if file_format == "onnx" else "try --format onnx, "
    return (
        f"torch {torch.__version__} cannot export {recipe['model']} on {recipe['backbone']} as "
        f"{file_format} for images of any size ({type(error).__name__}: {line}); {other}use the "
        "checkpoint itself, or train with another --backbone"
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        "Write a trained network as ONNX or as a torch.export program.",
        prog="python -m models.export",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="one of ours (.pth)")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="(default: CHECKPOINT with .onnx or .pt2)"
    )
    parser.add_argument(
        "--format",
        default="onnx",
        choices=list(SUFFIXES),
        help="onnx, which also serves as --checkpoints FILE.onnx, or a .pt2 of torch.export "
        "(default: onnx)",
    )
    parser.add_argument(
        "--opset", type=positive_int, help="version of ONNX's operators (default: torch's choice)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args(argv)
    if args.opset is not None and args.format != "onnx":
        parser.error(f"--opset is for --format onnx, not {args.format}; leave it out")
    return args


def main(argv: list[str] | None = None) -> None:
    """Exports a checkpoint."""
    args = parse_args(argv)
    target = args.out or args.checkpoint.with_suffix(SUFFIXES[args.format])
    if target.suffix != SUFFIXES[args.format]:
        raise ValueError(
            f"--out {target}: a file of --format {args.format} ends in {SUFFIXES[args.format]}"
        )
    if target.exists() and not args.overwrite:
        raise ValueError(f"{target} exists; pass --overwrite to replace it")
    if args.format == "onnx":
        require("onnx", "onnxscript", "onnxruntime")
    if trained_scheme(args.checkpoint) is None:
        raise ValueError(
            f"{args.checkpoint} does not say which network it is for; convert it first: python -m "
            f"models.checkpoints convert {args.checkpoint} OUT.pth --model M --backbone B"
        )
    export(args.checkpoint, target, args.format, args.opset)
    print(f"wrote {target} ({os.path.getsize(target) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main)
