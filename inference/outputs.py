"""Writes the outputs of predicted scenes: masks, probabilities, figures, archives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.entry import DatasetEntry, LabelFiles
from datasets.naic2020.submission import read_masks, to_png, write_pkl
from datasets.rucode.run_lengths import StripEncoder
from datasets.samples import SceneSamples
from inference.decide import true_masks
from inference.destinations import Destinations
from inference.overlap import HostCopy
from inference.prediction import Area
from utils.background import BackgroundWriter
from utils.figures.panels import heat_map
from utils.figures.tiles import draw, tile_images
from utils.files import save_image, zip_files
from utils.rasters.masks import write_mask, write_probs
from utils.rasters.writing import (
    BLOCK_PX,
    RowJoiner,
    open_strips,
    write_with_georeference_of,
)
from utils.structures import Sample, Scheme

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

FIGURE_PX = 1024  # longest side of a scene in a figure


class Outputs:
    """Writes masks of scenes, and optionally probabilities, gates, figures and run lengths.

    Whole scenes with classes are written by a background thread, file by file. Scenes that were
    divided, and changes without classes, are written strip by strip, see SceneOutput.

    Args:
        writer: of the files of whole scenes.
        data: the data set that is predicted.
        scheme: classes and palette.
        destinations: paths of the files.
        labels: writes masks in the format of the data set's labels; None: palette PNGs
            `im1/<id>.png` and `im2/<id>.png`, or GeoTIFFs in the place of georeferenced images.
        drawn: ids that get a figure.
        rle: also encode run lengths.

    Attributes:
        texts: (id, run lengths) of the scenes so far.
    """

    def __init__(
        self,
        writer: BackgroundWriter,
        data: SceneSamples,
        scheme: Scheme,
        destinations: Destinations,
        labels: LabelFiles | None = None,
        drawn: Collection[str] = (),
        rle: bool = False,
    ):
        self.writer, self.data, self.scheme, self.destinations = writer, data, scheme, destinations
        self.labels, self.drawn, self.rle = labels, drawn, rle
        self.texts: list[tuple[str, str]] = []
        self._open: SceneOutput | None = None
        self._stack = ExitStack()

    def fetch(self, area: Area, masks: Tensor) -> HostCopy:
        """Starts the copy of outputs to the host; masks as returned by `to_masks`."""
        semantic, change = area.probs[:2] if self.destinations.probs else (None, None)
        if self.scheme.classes:  # stored so
            semantic, change = (None if p is None else p.half() for p in (semantic, change))
        gate = area.probs.gate if self.destinations.gates else None
        return HostCopy(masks=masks, semantic=semantic, change=change, gate=gate)

    def write(self, area: Area, copy: HostCopy) -> None:
        """Writes an area and its copy, made by `fetch`."""
        found = copy.arrays()
        if self._is_whole(area):
            self._write_whole(area.batch, found)
            return
        for i, scene in enumerate(area.scenes):
            one = {name: array[i] for name, array in found.items() if array is not None}
            self._write_area(scene, area, one)

    def _is_whole(self, area: Area) -> bool:
        """Whether scenes are written by the background thread."""
        cut = any(self.data.scenes[scene].rows is not None for scene in area.scenes)
        return area.is_whole and bool(self.scheme.classes) and not cut

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _write_whole(self, batch: Sample, found: dict[str, np.ndarray | None]) -> None:
        masks = found["masks"]  # (B, T, H, W) uint8
        if self.labels is None:
            self._write_masks(batch.name, masks)
        else:
            self._write_labels(batch, masks)
        if self.destinations.probs is not None:
            self._write_probs(batch, found["semantic"], found["change"])
        if self.destinations.gates is not None:
            for name, gate in zip(batch.name, found["gate"], strict=True):
                picture = Image.fromarray(heat_map(gate))
                self.writer.submit(save_image, self.destinations.gates / f"{name}.png", picture)
        for i, name in enumerate(batch.name):
            if name in self.drawn:
                self._draw(batch, masks[i], i)

    def _write_masks(self, names: Sequence[str], masks: np.ndarray) -> None:
        for name, dates in zip(names, masks, strict=True):
            image, palette = self.data.scene_of(name).images[0], self.scheme.palette
            for file, mask in zip(mask_names(self.data, name), dates, strict=True):
                path = self.destinations.masks / file
                if path.suffix == ".tif":
                    self.writer.submit(write_with_georeference_of, path, mask, palette, image)
                else:
                    self.writer.submit(write_mask, path, mask, palette)
                _other_format(path).unlink(missing_ok=True)

    def _write_labels(self, batch: Sample, masks: np.ndarray) -> None:
        for name, mask in zip(batch.name, masks, strict=True):
            scene = self.data.scene_of(name)
            path = self.destinations.masks / self.labels.name(scene)
            self.writer.submit(self.labels.write, path, mask[0], self.scheme, scene)

    def _write_probs(self, batch: Sample, *arrays: np.ndarray | None) -> None:
        for i, name in enumerate(batch.name):
            one = [None if array is None else array[i] for array in arrays]
            self.writer.submit(write_probs, self.destinations.probs / f"{name}.npz", *one)

    def _draw(self, batch: Sample, mask: np.ndarray, i: int) -> None:
        truth = true_masks(batch)[i].numpy() if self.data.labelled else None
        images = tile_images(batch.images[i], self.scheme.bands, mask.shape[-2:])
        picture = (images, mask, truth, self.scheme, batch.name[i])
        self.writer.submit(draw, self.destinations.figures / f"{batch.name[i]}.png", *picture)

    def _write_area(self, scene: int, area: Area, one: dict[str, np.ndarray]) -> None:
        """Writes an area of a scene; its files are open from the first to the last."""
        if area.top == 0 and area.left == 0:
            self._open = self._stack.enter_context(self._output(scene))
        self._open.add(area.top, area.left, one)
        if not area.is_last:
            return
        self._stack.close()
        out, name = self._open, self.data.names[scene]
        for path in out.older:
            path.unlink(missing_ok=True)
        if out.encoder is not None:
            self.texts.append((name, out.encoder.text()))
        if out.step:
            images, labels = self.data.reader.preview(scene, out.step)
            labels = Sample(
                [name], None, *(torch.from_numpy(x)[None] for x in (labels[:-1], labels[-1]))
            )
            truth = true_masks(labels)[0].numpy() if self.data.labelled else None
            images = tile_images(torch.from_numpy(images), self.scheme.bands)
            path = self.destinations.figures / f"{name}.png"
            draw(path, images, out.preview, truth, self.scheme, name)

    def _output(self, scene: int) -> SceneOutput:
        reader, name = self.data.reader, self.data.names[scene]
        geotiff, shape = reader.is_geotiff(scene), reader.shape(scene)
        masks = [
            self.destinations.masks / path for path in mask_names(self.data, name, self.labels)
        ]
        probs = self.destinations.probs
        return SceneOutput(
            shape,
            masks,
            probs and probs / f"{name}{'.tif' if geotiff else '.npz'}",
            scheme=self.scheme,
            rle=self.rle,
            preview_step=-(-max(shape) // FIGURE_PX) if name in self.drawn else 0,
            older=[] if self.labels is not None else [_other_format(path) for path in masks],
            **reader.georeference(scene),
        )


def mask_names(data: SceneSamples, name: str, labels: LabelFiles | None = None) -> list[str]:
    """File names of the masks of a scene: one for each date with classes, or one of the change.

    GeoTIFF if the image has a georeference, otherwise PNG. Of TIFFs without a georeference, scenes
    that are divided and changes without classes are also TIFF, which is written strip by strip.

    Args:
        data: the data set.
        name: id of the scene.
        labels: gives the file the name of the data set's labels.
    """
    if labels is not None:
        return [labels.name(data.scene_of(name))]
    scheme = data.scheme
    in_strips = not scheme.classes or data.is_divided(name)
    tiff = data.is_geotiff(name) if in_strips else data.has_georeference(name)
    end = ".tif" if tiff else ".png"
    if not scheme.classes:
        return [f"{name}{end}"]
    return [f"im{date + 1}/{name}{end}" for date in range(scheme.num_dates)]


def _other_format(path: Path) -> Path:
    """The mask that an earlier test of other images of these ids may have left."""
    return path.with_suffix({".tif": ".png", ".png": ".tif"}[path.suffix])


class SceneOutput:
    """Writes one scene strip by strip: masks, probabilities, run lengths, and a small preview.

    A context manager. The files appear only if the block ends without error and they read back as
    written.

    Args:
        shape: (height, width) of the scene.
        mask_paths: of each mask, .tif, or .png without georeference.
        probs_path: .tif, or .npz of the change alone; None: not written.
        scheme: classes and palette.
        rle: also encode run lengths of the first mask.
        preview_step: `preview` keeps every `preview_step`-th row and column; 0 keeps none.
        older: masks of an earlier test under other names.
        crs, transform: of the image.

    Raises:
        ValueError: probabilities of classes without a georeference.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        mask_paths: Sequence[Path],
        probs_path: Path | None = None,
        *,
        scheme: Scheme,
        rle: bool = False,
        preview_step: int = 0,
        older: Sequence[Path] = (),
        crs: CRS | None = None,
        transform: Affine | None = None,
    ):
        self.step, self.older = preview_step, older
        self._rows = RowJoiner(*shape, multiple=BLOCK_PX)
        self.encoder = StripEncoder(*shape) if rle else None
        georeference = {"crs": crs, "transform": transform}
        self._masks = [
            open_strips(path, *shape, np.uint8, palette=scheme.palette, **georeference)
            for path in mask_paths
        ]
        self._probs, channels = None, scheme.num_classes * scheme.num_dates
        channels += scheme.task != "land_cover"
        if probs_path is not None:
            path = probs_path if channels == 1 else probs_path.with_suffix(".tif")
            bands = {"bands": channels} if channels > 1 else {}
            self._probs = open_strips(path, *shape, np.float16, **bands, **georeference)
        self._preview: list[np.ndarray] = []

    def __enter__(self) -> SceneOutput:
        with ExitStack() as stack:
            for file in (*self._masks, self._probs):
                if file is not None:
                    stack.enter_context(file)
            self._stack = stack.pop_all()
        return self

    def add(self, top: int, left: int, area: dict[str, np.ndarray]) -> None:
        """Adds a rectangle; they come from left to right and from top to bottom.

        Args:
            top: first row.
            left: first column.
            area: `masks` (D, h, w) uint8, and with probabilities `semantic` (T, K, h, w) and
                `change` (h, w), as far as there are such heads.
        """
        for first, strip in self._rows.add(top, left, area):
            self._write(first, **strip)

    def _write(
        self,
        top: int,
        masks: np.ndarray,
        semantic: np.ndarray | None = None,
        change: np.ndarray | None = None,
        gate: np.ndarray | None = None,
    ) -> None:
        """Writes full rows."""
        for file, mask in zip(self._masks, masks, strict=True):
            file.write(top, mask)
        if self._probs is not None:
            bands = [] if semantic is None else [semantic.reshape(-1, *semantic.shape[2:])]
            bands += [] if change is None else [change[None]]
            self._probs.write(top, np.concatenate(bands))
        if self.encoder is not None:
            self.encoder.add(top, masks[0])
        if self.step:
            self._preview.append(masks[:, -top % self.step :: self.step, :: self.step])

    @property
    def preview(self) -> np.ndarray:
        """The masks at every `preview_step`-th pixel, (D, h, w) uint8."""
        return np.concatenate(self._preview, axis=1)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def write_archives(entry: DatasetEntry, destinations: Destinations, tiles: SceneSamples) -> None:
    """Packs the masks of tiles as contest submissions, if chosen, and prints the paths."""
    if destinations.archive is not None:
        packed = pack_masks(entry, destinations.archive, destinations.masks, tiles)
        print(f"{packed} masks packed in {destinations.archive}")
    if destinations.table is not None:
        pngs = map(to_png, read_masks(destinations.masks, tiles.names))
        print(f"{write_pkl(destinations.table, pngs)} PNG in {destinations.table}")


def pack_masks(entry: DatasetEntry, path: Path, folder: Path, tiles: SceneSamples) -> int:
    """Packs the masks of tiles in a zip file; returns the number of masks."""
    if entry.zip is not None:
        return entry.zip(path, folder, tiles.names)
    each = [mask_names(tiles, name, entry.labels) for name in tiles.names]
    return zip_files(path, folder, (names[date] for date in range(len(each[0])) for names in each))
