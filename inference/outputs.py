"""Writes the outputs of predicted tiles and scenes: masks, probabilities, figures, archives."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.entry import DatasetEntry, LabelFiles
from datasets.naic2020.submission import read_masks, to_png, write_pkl
from datasets.rucode.run_lengths import StripEncoder
from datasets.scenes import SceneDataset
from inference.decide import true_masks
from inference.destinations import Destinations
from inference.overlap import HostCopy
from utils.background import BackgroundWriter
from utils.figures.panels import heat_map
from utils.figures.tiles import draw, tile_images
from utils.files import save_image, zip_files
from utils.rasters.masks import Palette, write_mask, write_probs
from utils.rasters.writing import open_strips
from utils.structures import Probs, Sample, Scheme

FIGURE_PX = 1024  # longest side of a scene in a figure


class TileOutputs:
    """Writes masks of tiles, and optionally probabilities, gates and figures.

    Args:
        writer: of the files.
        tiles: the data set that is predicted.
        scheme: classes and palette.
        where: paths of the files.
        labels: writes masks in the format of the data set's labels; None: palette PNGs
            `im1/<id>.png` and `im2/<id>.png`.
        drawn: ids that get a figure.
    """

    def __init__(
        self,
        writer: BackgroundWriter,
        tiles: Dataset,
        scheme: Scheme,
        where: Destinations,
        labels: LabelFiles | None = None,
        drawn: Collection[str] = (),
    ):
        self.writer, self.tiles, self.scheme, self.where = writer, tiles, scheme, where
        self.labels, self.drawn = labels, drawn

    def fetch(self, probs: Probs, masks: Tensor) -> HostCopy:
        """Starts the copy of a batch's outputs to the host; masks as returned by `to_masks`."""
        halves = [p.half() if p is not None and self.where.probs else None for p in probs[:2]]
        gate = probs.gate if self.where.gates else None
        return HostCopy(masks=masks, semantic=halves[0], change=halves[1], gate=gate)

    def write(self, batch: Sample, copy: HostCopy) -> None:
        """Passes a batch and its copy, made by `fetch`, to the writer."""
        found = copy.arrays()
        masks = found["masks"]  # (B, T, H, W) uint8
        if self.labels is None:
            submit_masks(self.writer, self.where.masks, batch.name, masks, self.scheme)
        else:
            self._write_labels(batch, masks)
        if self.where.probs is not None:
            self._write_probs(batch, found["semantic"], found["change"])
        if self.where.gates is not None:
            for name, gate in zip(batch.name, found["gate"], strict=True):
                picture = Image.fromarray(heat_map(gate))
                self.writer.submit(save_image, self.where.gates / f"{name}.png", picture)
        for i, name in enumerate(batch.name):
            if name in self.drawn:
                self._draw(batch, masks[i], i)

    def _write_labels(self, batch: Sample, masks: np.ndarray) -> None:
        for name, mask in zip(batch.name, masks, strict=True):
            patch = self.tiles.patch_of(name)
            path = self.where.masks / self.labels.name(patch)
            self.writer.submit(self.labels.write, path, mask[0], self.scheme, patch)

    def _write_probs(self, batch: Sample, *arrays: np.ndarray | None) -> None:
        for i, name in enumerate(batch.name):
            one = [None if array is None else array[i] for array in arrays]
            self.writer.submit(write_probs, self.where.probs / f"{name}.npz", *one)

    def _draw(self, batch: Sample, mask: np.ndarray, i: int) -> None:
        truth = true_masks(batch)[i].numpy() if self.tiles.labelled else None
        images = tile_images(batch.images[i], self.scheme.bands, mask.shape[-2:])
        picture = (images, mask, truth, self.scheme, batch.name[i])
        self.writer.submit(draw, self.where.figures / f"{batch.name[i]}.png", *picture)


def submit_masks(
    writer: BackgroundWriter,
    folder: Path,
    names: Sequence[str],
    masks: np.ndarray,
    scheme: Scheme,
) -> None:
    """Passes masks (B, T, H, W) to the writer; the files are `folder/im1|im2/<id>.png`."""
    for name, dates in zip(names, masks, strict=True):
        for date, mask in enumerate(dates, start=1):
            writer.submit(write_mask, folder / f"im{date}" / f"{name}.png", mask, scheme.palette)


class ChangeOutput:
    """Writes the change of one scene: mask, probabilities, run lengths, and a small preview.

    A context manager. The files appear only if the block ends without error and they read back as
    written.

    Args:
        shape: (height, width) of the scene.
        mask_path: .tif, or .png without georeference.
        probs_path: .tif or .npz; None: not written.
        palette: of the mask.
        rle: also encode run lengths.
        preview_step: `preview` keeps every `preview_step`-th row and column; 0 keeps none.
        crs, transform: of the image.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        mask_path: Path,
        probs_path: Path | None = None,
        *,
        palette: Palette,
        rle: bool = False,
        preview_step: int = 0,
        crs: object = None,
        transform: object = None,
    ):
        self.step = preview_step
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

    def write(self, top: int, change: Tensor, mask: Tensor) -> None:
        """Adds rows of P(changed), (h, W), and of the mask, (h, W) uint8: 1 = changed."""
        rows = mask.cpu().numpy()
        self._mask.write(top, rows)
        if self._probs is not None:
            self._probs.write(top, change.cpu().numpy())
        if self.encoder is not None:
            self.encoder.add(top, rows)
        if self.step:
            self._preview.append(rows[-top % self.step :: self.step, :: self.step])

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


class SceneOutputs:
    """Writes the files of predicted scenes, one scene after another.

    Args:
        scenes: the data set that is predicted.
        scheme: its palette is used.
        where: paths; GeoTIFFs with the georeference of the images, PNG and npz if there is none.
        drawn: ids that get a figure.
        rle: also encode run lengths.

    Attributes:
        texts: (id, run lengths) of the scenes so far.
    """

    def __init__(
        self,
        scenes: SceneDataset,
        scheme: Scheme,
        where: Destinations,
        drawn: Collection[str] = (),
        rle: bool = False,
    ):
        self.scenes, self.scheme, self.where = scenes, scheme, where
        self.drawn, self.rle = drawn, rle
        self.texts: list[tuple[str, str]] = []

    @contextmanager
    def open(self, index: int) -> Iterator[ChangeOutput]:
        """Yields the ChangeOutput of a scene; after the block, writes run lengths and figure."""
        reader, name = self.scenes.reader, self.scenes.names[index]
        shape, geotiff = reader.shapes[index], reader.is_geotiff(index)
        step = -(-max(shape) // FIGURE_PX) if name in self.drawn else 0
        masks, probs = self.where.masks, self.where.probs
        with ChangeOutput(
            shape,
            masks / f"{name}{'.tif' if geotiff else '.png'}",
            probs and probs / f"{name}{'.tif' if geotiff else '.npz'}",
            palette=self.scheme.palette,
            rle=self.rle,
            preview_step=step,
            **reader.georeference(index),
        ) as out:
            yield out
        (masks / f"{name}{'.png' if geotiff else '.tif'}").unlink(missing_ok=True)  # an older mask
        if out.encoder is not None:
            self.texts.append((name, out.encoder.text()))
        if step:
            images, truth = reader.preview(index, step)
            truth = truth[None] if self.scenes.labelled else None
            images = tile_images(torch.from_numpy(images))
            path = self.where.figures / f"{name}.png"
            draw(path, images, out.preview[None], truth, self.scheme, name)


def write_submissions(entry: DatasetEntry, where: Destinations, tiles: Dataset) -> None:
    """Packs the masks of tiles as contest submissions, if chosen, and prints the paths."""
    if where.archive is not None:
        packed = pack_masks(entry, where.archive, where.masks, tiles)
        print(f"{packed} masks packed in {where.archive}")
    if where.table is not None:
        pngs = map(to_png, read_masks(where.masks, tiles.names))
        print(f"{write_pkl(where.table, pngs)} PNG in {where.table}")


def pack_masks(entry: DatasetEntry, path: Path, folder: Path, tiles: Dataset) -> int:
    """Packs the masks of tiles in a zip file; returns the number of masks."""
    if entry.zip is not None:
        return entry.zip(path, folder, tiles.names)
    if entry.labels is not None:
        files = (entry.labels.name(tiles.patch_of(name)) for name in tiles.names)
        return zip_files(path, folder, files)
    dates = ("im1",) if entry.task != "semantic_change" else ("im1", "im2")
    return zip_files(path, folder, (f"{date}/{name}.png" for date in dates for name in tiles.names))
