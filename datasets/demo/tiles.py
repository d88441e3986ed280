"""The generated pairs as the scripts read them: as SECOND's, made on first use."""

from pathlib import Path

from datasets import DatasetFunctions
from datasets.demo import ensure_demo
from datasets.second import SECOND_FUNCTIONS, SecondDataset


def _build(root: Path | str, part: str, **options) -> SecondDataset:
    ensure_demo(root)
    return SECOND_FUNCTIONS.build(root, part, **options)


def _check(root: Path | str, parts=None, **options) -> dict[str, int]:
    ensure_demo(root)
    return SECOND_FUNCTIONS.check(root, parts, **options)


DEMO_FUNCTIONS = DatasetFunctions(_build, _check, SECOND_FUNCTIONS.scheme)
