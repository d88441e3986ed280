"""Maps of change, or of land cover, from georeferenced images of any size.

`python predict.py BEFORE.tif AFTER.tif --checkpoints NETWORK.pth --out DIR`
"""

import argparse
from pathlib import Path

from inference.ensemble import Chosen, load_ensemble
from inference.predictor import Predictor
from maps.checks import MapOptions, check_options, map_settings
from maps.making import MapJob, check_jobs, make_map, print_once
from maps.pairs import find_maps
from models.checkpoints import trained_scheme
from models.published import PUBLISHED_FORMATS, Published
from options.predict import parse_args
from report import write_report
from utils import distributed
from utils.cli import run
from utils.precision import pick_amp
from utils.structures import Scheme


def main(argv: list[str] | None = None) -> None:
    """Checks all inputs, then predicts one map after another."""
    args = parse_args(argv)
    distributed.relaunch_per_gpu(args.device)
    with distributed.session(args.device) as device:
        network_flags = {name: getattr(args, name) for name in NETWORK_FLAGS}
        chosen = Chosen.of(args.checkpoints, args.outdir, **network_flags)
        scheme, amp = (
            scheme_of_networks(chosen.paths[0], chosen.published[0]),
            pick_amp(args.amp, device),
        )
        options = MapOptions(**{name: getattr(args, name) for name in MapOptions._fields})
        options = options._replace(out=Path(args.out), vector=tuple(args.vector))
        computed = {**network_flags, "amp": str(amp), "compile": args.compile}
        jobs = [
            MapJob(one, map_settings(options, one.images, chosen, computed, device), options)
            for one in find_maps(args.inputs, scheme.num_dates)
        ]
        check_options(options, scheme, args.report)
        finished = check_jobs(jobs, [Path(path) for path in args.checkpoints or ()], scheme)
        members = load_ensemble(chosen.paths, device, scheme, chosen.published, args.compile)
        predictor = Predictor(members, device, amp, args.tta)
        print_once("networks:", *chosen.paths, sep="\n  ")
        for number, job in enumerate(jobs, start=1):
            print_once(f"map {number} of {len(jobs)}:", *map(str, job.images.images))
            if finished.has(job.images.name, job.settings):
                print_once("finished before the run was interrupted")
            else:
                make_map(job, predictor, scheme, finished, about(args, chosen))
        if distributed.is_main():
            if args.report:
                print(write_report(args.out, maps=[job.folder for job in jobs]))
            finished.remove()


# flags that describe published networks
NETWORK_FLAGS = ("model", "backbone", "lightweight", "output_stride")


def scheme_of_networks(path: Path, hint: Published | None) -> Scheme:
    """The scheme (bands and classes) of the first network."""
    scheme = trained_scheme(path)
    if scheme is None and hint is not None and hint.model in PUBLISHED_FORMATS:
        scheme = PUBLISHED_FORMATS[hint.model].scheme
    if scheme is None:
        raise ValueError(
            f"{path} does not say what it was trained on: say what it is with --model and "
            "--backbone, or put its args.pkl beside it"
        )
    return scheme


def about(args: argparse.Namespace, chosen: Chosen) -> dict:
    """Networks and options, stored in predict.json."""
    options = {name: value for name, value in vars(args).items() if name != "change_only"}
    return {"checkpoints": [str(path) for path in chosen.paths], "options": options}


if __name__ == "__main__":
    run(main, "(the same command goes on where this stopped)")
