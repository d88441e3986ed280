"""Output paths of test.py, and files left there by an earlier test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inference.label_record import RECORD, TEST_RECORDS
from models.checkpoints import find_checkpoints
from utils import distributed
from utils.files import write_json
from utils.metrics import in_per_cent, to_json
from utils.structures import Scheme


class Destinations(NamedTuple):
    """Output files and folders of one part of the data set; None: not written."""

    outdir: Path
    part: str
    probs: Path | None
    archive: Path | None  # zip
    table: Path | None  # pkl
    gates: Path | None
    figures: Path | None
    scores: Path | None

    @classmethod
    def of(
        cls,
        outdir: str,
        part: str,
        *,
        save_probs: str | None = None,
        archive: str | None = None,
        table: str | None = None,
        gate: bool = False,
        figures: int = 0,
        preview_dir: str | None = None,
        score: bool = False,
    ) -> "Destinations":
        """The paths chosen by the flags of test.py; "" selects the default path."""
        usual = cls.usual(Path(outdir), part)

        def chosen(given: str | None, there: Path) -> Path | None:
            return None if given is None else Path(given or there)

        return usual._replace(
            probs=chosen(save_probs, usual.probs),
            archive=chosen(archive, usual.archive),
            table=chosen(table, usual.table),
            gates=usual.gates if gate else None,
            figures=chosen("" if figures else None, usual.figures)
            if preview_dir is None
            else Path(preview_dir),
            scores=usual.scores if score else None,
        )

    @classmethod
    def usual(cls, outdir: Path, part: str) -> "Destinations":
        """The default paths."""
        return cls(
            outdir,
            part,
            probs=outdir / "probs" / part,
            archive=outdir / "masks" / f"{part}.zip",
            table=outdir / "masks" / f"{part}.pkl",
            gates=outdir / "gate" / part,
            figures=outdir / "figures" / part,
            scores=outdir / "metrics" / f"{part}.json",
        )

    @classmethod
    def masks_only(cls, outdir: Path, part: str) -> "Destinations":
        """Nothing but masks."""
        return cls(outdir, part, *[None] * 6)

    @property
    def masks(self) -> Path:
        """Folder of the masks."""
        return self.outdir / "masks" / self.part

    def refuse_pseudo_labels(self) -> None:
        """Raises ValueError if the folder of the masks holds pseudo labels of label.py."""
        if (self.masks / RECORD).exists():
            raise ValueError(
                f"{self.masks} holds pseudo labels, which these masks would replace; pass another "
                "--outdir"
            )

    def refuse_empty_labels(self, counts: torch.Tensor, labels: Path) -> None:
        """Raises ValueError if the confusion matrix `counts` has no pixel of the `labels`."""
        if not counts.any():
            raise ValueError(
                f"--score: no pixel of the labels of {labels} has a class, so there is nothing "
                f"to score; the masks are in {self.masks}"
            )

    def report_replaced(self) -> None:
        """Prints on the first rank that masks of an earlier test are replaced, if there are any."""
        if distributed.is_main() and any(self.masks.rglob("*.*")):
            print(f"replacing masks of an earlier test in {self.masks}")

    def earlier_outputs(self) -> list[Path]:
        """Outputs of an earlier test at default paths that this test does not overwrite."""
        usual = self.usual(self.outdir, self.part)
        fields = ("archive", "table", "probs", "figures", "scores", "gates")
        pairs = [(getattr(usual, field), getattr(self, field)) for field in fields]
        return [path for path, now in pairs if path.exists() and path != now]


def names_to_draw(names: Sequence[str], count: int, preview_dir: str | None = None) -> set[str]:
    """The tiles or scenes that get a figure: `count` evenly spaced; all with `preview_dir`."""
    if preview_dir is not None:
        return set(names)
    count = min(max(count, 0), len(names))
    return {names[i * len(names) // count] for i in range(count)}


def record_test(
    destinations: Destinations,
    what: str,
    scheme: Scheme,
    metrics: dict | None,
    options: dict[str, Any],
) -> None:
    """Writes the scores and the record of the test, and prints the paths of all outputs.

    Args:
        destinations: paths of the files.
        what: description of what was predicted, printed.
        scheme: of the data set.
        metrics: the scores, if any.
        options: of the command line, saved in the record.
    """
    networks = [
        str(path) for path in options["checkpoints"] or find_checkpoints(destinations.outdir)
    ]
    record = destinations.outdir / TEST_RECORDS / f"{destinations.part}_options.json"
    earlier = destinations.earlier_outputs() if record.exists() else []
    write_json(record, {"checkpoints": networks, "options": options})
    print(f"{what}: masks in {destinations.masks}")
    for path in earlier:
        print(f"{path} is of an earlier test, not of these masks")
    if destinations.probs is not None:
        print(f"probabilities in {destinations.probs}")
    if destinations.figures is not None:
        print(f"figures in {destinations.figures}")
    if destinations.gates is not None:
        print(f"heat maps of the gate in {destinations.gates}")
    if metrics is not None:
        write_json(destinations.scores, to_json({**metrics, "classes": scheme.classes}))
        if "threshold" in metrics:
            print(f"at threshold {metrics['threshold']:g}:")
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float) and k != "threshold"}
        print(in_per_cent(numbers))
        print(f"scores in {destinations.scores}")
