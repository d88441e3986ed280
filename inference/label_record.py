"""The record of label.py: tiles done so far, their counts, and the settings.

It is kept beside the masks. An interrupted run can continue, but only with the same settings.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from inference.prediction import Area
from inference.pseudo_labels import statistics
from utils.files import write_json
from utils.metrics import to_json
from utils.rasters.masks import Palette, write_mask

RECORD = "labelling.json"  # the settings, beside the masks
TEST_RECORDS = "testing"  # folder in --outdir with the records of test.py, <part>_options.json


class LabelRecord:
    """Writes the masks of each tile, then a line with its counts.

    Args:
        folder: masks are written to `im1/<id>.png` and `im2/<id>.png` in it.
        rank: of this process; each rank writes its own file of lines.
        palette: of the masks.
    """

    def __init__(self, folder: Path, rank: int, palette: Palette):
        self.folder, self.palette = folder, palette
        self.lines = folder / f"done_{rank}.jsonl"
        self._lock = threading.Lock()
        self._areas: dict[str, list[tuple[int, int, np.ndarray, np.ndarray]]] = {}

    def gather(
        self, area: Area, masks: np.ndarray, counts: np.ndarray
    ) -> Iterator[tuple[Path, np.ndarray, list]]:
        """Adds an area; yields arguments of `write_tile` for the tiles that are complete.

        Args:
            area: of B tiles.
            masks: (B, T, h, w) uint8.
            counts: (B, 4, K+1) `count_tiles` of the area.
        """
        for name, mask, count in zip(area.batch.name, masks, counts, strict=True):
            self._areas.setdefault(name, []).append((area.top, area.left, mask, count))
            if area.is_last:
                found = self._areas.pop(name)
                yield self.folder / name, _joined(found), sum(one[-1] for one in found).tolist()

    def write_tile(self, path: Path, masks: np.ndarray, counts: list) -> None:
        """Writes one tile; safe from several threads.

        Args:
            path: `folder/<id>`; its name is that of the tile.
            masks: (T, H, W) uint8, 0..K.
            counts: `count_tiles` of the tile, as nested lists.
        """
        for date, mask in enumerate(masks, start=1):
            write_mask(mask_path(self.folder, date, path.name), mask, self.palette)
        line = json.dumps({"name": path.name, "counts": counts})
        with self._lock, self.lines.open("a", encoding="utf-8") as file:
            file.write("\n" + line)  # begins on a new line, even after a truncated one


def _joined(areas: Sequence[tuple[int, int, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The masks (T, H, W) of a tile, from its areas; the last is its lower right one."""
    top, left, mask, _ = areas[-1]
    if len(areas) == 1:
        return mask
    whole = np.zeros((len(mask), top + mask.shape[1], left + mask.shape[2]), np.uint8)
    for top, left, mask, _ in areas:
        whole[:, top : top + mask.shape[1], left : left + mask.shape[2]] = mask
    return whole


def mask_path(folder: Path, date: int, name: str) -> Path:
    """Path of the mask of a tile at `date` (1 or 2)."""
    return folder / f"im{date}" / f"{name}.png"


def start_or_continue(folder: Path, settings: dict, overwrite: bool) -> None:
    """Prepares the folder: new, continued with the same settings, or emptied by `overwrite`.

    Raises:
        ValueError: it holds masks made with other settings, or not made by label.py.
    """
    record = folder / RECORD
    if overwrite:
        for path in (*folder.glob("done_*.jsonl"), *folder.glob("im[12]/*.png")):
            path.unlink()
    elif record.exists():
        before = json.loads(record.read_text(encoding="utf-8"))
        differing = [k for k in settings if settings[k] != before.get(k)]
        if differing:
            listed = "; ".join(f"{k}: {before.get(k)} -> {settings[k]}" for k in differing)
            raise ValueError(
                f"{folder} holds pseudo labels made with other settings ({listed}). Give the same "
                "again (--checkpoints names the teachers), pass --overwrite to replace the labels, "
                "or another --outdir to keep both."
            )
    elif mask := next(folder.glob("im[12]/*.png"), None):
        raise ValueError(
            f"{folder} holds masks that label.py did not record ({mask.name}, ...). Pass "
            "--overwrite to replace them, or --outdir to keep both."
        )
    write_json(record, settings)


def done_tiles(folder: Path) -> dict[str, list]:
    """The counts of every tile whose masks exist and are complete, by tile name."""
    there = [{path.stem for path in folder.glob(f"im{date}/[!.]*.png")} for date in (1, 2)]
    done = {}
    for path in sorted(folder.glob("done_*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # empty, or cut off by an interruption
                continue
            if all(entry["name"] in names for names in there):
                done[entry["name"]] = entry["counts"]
    return done


def record_labelling(folder: Path, names: Sequence[str], result_path: Path, settings: dict) -> None:
    """Sums the counts of all tiles, writes the statistics as JSON and prints the main numbers.

    Args:
        folder: of the masks.
        names: of all tiles.
        result_path: the JSON file.
        settings: how the labels were made, copied to the JSON file.

    Raises:
        ValueError: a tile is not labelled, because another process failed.
    """
    done = done_tiles(folder)
    missing = [name for name in names if name not in done]
    if missing:
        raise ValueError(
            f"{len(missing)} tile(s) are still without pseudo labels ({', '.join(missing[:10])}); "
            "another process failed. Run the same command again: it goes on."
        )
    result = statistics(torch.tensor([done[name] for name in names]).sum(0))
    write_json(result_path, to_json({"tiles": len(names), **settings, **result}))
    line = f"{len(names)} tiles, {result['share_labelled']:.1%} of the unchanged pixels labelled"
    if not result["unchanged_pixels"]:
        line = f"{len(names)} tiles; all their pixels have labels, so there was nothing to label"
    if result["accuracy"] == result["accuracy"]:
        line += f", {result['accuracy']:.1%} of those right"
    print(f"{line}\nmasks in {folder}, numbers in {result_path}")
