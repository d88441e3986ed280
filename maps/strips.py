"""Predicts a map in rectangles: rows are read ahead, windows are batched and blended."""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.blending import Blender, Piece
from inference.predictor import Predictor
from maps.reader import MapReader
from utils.probabilities import stack_probs
from utils.rasters.windows import Window


class FinishedArea(NamedTuple):
    """A finished rectangle of a map, and where its images have data."""

    row: int  # number of the row of windows that finished it
    piece: Piece
    valid: np.ndarray  # (h, w) bool


class MapPredictor:
    """Predicts rows of windows of one map; a row's values do not depend on the rows requested.

    Args:
        predictor: of the networks.
        reader: of the images.
        blender: of the map; it defines the grid.
        batch_size: windows per batch, all of one row.

    Attributes:
        network_s: seconds spent in the networks so far.
    """

    def __init__(self, predictor: Predictor, reader: MapReader, blender: Blender, batch_size: int):
        self.predictor, self.reader, self.blender = predictor, reader, blender
        self.batch_size, self.network_s = batch_size, 0.0

    def predict(self, rows: Sequence[int], bar: Any) -> Iterator[FinishedArea]:
        """Yields the rectangles of some rows of windows, in order.

        The row above each requested row is also predicted, because their overlap is blended.

        Args:
            rows: numbers of rows of windows, ascending.
            bar: progress bar; `update(1)` is called for every window.
        """
        wanted, computed = set(rows), []
        for row in rows:
            if row and row - 1 not in wanted:
                computed.append(row - 1)
            computed.append(row)
        for row, images, valid in self._read_ahead(computed):
            for left, values in self._windows(images, valid):
                window = Window(self.blender.tops[row], left, *self.blender.side)
                piece = self.blender.add(window, values)
                bar.update(1)
                if row in wanted:
                    high, wide = piece.values.shape[1:]
                    yield FinishedArea(row, piece, valid[:high, left : left + wide])

    def count(self, rows: Iterable[int]) -> int:
        """Number of windows that `predict` computes for these rows."""
        wanted = set(rows)
        above = {row - 1 for row in wanted if row} - wanted
        return (len(wanted) + len(above)) * len(self.blender.lefts)

    def _read_ahead(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields each row's number, images (T, C, h, reach) and valid mask (h, reach)."""
        high, reach = self.blender.side[0], self.blender.reach
        with ThreadPoolExecutor(1) as pool:

            def start(row: int) -> Any:
                return pool.submit(self.reader.rows, self.blender.tops[row], high, reach)

            following = start(rows[0]) if rows else None
            for number, row in enumerate(rows):
                current = following.result()
                following = start(rows[number + 1]) if number + 1 < len(rows) else None
                yield row, *current

    def _windows(self, images: np.ndarray, valid: np.ndarray) -> Iterator[tuple[int, Tensor]]:
        """Yields left edge and probabilities (C, h, w) of each window; 0 if it has no data."""
        lefts, wide = self.blender.lefts, self.blender.side[1]
        with_data = [left for left in lefts if valid[:, left : left + wide].any()]
        predicted: dict[int, Tensor] = {}
        batches = iter(
            [with_data[i : i + self.batch_size] for i in range(0, len(with_data), self.batch_size)]
        )
        for left in lefts:
            if left in with_data and left not in predicted:
                batch = next(batches)
                predicted = dict(zip(batch, self._network(images, batch), strict=True))
            yield left, predicted.pop(left) if left in predicted else self._nothing()

    def _network(self, images: np.ndarray, lefts: Sequence[int]) -> Tensor:
        """(B, C, h, w) probabilities of windows."""
        wide = self.blender.side[1]
        batch = torch.from_numpy(np.stack([images[..., left : left + wide] for left in lefts]))
        start_s = time.monotonic()
        values = stack_probs(self.predictor(batch))
        self.predictor.wait()
        self.network_s += time.monotonic() - start_s
        return values

    def _nothing(self) -> Tensor:
        scheme = self.reader.scheme
        channels = scheme.num_classes * scheme.num_dates + (scheme.task != "land_cover")
        return torch.zeros(channels, *self.blender.side, device=self.predictor.device)
