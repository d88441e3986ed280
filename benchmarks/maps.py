"""Time and memory of predict.py by the size of the map, with and without the networks' time.

`python -m benchmarks.maps` makes pairs of tiled GeoTIFFs and a network of random weights, runs
predict.py on each pair, prints a table and writes JSON. Seconds are those of predict.json, without
the start of the program; memory is the sum over all processes, with shared pages counted once.
Polygons are measured separately, on generated maps of round changes (random networks predict noise,
whose polygons have far too many corners).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.scenes import PeakMemory
from models.checkpoints import make_recipe, network_of
from utils.cli import Parser, positive_int, run
from utils.files import write_json
from utils.rasters.gdal import rasterio
from utils.rasters.writing import open_strips
from utils.schemes import SECOND, change_scheme
from utils.state_files import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
STRIP_PX = 512
SCHEMES = {
    "semantic_change": SECOND,
    "binary_change": change_scheme(("red", "green", "blue"), "none"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        "Measure predict.py over maps of several sizes.", prog="python -m benchmarks.maps"
    )
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="unet", help="as for train.py")
    group.add_argument("--backbone", default="resnet18", help="as for train.py")
    group.add_argument("--task", choices=list(SCHEMES), default="semantic_change", help="of it")
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--sides", type=positive_int, nargs="+", default=[1000, 2000, 4000], help="of maps, px"
    )
    group.add_argument("--predict-options", default="--vector none", help="of predict.py")
    group.add_argument(
        "--polygon-sides", type=positive_int, nargs="*", default=[4000], help="of drawn maps, px"
    )
    group.add_argument("--out", default="outdir/benchmarks/maps.json", help="JSON to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Makes the pairs, runs predict.py over them, prints the table."""
    args = parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network = save_network(Path(folder, "network.pth"), args)
        for side in args.sides:
            pair = [make_image(Path(folder, f"{side}_{d}.tif"), side, d) for d in (1, 2)]
            rows.append(measure(args, pair, network, Path(folder, f"out{side}")))
            print(table(rows[-1:], len(rows) == 1), flush=True)
            for path in pair:
                path.unlink()
        polygons = [measure_polygons(Path(folder), side) for side in args.polygon_sides]
    print("\n".join(map(polygon_line, polygons)))
    write_json(args.out, {"options": vars(args), "rows": rows, "polygons": polygons})
    print(f"written to {args.out}")


def save_network(path: Path, args: argparse.Namespace) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    recipe = make_recipe(SCHEMES[args.task], model=args.model, backbone=args.backbone)
    save_checkpoint(path, network_of(recipe).state_dict(), recipe)
    return path


def make_image(path: Path, side: int, date: int) -> Path:
    """Three 8-bit bands of smooth fields and noise, written strip by strip."""
    rng, columns = np.random.default_rng(date), np.arange(side)
    place = {"crs": "EPSG:32633", "transform": rasterio().Affine(1, 0, 5e5, 0, -1, 54e5)}
    with open_strips(path, side, side, np.uint8, bands=3, **place) as out:
        for top in range(0, side, STRIP_PX):
            rows = np.arange(top, min(top + STRIP_PX, side))[:, None]
            wave = 100 + 50 * np.sin(rows / (90 + 7 * date)) * np.cos(columns / 61)
            noise = rng.integers(0, 50, (3, len(rows), side), dtype=np.uint8)
            out.write(top, wave.astype(np.uint8) + noise)
    return path


def measure(args: argparse.Namespace, pair: list[Path], network: Path, out: Path) -> dict:
    """One row of the table."""
    words = ["predict.py", *pair, "--checkpoints", network, "--out", out]
    words += args.predict_options.split()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    peak = PeakMemory(process.pid)
    if process.wait():
        raise OSError(f"predict.py failed with status {process.returncode}; see above")
    record = json.loads((out / "predict.json").read_text(encoding="utf-8"))
    seconds, megapixels = record["seconds"], record["height"] * record["width"] / 1e6
    return {
        "side_px": record["width"],
        **{f"{name}_s": value for name, value in seconds.items()},
        "s_per_megapixel": seconds["total"] / megapixels,
        "not_network": 1 - seconds["network"] / seconds["total"],
        "memory_mib": peak.stop(),
    }


POLYGONS = """
import json, sys, time
from utils.schemes import SECOND
from maps.polygons import write_vectors
folder, codes, probs = sys.argv[1:]
start_s = time.monotonic()
found = write_vectors(folder, codes, probs, SECOND, simplify_m=2.0)
print(json.dumps({"polygons": found["polygons"], "seconds": time.monotonic() - start_s}))
"""


def measure_polygons(folder: Path, side: int) -> dict:
    """Seconds and memory of the polygons of a map."""
    codes, probs = folder / f"codes{side}.tif", folder / f"probs{side}.tif"
    place = {"crs": "EPSG:32633", "transform": rasterio().Affine(1, 0, 5e5, 0, -1, 54e5)}
    columns = np.arange(side)
    with (
        open_strips(codes, side, side, np.uint8, nodata=255, **place) as code_file,
        open_strips(probs, side, side, np.float32, **place) as prob_file,
    ):
        for top in range(0, side, STRIP_PX):
            rows = np.arange(top, min(top + STRIP_PX, side))[:, None]
            height = np.sin(rows / 41) * np.cos(columns / 37) + np.sin((rows + columns) / 91)
            kinds = 1 + (rows // 300 + columns // 200) % SECOND.num_classes**2
            code_file.write(top, np.where(height > 0.9, kinds, 0).astype(np.uint8)[None])
            prob_file.write(top, (height / 4 + 0.5).astype(np.float32)[None])
    words = [sys.executable, "-c", POLYGONS, folder, codes, probs]
    process = subprocess.Popen(
        [str(word) for word in words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    peak = PeakMemory(process.pid)
    answer = process.communicate()[0]
    if process.returncode:
        raise OSError("the polygons failed; see above")
    for path in (codes, probs, folder / "changes.gpkg"):
        path.unlink()
    return {"side_px": side, **json.loads(answer), "memory_mib": peak.stop()}


def polygon_line(row: dict) -> str:
    """A row as text."""
    return (
        f"{row['side_px']:8d} px: {row['polygons']} polygons in {row['seconds']:.1f} s, "
        f"peak {row['memory_mib']:.0f} MiB"
    )


def table(rows: list[dict], header: bool = True) -> str:
    """The rows as text."""
    lines = [f"{'side px':>8}{'seconds':>10}{'network':>10}{'rest':>8}{'s/MP':>8}{'peak MiB':>10}"]
    lines = lines if header else []
    for row in rows:
        lines.append(
            f"{row['side_px']:8d}{row['total_s']:10.1f}{row['network_s']:10.1f}"
            f"{row['not_network']:8.1%}{row['s_per_megapixel']:8.2f}{row['memory_mib']:10.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
