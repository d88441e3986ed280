"""Small folders of outputs to report on, with the layout that the scripts write."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch

from helpers.tiny_data import make_second, write_tiff
from utils.files import write_json
from utils.metrics import confusion_for, metrics_for, to_json
from utils.rasters.masks import write_mask
from utils.schemes import SECOND
from utils.state_files import save_checkpoint
from utils.structures import Scheme

LOG = [
    {"kind": "train", "step": 10, "total": 3.5, "semantic": 2.5, "change": 0.5, "lr": 1e-3},
    {"kind": "val", "step": 20, "score": 0.31, "miou": 0.7, "sek": 0.2},
    {"kind": "train", "step": 30, "total": 1.5, "semantic": 1.0, "change": 0.25, "lr": 1e-4},
    {"kind": "val", "step": 40, "score": 0.35, "miou": 0.72, "sek": 0.22},
]


def make_outdir(root: Path, scheme: Scheme = SECOND, tiles: int = 6, wrong: int = 2) -> Path:
    """An --outdir of a semantic change with a run, test masks and scores; data in root/data.

    The masks are the truth, but in the first `wrong` tiles the second half of the rows says
    "unchanged" everywhere.
    """
    data = make_second(root / "data", train=1, test=tiles, size=32)
    out = root / "out"
    confusion = confusion_for(scheme.task, scheme.num_classes)
    for index in range(tiles):
        truth = [read(data / "test" / f"label{date}" / f"{index:05d}.png") for date in (1, 2)]
        pred = np.stack(truth)
        if index < wrong:
            pred[:, 16:] = 0
        for date in (1, 2):
            path = out / "masks" / "test" / f"im{date}" / f"{index:05d}.png"
            write_mask(path, pred[date - 1], scheme.palette)
        both = [torch.from_numpy(np.stack(truth))[None], torch.from_numpy(pred)[None]]
        confusion.update(both[1], both[0])
    metrics = metrics_for(scheme.task, confusion.counts, scheme.num_classes)
    write_json(out / "metrics" / "test.json", to_json(metrics))
    write_json(out / "metrics" / "val.json", {**to_json(metrics), **LOG[-1]})
    write_json(out / "data_check.json", {str(data / "test"): "0"})
    write_run(out, "one", str(data))
    write_checkpoint(out / "models" / "pspnet_resnet18_35.00.pth", scheme)
    return out


def write_run(out: Path, name: str, data_root: str) -> None:
    """A run's options and log."""
    options = {"model": "pspnet", "backbone": "resnet18", "dataset": "second", "lr": 0.001}
    record = {"options": {**options, "data_root": data_root}, "command": ["train.py", "--x"]}
    write_json(out / "runs" / name / "args.json", {**record, "versions": {"torch": "2.6"}})
    lines = "".join(json.dumps(line) + "\n" for line in LOG)
    (out / "runs" / name / "log.jsonl").write_text(lines + '{"kind": "tra', encoding="utf-8")


def write_checkpoint(path: Path, scheme: Scheme) -> None:
    """A checkpoint with a scheme and no network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recipe = {k: list(v) if isinstance(v, tuple) else v for k, v in scheme._asdict().items()}
    recipe["palette"] = [list(colour) for colour in scheme.palette]
    save_checkpoint(path, {}, recipe)


def make_land_cover_map(out: Path, inputs: Path, crs: str | None = None) -> Path:
    """What predict.py --out writes for one image: class 2 on the left half, 1 on the right."""
    classes = np.full((20, 40), 1, np.uint8)
    classes[:, :20] = 2
    write_tiff(out / "classes.tif", classes[None], crs=crs, nodata=255)
    write_tiff(out / "confidence.tif", np.full((1, 20, 40), 0.8, np.float32), crs=None)
    write_tiff(inputs / "image.tif", np.full((3, 20, 40), 99, np.uint8), crs=None)
    record = {
        "images": [str(inputs / "image.tif")],
        "task": "land_cover",
        "classes": ["water", "forest"],
        "palette": [[255, 255, 255], [0, 0, 255], [0, 99, 0]],
    }
    write_json(out / "predict.json", record)
    return out


def read(path: Path) -> np.ndarray:
    """Reads the indices of a palette file."""
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image)


def make_maps(out: Path, inputs: Path, scheme: Scheme = SECOND, everywhere: bool = False) -> Path:
    """What predict.py --out writes for a scene of 60 x 40 pixels of 10 m, in EPSG:32633.

    Rows 0..9 changed from class 1 to class 5 (600 pixels, 6 ha), the last row has no data; the
    rest is unchanged class 2. Date 2 of the input is in pixels of 20 m, shifted by 100 m.
    """
    change = np.zeros((40, 60), np.uint8)
    change[:10], change[39] = 1, 255
    rest = 2 if everywhere else 0
    dates = [np.where(change == 1, value, rest).astype(np.uint8) for value in (1, 5)]
    code = 1 + (1 - 1) * scheme.num_classes + (5 - 1)
    maps = {"change": change, "date1": dates[0], "date2": dates[1], "transition": change * code}
    place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633"}
    for name, values in maps.items():
        values = np.where(change == 255, 255, values).astype(np.uint8)
        write_tiff(out / f"{name}.tif", values[None], pixel_m=10, nodata=255, **place)
    probability = np.where(change == 255, np.nan, 0.9 * change).astype(np.float32)
    write_tiff(out / "change_probability.tif", probability[None], pixel_m=10, **place)
    before = np.full((3, 40, 60), 60, np.uint8)
    before[:, :10] = 200
    write_tiff(inputs / "before.tif", before, pixel_m=10, **place)
    after = np.full((3, 40, 60), 90, np.uint8)
    write_tiff(inputs / "after.tif", after, pixel_m=20, left=499900, top=5000100, crs="EPSG:32633")
    write_json(
        out / "predict.json",
        {
            "images": [str(inputs / "before.tif"), str(inputs / "after.tif")],
            "checkpoints": ["gone.pth"],
            "options": {"threshold": 0.5},
            "task": scheme.task,
            "classes": list(scheme.classes),
            "palette": [list(colour) for colour in scheme.palette],
        },
    )
    return out


class Page(HTMLParser):
    """Collects headings, external references and unclosed tags of a page."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open, self.outside, self.words, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "action") and not value.startswith(("data:", "#")):
                self.outside.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.outside == []
    assert "url(" not in text and "@import" not in text
    return page


def embedded(path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
