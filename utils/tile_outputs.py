"""Everything that test.py writes of predicted tiles, handed to background threads."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from utils.figures import heat_map
from utils.files import save_image
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

    def write(self, batch: Sample, probs: Probs, masks: np.ndarray) -> None:
        """Hands a batch to the writer; masks (B, T, H, W) uint8 as `to_masks` gives them."""
        if self.labels is None:
            submit_masks(self.writer, self.masks, batch.name, masks, self.scheme)
        else:
            self._write_labels(batch, masks)
        if self.probs is not None:
            self._write_probs(batch, probs)
        if self.gates is not None:
            for name, gate in zip(batch.name, probs.gate.cpu().numpy(), strict=True):
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

    def _write_probs(self, batch: Sample, probs: Probs) -> None:
        halves = [None if p is None else p.half().cpu().numpy() for p in probs[:2]]
        for i, name in enumerate(batch.name):
            one = [None if p is None else p[i] for p in halves]
            self.writer.submit(write_probs, self.probs / f"{name}.npz", *one)

    def _draw(self, batch: Sample, mask: np.ndarray, i: int) -> None:
        truth = true_masks(batch)[i].numpy() if self.tiles.labelled else None
        images = tile_images(batch.images[i], self.scheme.bands, mask.shape[-2:])
        picture = (images, mask, truth, self.scheme, batch.name[i])
        self.writer.submit(draw, self.figures / f"{batch.name[i]}.png", *picture)
