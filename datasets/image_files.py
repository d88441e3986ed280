"""Reads, resizes and checks patches that have one image file and one label file."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.bands import GREY, band_numbers
from datasets.codecs import LabelError, image_size, read_image
from datasets.land_cover import Patch, Size, refuse_sizes, unlabelled
from datasets.layout import Problem
from datasets.resize import fit_size, pad, resize_image, resize_label
from utils.rasters.reading import open_raster
from utils.rasters.statistics import mean_and_std, to_grey
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX, Scheme


class Fit(NamedTuple):
    """How images are resized after reading."""

    side: int  # side in px of the square to fit into; the aspect ratio is kept
    pad: bool  # pad to the square: images with the mean, labels with IGNORE_INDEX
    labels: bool  # also resize labels; else they keep the size of the file, as predictions do


class FileReader:
    """Reads patches of one image and one label. See `datasets.land_cover.Reader`.

    If the scheme does not standardise, images are uint8 RGB (float32 if padded). Otherwise they are
    float32, standardised with the statistics of each image.

    Args:
        patches: patches in order; all with a label, or none.
        scheme: bands and classes.
        read_label: path -> classes (H, W) uint8 in 0..K-1 or IGNORE_INDEX.
        fit: resizing, only for 8-bit RGB; None keeps sizes.
        settings: what the output of `read_label` depends on besides the file; in the cache key.
    """

    def __init__(
        self,
        patches: Sequence[Patch],
        scheme: Scheme,
        read_label: Callable[[Path], np.ndarray],
        fit: Fit | None = None,
        settings: object = None,
    ):
        self.patches, self.scheme = patches, scheme
        self.read_label, self.fit, self.settings = read_label, fit, (scheme, fit, settings)
        self.names = [patch.name for patch in patches]
        self.labelled = bool(patches) and all(patch.label is not None for patch in patches)

    def patch(self, index: int) -> Patch:
        """See Reader."""
        return self.patches[index]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """See Reader.

        Raises:
            LabelError, OSError, ValueError: a file is unreadable or has bad values, bands or size.
        """
        image, classes = self.read_files(self.patches[index])
        if self.fit is None:
            return image, classes
        size = fit_size(image.shape[1:], self.fit.side)
        image = resize_image(image, size)
        classes = resize_label(classes, size) if self.fit.labels else classes
        square = (self.fit.side,) * 2
        if self.fit.pad and size != square:
            mean = np.array(self.scheme.mean, np.float32)[:, None, None]
            image = pad(image, square, mean * np.float32(self.scheme.scale))
            classes = pad(classes, square, np.uint8(IGNORE_INDEX))
        return image, classes

    def read_files(self, patch: Patch) -> tuple[np.ndarray, np.ndarray]:
        """Image and classes of a patch in the size of the files, which must be equal."""
        image = _read_image(patch.images[0], self.scheme)
        if patch.label is None:
            return image, unlabelled(image.shape[1:])
        classes = self.read_label(patch.label)
        refuse_sizes({patch.images[0]: image.shape[1:], patch.label: classes.shape})
        return image, classes

    def array_specs(self, index: int) -> tuple[tuple, tuple]:
        """See Reader."""
        stored = self.stored_size(index)
        size, plain = self._given(stored), self.scheme.standardise == "none"
        padded = size != (fit_size(stored, self.fit.side) if self.fit else stored)
        dtype = np.dtype(np.uint8 if plain and not padded else np.float32)
        return ((len(self.scheme.bands), *size), self._label_size(stored)), (
            dtype,
            np.dtype(np.uint8),
        )

    def stored_size(self, index: int) -> Size:
        """Size of the image in its file."""
        return image_size(self.patches[index].images[0])

    def sizes(self) -> list[tuple[Size, Size]] | None:
        """See Reader."""
        if self.fit is not None and self.fit.pad:
            return None
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            stored = list(pool.map(self.stored_size, range(len(self.names))))
        return [(self._given(size), self._label_size(size)) for size in stored]

    def _given(self, stored: Size) -> Size:
        """Size of the image that `read` returns."""
        if self.fit is None:
            return stored
        return (self.fit.side,) * 2 if self.fit.pad else fit_size(stored, self.fit.side)

    def _label_size(self, stored: Size) -> Size:
        """Size of the label that `read` returns."""
        return self._given(stored) if self.fit is None or self.fit.labels else stored


def _read_image(path: Path, scheme: Scheme) -> np.ndarray:
    """Reads (C, H, W): uint8 RGB, or standardised float32 with non-finite pixels set to 0."""
    if scheme.standardise == "none":
        return np.ascontiguousarray(read_image(path).transpose(2, 0, 1))
    raster, bands = open_raster(path), band_numbers(scheme.bands)
    if max(bands) >= raster.count:
        raise ValueError(f"{path}: {raster.count} band(s) where {max(bands) + 1} are needed")
    grey = tuple(scheme.bands) == GREY
    pixels = raster.read(Window(0, 0, raster.height, raster.width), bands).astype(np.float64)
    joint = scheme.standardise == "joint"
    mean, std = mean_and_std(raster, bands, joint=joint, grey=grey)
    pixels = ((to_grey(pixels) if grey else pixels) - mean) / std
    return np.where(np.isfinite(pixels), pixels, 0).astype(np.float32)


def check_files(reader: FileReader, patch: Patch) -> list[Problem]:
    """Decodes both files of one patch; returns the problems found."""
    problems, sizes = [], {}
    try:
        sizes[patch.images[0]] = _read_image(patch.images[0], reader.scheme).shape[1:]
        if patch.label is not None:
            sizes[patch.label] = reader.read_label(patch.label).shape
    except LabelError as error:
        problems.append(Problem("label values", str(error)))
    except OSError as error:
        problems.append(Problem("unreadable", str(error)))
    except ValueError as error:
        problems.append(Problem("bands", str(error)))
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{path} {size[0]} x {size[1]}" for path, size in sizes.items())
        problems.append(Problem("sizes differ", text))
    return problems
