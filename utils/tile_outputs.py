"""Everything that test.py writes of predicted tiles, handed to background threads."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from utils.figures import heat_map
from utils.files import save_image
from utils.overlap import HostCopy
from utils.results import draw, submit_masks, tile_images, true_masks
from utils.structures import Probs, Sample, Scheme
from utils.writers import BackgroundWriter, write_probs


class TileOutputs:
    """Writes masks, and what else is wanted.

    Args:
        writer: of the files.
        tiles: what is predicted.
        scheme: classes and palette.
        masks: folder of the masks, `im1/<id>.png` and `im2/<id>.png`.
        labels: writes predictions as its data set has them (datasets.LabelFiles); None = as above.
        probs: folder of probabilities, `<id>.npz`; None writes none.
        gates: folder of heat maps of the gate, `<id>.png`; None writes none.
        figures: folder of figures, `<id>.png`.
        drawn: ids that get a figure.
    """

    def __init__(
        self,
        writer: BackgroundWriter,
        tiles: Dataset,
        scheme: Scheme,
        masks: Path,
        *,
        labels: Any = None,
        probs: Path | None = None,
        gates: Path | None = None,
        figures: Path,
        drawn: Collection[str] = (),
    ):
        self.writer, self.tiles, self.scheme, self.masks = writer, tiles, scheme, masks
        self.labels, self.probs, self.gates = labels, probs, gates
        self.figures, self.drawn = figures, drawn

    def fetch(self, probs: Probs, masks: Tensor) -> HostCopy:
        """Begins to bring to the host what will be written of a batch; masks as of `to_masks`."""
        halves = [p.half() if p is not None and self.probs else None for p in probs[:2]]
        gate = probs.gate if self.gates else None
        return HostCopy(masks=masks, semantic=halves[0], change=halves[1], gate=gate)

    def write(self, batch: Sample, copy: HostCopy) -> None:
        """Hands a batch, of which `fetch` made the copy, to the writer."""
        found = copy.arrays()
        masks = found["masks"]  # (B, T, H, W) uint8
        if self.labels is None:
            submit_masks(self.writer, self.masks, batch.name, masks, self.scheme)
        else:
            self._write_labels(batch, masks)
        if self.probs is not None:
            self._write_probs(batch, found["semantic"], found["change"])
        if self.gates is not None:
            for name, gate in zip(batch.name, found["gate"], strict=True):
                picture = Image.fromarray(heat_map(gate))
                self.writer.submit(save_image, self.gates / f"{name}.png", picture)
        for i, name in enumerate(batch.name):
            if name in self.drawn:
                self._draw(batch, masks[i], i)

    def _write_labels(self, batch: Sample, masks: np.ndarray) -> None:
        for name, mask in zip(batch.name, masks, strict=True):
            patch = self.tiles.patch_of(name)
            path = self.masks / self.labels.name(patch)
            self.writer.submit(self.labels.write, path, mask[0], self.scheme, patch)

    def _write_probs(self, batch: Sample, *arrays: np.ndarray | None) -> None:
        for i, name in enumerate(batch.name):
            one = [None if array is None else array[i] for array in arrays]
            self.writer.submit(write_probs, self.probs / f"{name}.npz", *one)

    def _draw(self, batch: Sample, mask: np.ndarray, i: int) -> None:
        truth = true_masks(batch)[i].numpy() if self.tiles.labelled else None
        images = tile_images(batch.images[i], self.scheme.bands, mask.shape[-2:])
        picture = (images, mask, truth, self.scheme, batch.name[i])
        self.writer.submit(draw, self.figures / f"{batch.name[i]}.png", *picture)
