"""Bands that files name, in every layout of folders; and images placed by control points."""

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from datasets.layout import DataError
from helpers.data_sets import build_dataset, check_dataset, find_scheme
from helpers.tiny_data import write, write_tiff

FOLDERS = {"binary": ("A", "B"), "pairs": ("im1", "im2"), "folder": ("images",)}
NAMES = ("blue", "green", "red")


def make(root, dataset: str, names=NAMES) -> np.ndarray:
    """One scene of three bands in the order of NAMES; returns the images (T, 3, H, W)."""
    images = np.random.default_rng(0).integers(0, 255, (len(FOLDERS[dataset]), 3, 64, 64))
    images = images.astype(np.uint8)
    for folder, image in zip(FOLDERS[dataset], images, strict=True):
        path = write_tiff(root / "train" / folder / "a.tif", image)
        with rasterio.open(path, "r+") as file:
            for number, name in enumerate(names, start=1):
                file.set_band_description(number, name)
    labels = {"binary": ["label"], "pairs": ["label1", "label2"], "folder": ["labels"]}
    change = (np.arange(64 * 64).reshape(64, 64) % 2).astype(np.uint8)
    for date, folder in enumerate(labels[dataset]):
        write(root / "train" / folder / "a.png", change ^ date)
    if dataset != "binary":
        dense = "labels: dense\n" if dataset == "pairs" else ""
        (root / "classes.yaml").write_text(f"classes: [one, two]\n{dense}")
    return images


@pytest.mark.parametrize("dataset", FOLDERS)
@pytest.mark.parametrize("cache", [None, "ram"])
def test_bands_are_read_by_the_names_in_the_file(tmp_path, dataset, cache):
    images = make(tmp_path, dataset)
    check_dataset(dataset, ["train"], tmp_path)
    found = build_dataset(dataset, "train", tmp_path, cache=cache)
    assert found.scheme.bands == ("red", "green", "blue")
    assert np.array_equal(found[0].images, images[:, ::-1])


@pytest.mark.parametrize("dataset", FOLDERS)
def test_names_that_contradict_the_order_are_a_problem(tmp_path, dataset):
    make(tmp_path, dataset, ("nir", "red", "green"))
    scheme = find_scheme(dataset, tmp_path, bands=["1", "2", "3"])
    named = scheme._replace(bands=("red", "green", "blue"))
    with pytest.raises(DataError, match=r"a\.tif: no band is named blue, and band 3 is green"):
        check_dataset(dataset, ["train"], tmp_path, scheme=named)
    with pytest.raises(ValueError, match=r"a\.tif: no band is named blue, and band 3 is green"):
        check_dataset(dataset, ["train"], tmp_path)


def test_dates_of_other_control_points_are_a_problem(tmp_path):
    make(tmp_path, "binary")
    for folder, left in zip(FOLDERS["binary"], (15.0, 15.01), strict=True):
        corners = [(row, column) for row in (0, 64) for column in (0, 64)]
        points = [
            GroundControlPoint(row=r, col=c, x=left + c * 1e-4, y=48 - r * 1e-4) for r, c in corners
        ]
        with rasterio.open(tmp_path / "train" / folder / "a.tif", "r+") as file:
            file.transform = rasterio.Affine.identity()
            file.gcps = points, CRS.from_epsg(4326)
    with pytest.raises(DataError, match="ground control points"):
        check_dataset("binary", ["train"], tmp_path)


def test_files_that_name_all_bands_are_read_by_name(tmp_path):
    """Deep images of two dates whose bands are stored in different orders."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4000, (2, 4, 64, 64)).astype(np.uint16)
    orders = {"A": ("red", "green", "blue", "nir"), "B": ("nir", "blue", "green", "red")}
    for image, (folder, names) in zip(truth, orders.items(), strict=True):
        stored = image[[orders["A"].index(name) for name in names]]
        path = write_tiff(tmp_path / "train" / folder / "a.tif", stored)
        with rasterio.open(path, "r+") as file:
            for number, name in enumerate(names, start=1):
                file.set_band_description(number, name)
    write(tmp_path / "train/label/a.png", (np.arange(4096).reshape(64, 64) % 2).astype(np.uint8))
    found = build_dataset("binary", "train", tmp_path)
    assert found.scheme.bands == orders["A"]
    mean, std = truth.mean((2, 3), keepdims=True), truth.std((2, 3), keepdims=True)
    np.testing.assert_allclose(found[0].images, (truth - mean) / std, atol=1e-4)
    named = find_scheme("binary", tmp_path, bands=["nir", "red"])
    chosen = build_dataset("binary", "train", tmp_path, scheme=named)
    np.testing.assert_array_equal(chosen[0].images, found[0].images[:, [3, 0]])
