"""Rucode "Satellite Image Difference": Kanopus-V scenes, both dates in one file of 8 bands.

`ROOT/Images_composit/Images_composit/8_ch/<id>.tif` (red, green, blue, near infrared of date 1,
then of date 2), `ROOT/mask/mask/<id>.tif` and `ROOT/sample_submission.csv`, whose ids are the test
part. The published code divides by 1024 before it standardises; this has no effect and is omitted.

Reference: the contest roscosmos-rucode, Kaggle 2021.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.bands import NAMED, RGB, band_names, band_numbers
from datasets.change_masks import find_coding
from datasets.entry import DatasetEntry, Where
from datasets.labels import ChangeLabels
from datasets.layout import Problem, find_files
from datasets.reader import Reading
from datasets.rucode.run_lengths import read_sample_ids
from datasets.scene import Found
from utils.schemes import change_scheme
from utils.structures import ImageFile, Scene, Scheme

# key of --folders -> default path
PLACES = {
    "images": "Images_composit/Images_composit/8_ch",
    "masks": "mask/mask",
    "sample_submission": "sample_submission.csv",
}
NUM_BANDS = 2 * len(NAMED)  # bands of a file
PARTS = ("train", "test")


def rucode_scheme(root: Path | str, where: Where, bands: Sequence[str | int] | None) -> Scheme:
    """The scheme: every date of every image is standardised separately, all bands jointly.

    Args:
        root: not used.
        where: not used.
        bands: names (red, green, blue, nir, grey) or numbers 1..4 of each date; None = red, green
            and blue.

    Raises:
        ValueError: an unknown band.
    """
    names = band_names(bands or RGB)
    if max(band_numbers(names)) >= len(NAMED):
        raise ValueError(
            f"--bands {' '.join(names)}: a date has {len(NAMED)} bands; choose from "
            f"{', '.join(NAMED)}, grey, or 1..{len(NAMED)}"
        )
    return change_scheme(names, "joint")


class RucodeLayout:
    """See `datasets.scene.Layout`. There is no part val; --split makes one.

    Args:
        root: see the top of this file.
        scheme: bands to read.
        where: `folders` replaces default paths; under root or absolute.
    """

    divided, num_bands = "train", NUM_BANDS
    unlabelled = "masks"

    def __init__(self, root: Path | str, scheme: Scheme, where: Where):
        self.root, self.scheme, self.coding = Path(root), scheme, where.label_coding
        self._paths = {key: self.root / (where.folders.get(key, PLACES[key])) for key in PLACES}
        self._asks_for_csv = "sample_submission" in where.folders

    def parts(self) -> list[str]:
        """See Layout."""
        images, masks = self._files()
        csv = self._paths["sample_submission"].is_file()
        has = {"train": bool(masks), "test": csv or bool(images.keys() - masks.keys())}
        return [part for part in PARTS if has[part]] or ["train"]

    def find(self, part: str) -> Found:
        """See Layout.

        Args:
            part: "train": ids with a mask, sorted; "test": ids of the sample submission, in its
                order, or without a submission the ids without a mask.
        """
        if part not in PARTS:
            raise FileNotFoundError(
                f"Rucode has no part {part!r}, only {' and '.join(PARTS)}; to validate pass "
                "--split with every10th, hash10, leave_out:ID, area or a text file of ids"
            )
        images, masks = self._files()
        if not images:
            raise FileNotFoundError(
                f"no images in {self._paths['images']} (expected *.tif of {NUM_BANDS} bands). "
                "Unpack the archive there, make them with `python -m datasets.prepare compose`, or "
                "pass --data-root or --folders images=DIR."
            )
        names = self._names(part, images, masks)
        if not names:
            raise FileNotFoundError(
                f"the part {part!r} is empty: {self._paths['masks']} has {len(masks)} mask(s) for "
                f"{len(images)} image(s). Pass --data-root or --folders masks=DIR."
            )
        bands = [band_numbers(self.scheme.bands, first) for first in (0, len(NAMED))]
        scenes = [
            Scene(
                name,
                tuple((ImageFile(images[name][0], numbers),) for numbers in bands),
                tuple(masks.get(name, ())[:1]),
            )
            for name in names
            if name in images
        ]
        return Found(self._paths["images"], scenes, self._problems(names, images, masks))

    def reading(self, part: str, source: str) -> Reading:
        """See Layout."""
        masks = [paths[0] for paths in self._files()[1].values()]
        return Reading(ChangeLabels(find_coding(masks, self.coding)))

    def to_open(self, scenes: Sequence[Scene]) -> Sequence[Scene]:
        """See Layout."""
        return scenes

    def _files(self) -> list[dict[str, list[Path]]]:
        return [find_files(self._paths[key]) for key in ("images", "masks")]

    def _names(self, part: str, images: Mapping, masks: Mapping) -> list[str]:
        if part == "train":
            return sorted(masks)
        csv = self._paths["sample_submission"]
        if csv.is_file() or self._asks_for_csv:
            return read_sample_ids(csv)
        return sorted(images.keys() - masks.keys())

    def _problems(self, names: Sequence[str], images: Mapping, masks: Mapping) -> list[Problem]:
        missing = [
            Problem("no image", f"{self._paths['images'] / name}.tif")
            for name in names
            if name not in images
        ]
        twice = [
            Problem("same id twice", ", ".join(map(str, files[name])))
            for files in (images, masks)
            for name in names
            if len(files.get(name, ())) > 1
        ]
        return missing + twice


RUCODE_ENTRY = DatasetEntry(
    root="data",
    task="binary_change",
    about="8-band composites of two dates, masks",
    layout=RucodeLayout,
    scheme=rucode_scheme,
    folder_keys=tuple(PLACES),
    split_rule="area",
    orient="turn_flip",
    whole_px=0,
    chooses_bands=True,
    training_options={"positive_crops": 0.7, "samples_per_image": 100},
)
