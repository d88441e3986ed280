"""DatasetEntry of the demo data set: SECOND layout, generated on first use."""

from pathlib import Path

from datasets.demo import ensure_demo
from datasets.second import SECOND_ENTRY, SecondDataset


def _build(root: Path | str, part: str, **options) -> SecondDataset:
    ensure_demo(root)
    return SECOND_ENTRY.build(root, part, **options)


def _check(root: Path | str, parts=None, **options) -> dict[str, int]:
    ensure_demo(root)
    return SECOND_ENTRY.check(root, parts, **options)


DEMO_ENTRY = SECOND_ENTRY._replace(
    root="data/demo", about="generated scenes, made on first use", build=_build, check=_check
)
