"""The whole method in one command: teachers, pseudo labels, student, test, and a table.

`python -m benchmarks.pipeline --dataset demo` trains two teachers and a student on the generated
data set; with --data-root it does so on yours. Every stage is one of the scripts, run as printed.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from report import write_report
from utils.cli import Parser, run
from utils.state_files import read_file

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("score", "miou", "sek")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        "Train teachers, label, re-train a student, test everything.",
        prog="python -m benchmarks.pipeline",
    )
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default="demo", help="as for train.py")
    group.add_argument("--data-root", metavar="DIR", help="as for train.py")
    group.add_argument("--split", default="every10th", metavar="RULE", help="as for train.py")
    group = parser.add_argument_group("stages")
    group.add_argument(
        "--teachers",
        nargs="+",
        default=["fcn:resnet18", "pspnet:resnet18"],
        metavar="MODEL:BACKBONE",
        help="networks that vote",
    )
    group.add_argument(
        "--student", default="pspnet:resnet18", metavar="MODEL:BACKBONE", help="trained on the vote"
    )
    group.add_argument(
        "--train-options", default="", metavar="'...'", help="of train.py, for every network"
    )
    group.add_argument("--epochs", metavar="N", help="of every network (default: as train.py)")
    group.add_argument(
        "--student-options", default="", metavar="'...'", help="of train.py, for the student only"
    )
    group.add_argument("--label-options", default="", metavar="'...'", help="of label.py")
    group.add_argument("--test-options", default="", metavar="'...'", help="of test.py")
    group.add_argument("--figures", type=int, default=6, metavar="N", help="pictures of N tiles")
    group = parser.add_argument_group("runtime")
    group.add_argument("--outdir", default="outdir/pipeline", metavar="DIR", help="a new folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs every stage, then prints the table."""
    args = parse_args(argv)
    out = Path(args.outdir)
    if any(out.glob("*/models/*.pth")):
        raise ValueError(f"--outdir {out} holds trained networks; remove it or name another folder")
    begin_s = time.monotonic()
    data = ["--dataset", args.dataset] + (["--data-root", args.data_root] if args.data_root else [])
    split = ["--split", args.split]
    rows = {}

    def train(stage: str, network: str, *more: str) -> Path:
        model, backbone = network.split(":")
        words = ["--model", model, "--backbone", backbone, "--outdir", str(out / stage), *more]
        words += ["--epochs", args.epochs] if args.epochs else []
        script("train.py", *data, *split, *words, *shlex.split(args.train_options))
        return next((out / stage / "models").glob("[!.]*.pth"))

    def test(stage: str, checkpoint: Path, *more: str) -> None:
        words = ["--checkpoints", str(checkpoint), "--outdir", str(out / stage), "--score", *more]
        script("test.py", *data, *words, *shlex.split(args.test_options))
        rows[stage] = read_scores(out / stage, checkpoint)

    teachers = []
    for number, network in enumerate(args.teachers, start=1):
        stage = f"teacher{number}_{network.replace(':', '_')}"
        teachers.append(train(stage, network, "--seed", str(number)))
        test(stage, teachers[-1])
    labels = out / "labels"
    words = ["--checkpoints", *map(str, teachers), "--outdir", str(labels)]
    script("label.py", *data, *split, *words, *shlex.split(args.label_options))
    masks = str(labels / "masks" / "train")
    stage = f"student_{args.student.replace(':', '_')}"
    more = ["--use-pseudo-label", masks, *shlex.split(args.student_options)]
    student = train(stage, args.student, *more)
    test(stage, student, "--figures", str(args.figures))
    print(table(rows))
    stats = json.loads((labels / "metrics" / "pseudo_labels.json").read_text())
    print(label_summary(stats))
    print(f"masks    {out / stage / 'masks' / 'test'}")
    print(f"figures  {out / stage / 'figures' / 'test'}")
    print(f"report   {write_report(out / stage)}")
    print(f"map your own images:\n  python predict.py BEFORE.tif AFTER.tif --checkpoints {student} "
          "--out outdir/maps --report")  # fmt: skip
    print(f"{time.monotonic() - begin_s:.0f} s in all")


def script(name: str, *words: str) -> None:
    """Runs one of the scripts, shown as a user would type it; stops if it fails."""
    print(f"\n$ python {name} {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, str(ROOT / name), *words])
    if done.returncode:
        raise ValueError(f"{name} failed (exit status {done.returncode}); its message is above")


def read_scores(folder: Path, checkpoint: Path) -> dict[str, float | None]:
    """Test metrics of a stage, and the validation score of its checkpoint."""
    metrics = json.loads((folder / "metrics" / "test.json").read_text())
    return {"val": read_file(checkpoint)["score"], **{key: metrics[key] for key in SHOWN}}


def table(rows: dict[str, dict]) -> str:
    """The table as text, in per cent: a row for each stage, and the mean of the teachers."""
    teachers = [row for stage, row in rows.items() if stage.startswith("teacher")]
    student = next(stage for stage in rows if stage.startswith("student"))
    mean = {key: mean_of([row[key] for row in teachers]) for key in ("val", *SHOWN)}
    shown = {**{s: r for s, r in rows.items() if s != student}, "mean of the teachers": mean}
    shown[student] = rows[student]
    width = max(map(len, shown))
    head = f"\n{'stage':{width}}  val Score  test Score   mIoU    SeK"
    lines = [
        f"{stage:{width}}  {percent(row['val']):>9}  {percent(row['score']):>10}"
        f"  {percent(row['miou']):>5}  {percent(row['sek']):>5}"
        for stage, row in shown.items()
    ]
    return "\n".join([head, *lines])


def mean_of(values: list[float | None]) -> float | None:
    """The mean; None if a value is None."""
    return None if None in values else sum(values) / len(values)


def percent(value: float | None) -> str:
    """A ratio as a number in per cent; a dash if undefined."""
    return "-" if value is None else f"{100 * value:.2f}"


def label_summary(stats: dict) -> str:
    """The pseudo labels in a line."""
    line = f"pseudo labels on {percent(stats['share_labelled'])} % of the unchanged pixels"
    if stats["accuracy"] is not None:
        line += f", right on {percent(stats['accuracy'])} % of those"
    return line


if __name__ == "__main__":
    run(main)
