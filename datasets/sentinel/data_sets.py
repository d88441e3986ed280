"""Data sets of Sentinel patches: SEN12MS, DFC2020, and a folder of TIFFs.

`datasets.sentinel.files` finds their files, `datasets.sentinel.reader` reads them.

Reference: arXiv 2002.08254, which describes the baseline of the contest DFC2020.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.entry import DatasetEntry, LabelFiles, Where
from datasets.reader import Reading
from datasets.scene import Found
from datasets.sentinel.files import DFC_SCENES, LABELS, find_patches
from datasets.sentinel.patch_index import SUFFIX
from datasets.sentinel.reader import (
    SentinelLabels,
    SentinelScenes,
    open_label,
    open_sentinel,
    sibling_name,
    to_dfc_labels,
)
from utils.cli import SWITCH
from utils.rasters.writing import write_with_georeference_of
from utils.schemes import DFC_CLASSES, WHITE, dfc_scheme
from utils.structures import Scene, Scheme

# replaces `s2` in the file name of a predicted label
PREDICTED = {"sen12ms": "lc", "dfc2020": "dfc", "tiff_dir": "pred"}
BAND_FLAGS = {
    "use_s1": "read Sentinel-1 (VV, VH)",
    "use_s2hr": "read Sentinel-2 at 10 m (B2 B3 B4 B8)",
    "use_s2mr": "read Sentinel-2 at 20 m (B5 B6 B7 B8A B11 B12)",
    "use_s2lr": "read Sentinel-2 at 60 m (B1 B9 B10)",
}
NOT_CHECKED = "of each folder the first patch was opened; the others are when they are used"


def sentinel_scheme(
    root: Path | str,
    where: Where,
    bands: Sequence[str | int] | None = None,
    *,
    use_s1: bool = False,
    use_s2hr: bool = False,
    use_s2mr: bool = False,
    use_s2lr: bool = False,
    no_savanna: bool = False,
) -> Scheme:
    """The scheme of the chosen band groups, see `utils.schemes.dfc_scheme`; opens no files.

    Raises:
        ValueError: no group is chosen, or `bands` is given.
    """
    if bands is not None:
        raise ValueError(
            "--bands: Sentinel bands come in groups; pass --use-s1, --use-s2hr, --use-s2mr, "
            "--use-s2lr instead"
        )
    return dfc_scheme(use_s1, use_s2hr, use_s2mr, use_s2lr, savanna=not no_savanna)


def add_band_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the flags that choose bands and classes of Sentinel data."""
    for name, text in BAND_FLAGS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            **SWITCH,
            help=f"sen12ms, dfc2020, tiff_dir: {text}",
        )
    group.add_argument(
        "--no-savanna",
        action="store_true",
        help="sen12ms, dfc2020, tiff_dir: leave that class out, 9 remain",
    )


def dfc_label_name(name: str, dataset: str) -> str:
    """File name of a predicted label, such as ROIs0000_test_dfc_0_p1.tif.

    Args:
        name: id.
        dataset: sen12ms, dfc2020 or tiff_dir.
    """
    return sibling_name(name, PREDICTED[dataset]) + SUFFIX


def write_dfc_label(path: Path | str, mask: np.ndarray, scheme: Scheme, scene: Scene) -> None:
    """Writes a prediction in the format of DFC2020 labels: a GeoTIFF of 1..10.

    Args:
        path: the file, .tif.
        mask: (H, W) uint8, 1..K = class; 0 = no data, for which the format has no number: class 1.
        scheme: K = 10 classes, or 9 without savanna, whose number 3 is then left out.
        scene: source of the CRS and transform.
    """
    labels = to_dfc_labels(np.maximum(mask, 1) - np.uint8(1), scheme.num_classes)
    write_with_georeference_of(path, labels, (WHITE, *DFC_CLASSES.values()), scene.images[0])


class SentinelLayout:
    """See `datasets.scene.Layout`. Missing files are found; of each folder one patch is decoded.

    There are about half a million files. Therefore bands, sizes and values of other patches are
    checked when they are read; the error then names the file.

    Args:
        dataset: sen12ms, dfc2020 or tiff_dir.
        root: see `datasets.sentinel.files`.
        scheme: see `utils.schemes.dfc_scheme`; only the files of its bands must exist.
        where: `folders` replaces the list of held-out scenes, key holdout_scenes.
    """

    num_bands = None
    unlabelled = "them. Pass another --data-root"

    def __init__(self, dataset: str, root: Path | str, scheme: Scheme, where: Where):
        self.dataset, self.root, self.scheme, self.where = dataset, Path(root), scheme, where
        self.divided = "val" if dataset == "dfc2020" else "train"
        self._label: dict[str, str | None] = {}

    def parts(self) -> list[str]:
        """See Layout."""
        if self.dataset == "sen12ms":
            return ["train", "holdout"]
        if self.dataset == "tiff_dir":
            return ["test"]
        there = [part for part, scene in DFC_SCENES.items() if (self.root / scene).is_dir()]
        return there or ["val"]

    def find(self, part: str) -> Found:
        """See Layout; sorted by id."""
        patches, label, problems = find_patches(
            self.dataset,
            self.root,
            part,
            self.scheme,
            folders=self.where.folders,
            index_dir=self.where.index_dir,
        )
        self._label[part] = label
        return Found(self.root, SentinelScenes(self.root, patches, self.scheme, label), problems)

    def reading(self, part: str, source: str) -> Reading:
        """See Layout; labelled patches have equal sizes (256 x 256 as published)."""
        if source not in self._label:
            self.find(source)
        label = self._label[source]
        labels = SentinelLabels(label or LABELS[self.dataset] or "dfc", self.scheme.num_classes)
        return Reading(
            labels, open_sentinel, open_label, scaled=True, equal_sizes=label is not None
        )

    def to_open(self, scenes: Sequence[Scene]) -> Sequence[Scene]:
        """See Layout."""
        firsts = {patch.folder: i for i, patch in reversed(list(enumerate(scenes.patches)))}
        return scenes.select(sorted(firsts.values()))


def _entry(name: str, about: str, split_rule: str = "every10th") -> DatasetEntry:
    return DatasetEntry(
        root=f"data/{name}",
        task="land_cover",
        about=about,
        layout=lambda root, scheme, where: SentinelLayout(name, root, scheme, where),
        scheme=sentinel_scheme,
        folder_keys=("holdout_scenes",) if name == "sen12ms" else (),
        labels=LabelFiles(lambda scene: dfc_label_name(scene.name, name), write_dfc_label),
        split_rule=split_rule,
        orient="none",
        absent_is_zero=True,
        scheme_options=(*BAND_FLAGS, "no_savanna"),
    )


SEN12MS_ENTRY = _entry("sen12ms", "Sentinel patches with coarse labels", "official")
DFC2020_ENTRY = _entry("dfc2020", "Sentinel patches of the contest DFC2020")
TIFF_DIR_ENTRY = _entry("tiff_dir", "Sentinel patches without labels")
