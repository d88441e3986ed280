"""Whole scenes: predicted in windows, blended, and written strip by strip in bounded memory."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from utils.geotiff import open_strips
from utils.inference import Predictor
from utils.rle import StripEncoder
from utils.structures import Probs, Sample
from utils.windows import Blender, Strip, Window
from utils.writers import Palette


def predict_scenes(
    predictor: Predictor,
    batches: Iterable[Sample],
    windows: Iterable[tuple[int, Window]],
    shapes: Sequence[tuple[int, int]],
    grid: tuple[int, int, bool],
) -> Iterator[tuple[int, Iterator[Strip]]]:
    """One scene after another, each as its strips of rows from top to bottom.

    A strip's values are (C, h, W): the probabilities as `stack_probs` orders them. A scene's strips
    must be used up before the next scene is asked for.

    Args:
        predictor: called with each batch's images.
        batches: the images of the windows.
        windows: (scene, window) of every image, in the batches' order, scene by scene.
        shapes: (height, width) of every scene, pixels.
        grid: tile_px, overlap_px and full of `utils.windows.grid`.
    """
    strips = _strips(predictor, batches, windows, shapes, grid)
    for scene, group in itertools.groupby(strips, key=lambda pair: pair[0]):
        yield scene, (strip for _, strip in group)


def _strips(predictor, batches, windows, shapes, grid) -> Iterator[tuple[int, Strip]]:
    current, blender, places = None, None, iter(windows)
    for batch in batches:
        for values in stack_probs(predictor(batch.images)):
            scene, window = next(places)
            if scene != current:
                if blender is not None:
                    yield current, blender.finish()
                current, blender = scene, Blender(*shapes[scene], *grid)
            strip = blender.add(window, values)
            if strip is not None:
                yield current, strip
    if blender is not None:
        yield current, blender.finish()


def stack_probs(probs: Probs) -> Tensor:
    """Probabilities as one (B, C, H, W): T x K channels of the classes, then P(changed)."""
    parts = [] if probs.semantic is None else [probs.semantic.flatten(1, 2)]
    if probs.change is not None:
        parts.append(probs.change[:, None])
    return torch.cat(parts, dim=1)


class ChangeOutput:
    """What is written of one scene's change: mask, probabilities, run lengths, a small copy.

    A file appears when the block ends well and it reads back as written, and not at all otherwise.

    Args:
        shape: (height, width) of the scene.
        mask_path: .tif, or .png without georeference.
        probs_path: .tif or .npz; None writes none.
        threshold: changed where P(changed) is above it.
        palette: of the mask.
        rle: encode run lengths as well.
        preview_step: every so many pixels are kept in `preview`; 0 keeps none.
        crs, transform: of the image.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        mask_path: Path,
        probs_path: Path | None = None,
        *,
        threshold: float = 0.5,
        palette: Palette,
        rle: bool = False,
        preview_step: int = 0,
        crs: object = None,
        transform: object = None,
    ):
        self.threshold, self.step = threshold, preview_step
        self.encoder = StripEncoder(*shape) if rle else None
        where = {"crs": crs, "transform": transform}
        self._mask = open_strips(mask_path, *shape, np.uint8, palette=palette, **where)
        self._probs = None
        if probs_path is not None:
            self._probs = open_strips(probs_path, *shape, np.float16, **where)
        self._preview: list[np.ndarray] = []

    def __enter__(self) -> "ChangeOutput":
        with ExitStack() as stack:
            stack.enter_context(self._mask)
            if self._probs is not None:
                stack.enter_context(self._probs)
            self._stack = stack.pop_all()
        return self

    def write(self, top: int, change: Tensor) -> Tensor:
        """Adds rows of P(changed), (h, W); returns their mask, uint8, on the same device."""
        mask = (change > self.threshold).to(torch.uint8)
        rows = mask.cpu().numpy()
        self._mask.write(top, rows)
        if self._probs is not None:
            self._probs.write(top, change.cpu().numpy())
        if self.encoder is not None:
            self.encoder.add(top, rows)
        if self.step:
            self._preview.append(rows[-top % self.step :: self.step, :: self.step])
        return mask

    @property
    def preview(self) -> np.ndarray:
        """The mask at every `preview_step`-th pixel, (h, w) uint8."""
        return np.concatenate(self._preview)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
