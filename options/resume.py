"""--resume: the options of the run that goes on."""

import argparse
from collections.abc import Mapping
from typing import Any

from training.run_folders import find_run, outdir_of, read_options
from utils.cli import Parser

# options that may differ with --resume, since they do not change the results
FREE_ON_RESUME = {
    *("resume", "config", "device", "num_workers", "cache", "cache_dir", "compile", "cuda_graphs"),
    *("grad_checkpointing", "save_every", "keep_every", "log_every", "save_mask"),
}


def take_over_options(parser: Parser, args: argparse.Namespace, given: set[str]) -> None:
    """Sets the options of the interrupted run (--resume), except given ones of FREE_ON_RESUME.

    More --epochs or --max-steps than the run's lengthen it.
    """
    last = find_run(args.resume, args.outdir, args.name)
    options = read_options(last.parent)
    free = lengthen(parser, args, options, given)
    # use the values of the run that was found
    args.resume, args.outdir, args.name = str(last), str(outdir_of(last)), options["name"]
    for key, value in options.items():
        if key in ("resume", "config", "outdir", "name", "extensions", *free) or (
            key in given and key in FREE_ON_RESUME
        ):
            continue
        if key in given and getattr(args, key) != value:
            parser.error(
                f"--{key.replace('_', '-')} {getattr(args, key)} differs from the interrupted "
                f"run's {'default' if value is None else value}; leave it out, or start a new run "
                "without --resume"
            )
        setattr(args, key, value)


def lengthen(
    parser: Parser, args: argparse.Namespace, options: Mapping[str, Any], given: set[str]
) -> set[str]:
    """Sets `args.extensions`; returns the options that are not those of the interrupted run."""
    args.extensions = options.get("extensions", [])
    length = "max_steps" if options["max_steps"] else "epochs"
    if length == "max_steps" and "epochs" in given and args.epochs != options["epochs"]:
        parser.error(
            f"--epochs: the run was limited by --max-steps {options['max_steps']}; lengthen it "
            "with more of those"
        )
    rates = ("lr_policy", "lr", "lr_gamma", "lr_min")
    if length not in given:
        return set()
    if getattr(args, length) == options[length]:
        if not args.extensions:
            return set()
        for name in rates:  # the command that lengthened the run is given again
            setattr(args, name, options[name])
        return set(rates)
    if getattr(args, length) < options[length]:
        name = length.replace("_", "-")
        parser.error(f"--{name}: the run has {options[length]} of them; only more lengthen it")
    if "lr_policy" not in given and given & set(rates):
        parser.error(
            f"--{min(given & set(rates)).replace('_', '-')}: without --lr-policy the added steps "
            "keep the last learning rate of the run; pass --lr-policy too for a schedule of theirs"
        )
    policy = args.lr_policy if "lr_policy" in given else None
    lr = args.lr if "lr" in given else options["lr"]
    extension = [options[length], policy, lr, args.lr_gamma, args.lr_min]
    args.extensions = [*args.extensions, extension]
    for name in rates:
        setattr(args, name, options[name])
    return {length, *rates}
