"""Options of a map, the files that follow from them, and checks before the work starts."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inference.ensemble import Chosen
from maps.layers import ALL_LAYERS, layers_of
from maps.polygons import FORMATS, check_packages
from maps.progress import fingerprint, image_fingerprints
from models.args_pkl import find_args
from utils.rasters.windows import windows_of
from utils.schemes import S2_BANDS
from utils.structures import Scheme

# files of an earlier map in the same folder that a new map may not overwrite, so are deleted
OLDER = (
    *(f"{layer}{suffix}" for layer in ALL_LAYERS for suffix in (".tif", ".tif.aux.xml", ".qml")),
    *(f"changes.{kind}" for kind in FORMATS),
    *("changes.qml", "summary.csv", "summary.json", "report.html"),
)
VALUE_FLAGS = ("nodata", "scale", "offset")  # one number for each image, or one for all
WINDOWS = 2  # version of the placement of windows; rows of another are not continued


class MapOptions(NamedTuple):
    """How maps are made; fields are flags of predict.py unless noted."""

    out: Path
    overwrite: bool = False
    bands: list[str] | None = None
    strict_grid: bool = False
    nodata: list[float] | None = None  # one for each image, or one for all
    scale: list[float] | None = None
    offset: list[float] | None = None
    tta: str = "none"
    threshold: float = 0.5
    full_semantics: bool = False
    tile_px: int = 512
    overlap_px: int = 128
    test_batch_size: int = 4
    vector: tuple[str, ...] = ("gpkg",)
    min_area: float = 0.0  # square metres
    simplify: float = 0.0  # metres
    change_only: tuple[str, ...] = ()  # not a flag: given flags that apply to two dates only


def check_options(options: MapOptions, scheme: Scheme, report: bool = False) -> None:
    """Raises ValueError for options that the networks or the installed packages do not support."""
    windows_of(1, 1, options.tile_px, options.overlap_px)
    for flag in VALUE_FLAGS:
        given = getattr(options, flag)
        if given is not None and len(given) not in (1, scheme.num_dates):
            raise ValueError(
                f"--{flag} {' '.join(f'{value:g}' for value in given)}: {len(given)} values for "
                f"{scheme.num_dates} image(s); give one for each date, or one for all"
            )
        if flag != "nodata" and given is not None and not set(scheme.bands) <= {*S2_BANDS}:
            raise ValueError(
                f"--{flag} is for networks that read Sentinel-2 only, and these read "
                f"{' '.join(scheme.bands)}; {_values_otherwise(scheme)}"
            )
    if options.change_only and scheme.task == "land_cover":
        flag = options.change_only[0].replace("_", "-")
        raise ValueError(f"--{flag} is for change between two dates; leave it out for land cover")
    if options.full_semantics and scheme.task != "semantic_change":
        raise ValueError(
            f"--full-semantics: these networks are for {scheme.task}, which has no classes of two "
            "dates; leave it out"
        )
    if scheme.task != "land_cover":
        check_packages(options.vector)
    if report and importlib.util.find_spec("jinja2") is None:
        raise ValueError("--report needs jinja2: pip install jinja2, or leave it out")


def _values_otherwise(scheme: Scheme) -> str:
    if scheme.standardise != "none":
        return "each image is standardised, so it would change nothing. Leave it out"
    return "convert the images beforehand"


def file_names(vector: Sequence[str], scheme: Scheme) -> list[str]:
    """Names of the files of a map. `vector`: formats of the polygons."""
    names = [f"{layer.name}.tif" for layer in layers_of(scheme)]
    names += ["summary.csv", "summary.json", "predict.json"]
    return [*names, *(f"changes.{kind}" for kind in vector if scheme.task != "land_cover")]


def refuse_own_inputs(
    images: Sequence[Path], checkpoints: Sequence[Path], folder: Path, names: Sequence[str]
) -> None:
    """Raises ValueError if the map would overwrite its inputs, or if both dates are one image."""
    written = {(folder / name).resolve() for name in (*names, *OLDER)}
    for path in (*images, *checkpoints):
        if path.resolve() in written:
            raise ValueError(
                f"--out {folder}: the map would replace {path}, of which it is made; choose "
                "another folder"
            )
    if len({path.resolve() for path in images}) < len(images):
        raise ValueError(f"{images[0]} is given as both dates; pass two images")


def map_settings(
    options: MapOptions,
    images: Sequence[Path],
    chosen: Chosen,
    networks: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Settings of a map, which must be unchanged to continue an interrupted run.

    Args:
        options: of the map.
        images: of the map.
        chosen: the networks.
        networks: flags, by name, that describe the networks and how they compute.
        device: of the networks.

    Returns:
        `rows`: settings of the predicted rows; `results`: settings of the final files only.
    """
    names = ("tta", "threshold", "full_semantics", "bands", *VALUE_FLAGS, "tile_px", "overlap_px")
    flags = {name: getattr(options, name) for name in (*names, "test_batch_size")} | networks
    described_by = [file for path in chosen.paths if (file := find_args(path)) is not None]
    rows = {
        "images": [image_fingerprints(path) for path in images],
        "checkpoints": [fingerprint(path) for path in (*chosen.paths, *described_by)],
        **{f"--{name.replace('_', '-')}": value for name, value in flags.items()},
        "--device": device.type,
        "torch": torch.__version__,
        "windows": WINDOWS,
    }
    results = [list(options.vector), options.min_area, options.simplify]
    return {"rows": rows, "results": results}
