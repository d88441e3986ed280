"""The layers of a map: their values, rows of windows, and the final GeoTIFFs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import torch
from torch import Tensor

from inference.decide import most_probable, other_classes
from maps import transitions
from maps.qgis_style import ramp_style, raster_style
from utils.rasters.gdal import GDAL_TYPES, rasterio
from utils.rasters.writing import open_strips
from utils.schemes import CHANGE_PALETTE
from utils.structures import Scheme

NO_DATA = 255  # for maps of classes; 65535 for 16-bit codes; NaN for probabilities
BLOCK_PX = 512  # side of the internal tiles of a GeoTIFF
CHECKED_PX = 1 << 24  # pixels read at a time when a file is compared with its rows
ALL_LAYERS = (
    "change",
    "change_probability",
    "date1",
    "date2",
    "transition",
    "classes",
    "confidence",
)


class Layer(NamedTuple):
    """One file of a map."""

    name: str  # of the file, without .tif
    text: str  # description of its values
    dtype: str = "uint8"
    values: tuple[str, ...] = ()  # names of the values 0, 1, ...; empty for probabilities
    palette: tuple[tuple[int, int, int], ...] = ()  # RGB of the values

    @property
    def nodata(self) -> float:
        """The value of pixels without data."""
        return {"uint8": NO_DATA, "uint16": 65535, "float32": float("nan")}[self.dtype]

    @property
    def colour_table(self) -> tuple[tuple[int, int, int], ...]:
        """The palette if a GeoTIFF can store it (8 bit), else empty."""
        return self.palette if self.dtype == "uint8" else ()

    def style(self) -> str:
        """The QGIS style, as the text of a .qml file."""
        if not self.values:
            return ramp_style(self.text)
        return raster_style(self.values, self.palette)


def layers_of(scheme: Scheme) -> list[Layer]:
    """The layers of a map for the task of a scheme."""
    names = ("unchanged", *scheme.classes)
    if scheme.task == "land_cover":
        return [
            Layer("classes", "land cover", values=("", *scheme.classes), palette=scheme.palette),
            Layer("confidence", "probability of the class", "float32"),
        ]
    changes = [
        Layer("change", "changed or not", values=("unchanged", "changed"), palette=CHANGE_PALETTE),
        Layer("change_probability", "probability of change", "float32"),
    ]
    if not scheme.classes:
        return changes
    return [
        *changes,
        Layer("date1", "land cover before", values=names, palette=scheme.palette),
        Layer("date2", "land cover after", values=names, palette=scheme.palette),
        _transitions(scheme),
    ]


def _transitions(scheme: Scheme) -> Layer:
    """The layer of from-to codes."""
    dtype = transitions.code_dtype(scheme.num_classes).name
    text = "from-to code: 0 = unchanged, else 1 + (from - 1) x K + to - 1"
    names, palette = transitions.names(scheme), transitions.palette(scheme)
    return Layer("transition", text, dtype, tuple(names), tuple(palette))


def map_values(
    probs: Tensor,
    valid: Tensor | None,
    scheme: Scheme,
    layers: Sequence[Layer],
    threshold: float = 0.5,
    full_semantics: bool = False,
) -> dict[str, np.ndarray]:
    """Probabilities of a rectangle -> the values of each layer, by name, (h, w).

    Args:
        probs: (C, h, w) in the order of `utils.probabilities.stack_probs`.
        valid: (h, w) bool; where False, layers get their nodata value; None: True everywhere.
        scheme: task and classes.
        layers: of the scheme.
        threshold: a pixel is changed if P(changed), rounded by `stored`, is above it.
        full_semantics: unchanged pixels also have classes.
    """
    if scheme.task == "land_cover":
        confidence, classes = probs.max(0)
        found = {"classes": classes + 1, "confidence": stored(confidence)}
    else:
        probability = stored(probs[-1])
        change = probability > threshold
        found = {"change": change, "change_probability": probability}
        if scheme.classes:
            dates = probs[:-1].unflatten(0, (2, scheme.num_classes))
            if scheme.same_class_change:
                first, second = most_probable(dates, dim=1) + 1  # each (h, w)
            else:
                first, second = other_classes(dates[None], change[None])[0] + 1
            shown = 1 if full_semantics else change
            found |= {"date1": first * shown, "date2": second * shown}
            found["transition"] = transitions.to_codes(first, second, scheme.num_classes, change)
    values = {}
    for layer in layers:
        array = found[layer.name].cpu().numpy().astype(layer.dtype)
        if valid is not None:
            array[~valid.numpy()] = layer.nodata
        values[layer.name] = array
    return values


def stored(probability: Tensor) -> Tensor:
    """Probabilities rounded to float16 precision, which compresses well; still float32."""
    return probability.to(torch.float16).float()


class Georeference(NamedTuple):
    """Size, CRS and transform of a map; the last two are None if the images have none."""

    height: int
    width: int
    crs: Any
    transform: Any


class MapRows:
    """The rows of a map as files in a folder, one for each layer and row of windows.

    Args:
        folder: of the files of single rows.
        layers: of the map.
        georeference: size and georeference of the map.
        tops: first pixel row of each row of windows.
    """

    def __init__(
        self, folder: Path, layers: Sequence[Layer], georeference: Georeference, tops: Sequence[int]
    ):
        self.folder, self.layers, self.tops = folder, layers, list(tops)
        self.georeference = georeference

    def path(self, layer: Layer, row: int) -> Path:
        """The file of one row of windows, counted from 0."""
        return self.folder / layer.name / f"{self.tops[row]:08d}.tif"

    def missing_rows(self) -> list[int]:
        """Numbers of the rows of windows for which a layer has no file."""
        rows = range(len(self.tops))
        return [r for r in rows if not all(self.path(x, r).is_file() for x in self.layers)]

    def _height(self, row: int) -> int:
        return [*self.tops[1:], self.georeference.height][row] - self.tops[row]

    def write(self, folder: Path, row: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes one row of windows atomically. `folder`: for errors of BackgroundWriter."""
        for layer in self.layers:
            rows = values[layer.name]
            path, palette = self.path(layer, row), layer.colour_table or None
            with open_strips(path, *rows.shape, layer.dtype, palette=palette) as out:
                out.write(0, rows)

    def join(self, layer: Layer, target: Path) -> None:
        """Writes a layer as a Cloud-Optimized GeoTIFF with overviews, and verifies its pixels.

        Raises:
            OSError: it cannot be written, or differs from its rows (for example, a full disk).
        """
        source = self.folder / f"{layer.name}.vrt"
        source.write_text(self._vrt(layer), encoding="utf-8")
        try:
            import rasterio.shutil

            rasterio.shutil.copy(
                source,
                target,
                driver="COG",
                compress="deflate",
                predictor="no" if layer.values else "yes",
                blocksize=BLOCK_PX,
                overview_resampling="mode" if layer.values else "average",
                bigtiff="if_safer",
                num_threads=str(os.cpu_count()),
            )
            compare(source, target)
        except Exception as error:
            raise OSError(
                f"could not write {target} ({error.__cause__ or error}). Is the disk full? Make "
                "room and run the same command again: it goes on; or choose another folder (--out)."
            ) from error

    def _vrt(self, layer: Layer) -> str:
        """The rows of windows as one virtual raster (GDAL's VRT, XML text)."""
        georeference, data_type = self.georeference, GDAL_TYPES[layer.dtype]
        lines = [
            f'<VRTDataset rasterXSize="{georeference.width}" rasterYSize="{georeference.height}">'
        ]
        if georeference.crs is not None:
            lines.append(f"<SRS>{escape(georeference.crs.to_wkt())}</SRS>")
        if georeference.transform is not None:
            numbers = ", ".join(repr(float(x)) for x in georeference.transform.to_gdal())
            lines.append(f"<GeoTransform>{numbers}</GeoTransform>")
        lines.append(f'<VRTRasterBand dataType="{data_type}" band="1">')
        lines.append(f"<Description>{escape(layer.text)}</Description>")
        lines += _legend(layer)
        for row, top in enumerate(self.tops):
            size = f'xSize="{georeference.width}" ySize="{self._height(row)}"'
            name = escape(str(self.path(layer, row).relative_to(self.folder)))
            lines.append(
                f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
                f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
                f'<DstRect xOff="0" yOff="{top}" {size}/></SimpleSource>'
            )
        return "\n".join([*lines, "</VRTRasterBand>", "</VRTDataset>"])


def _legend(layer: Layer) -> list[str]:
    """VRT lines with the names and colours of the values, and the nodata value."""
    keys = [
        f'<MDI key="CLASS_{value}">{escape(name)}</MDI>'
        for value, name in enumerate(layer.values)
        if name
    ]
    lines = ["<Metadata>", *keys, "</Metadata>", f"<NoDataValue>{layer.nodata:g}</NoDataValue>"]
    if layer.colour_table:
        colours = [
            '<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*rgb) for rgb in layer.colour_table
        ]
        lines += ["<ColorInterp>Palette</ColorInterp>", "<ColorTable>", *colours, "</ColorTable>"]
    if layer.values:
        names = [f"<Category>{escape(name)}</Category>" for name in layer.values]
        lines += ["<CategoryNames>", *names, "</CategoryNames>"]
    return lines


def compare(source: Path, target: Path) -> None:
    """Raises OSError unless two rasters hold the same pixels."""
    with rasterio().open(source) as one, rasterio().open(target) as other:
        rows = max(BLOCK_PX, CHECKED_PX // one.width // BLOCK_PX * BLOCK_PX)
        for top in range(0, one.height, rows):
            window = rasterio().windows.Window(0, top, one.width, min(rows, one.height - top))
            pixels = [file.read(1, window=window) for file in (one, other)]
            if not np.array_equal(*pixels, equal_nan=pixels[0].dtype.kind == "f"):
                raise OSError(f"rows from {top} on differ from what was written")
