"""The contract of every data set: what an item is, and what becomes of it in a batch."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from datasets import DATASETS
from datasets.demo import write_demo
from datasets.loader import collate, train_loader
from datasets.prepare import main as prepare
from datasets.transforms import Augment
from helpers.data_sets import build_dataset, find_scheme
from helpers.sentinel_data import make_dfc2020, make_sen12ms, make_tiff_dir
from helpers.tiny_data import make_binary, make_folder, make_naic2020, make_rucode, make_second
from inference.decide import true_masks
from utils.structures import to_device

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def annotated(root):
    """NAIC 2020 with its lists."""
    make_naic2020(root, train=6)
    words = ["naic2020", "annotate", f"{root}/train/image", "--mask-dir", f"{root}/train/label"]
    prepare([*words, "--save-path", f"{root}/train_sub.json"])
    return root


MAKERS = {
    "second": lambda root: make_second(root, train=4, size=32),
    "demo": lambda root: write_demo(root, pairs=5, size=64, seed=0) and root,
    "pairs": lambda root: make_second(root, train=4, size=32),
    "binary": make_binary,
    "rucode": make_rucode,
    "folder": make_folder,
    "naic2020": annotated,
    "sen12ms": make_sen12ms,
    "dfc2020": lambda root: make_dfc2020(root, val=4),
    "tiff_dir": lambda root: make_tiff_dir(root, count=4),
}
PARTS = {"dfc2020": "val", "tiff_dir": "test"}


def build(name, root, cache=None):
    augment = Augment(orient="turn_flip", crop_size=24)
    options = {"augment": augment, "seed": 2, "cache": cache, "cache_dir": root / "cache"}
    flags = {"use_s2hr": True} if DATASETS[name].scheme_options else {}
    options["scheme"] = find_scheme(name, root, flags=flags)
    return build_dataset(name, PARTS.get(name, "train"), root, index_dir=root, **options)


@pytest.mark.parametrize("name", DATASETS)
def test_items_have_int64_labels_and_batches_the_same_in_bytes(tmp_path, name):
    root = MAKERS[name](tmp_path)
    plain = build(name, root)
    keys = [(epoch, index) for epoch in (0, 1) for index in range(2)]
    items = [plain[key] for key in keys]
    for item in items:
        height, width = item.change.shape
        assert item.semantic.dtype == item.change.dtype == torch.int64
        assert item.semantic.shape[-2:] == item.images.shape[-2:] == (height, width)
    expected = collate(items)
    for cache in (None, "ram", "disk"):
        found = collate(build(name, root, cache).__getitems__(keys))
        assert found.semantic.dtype == found.change.dtype == torch.uint8
        assert torch.equal(true_masks(found), true_masks(expected))
        found = to_device(found, torch.device("cpu"))
        assert found.name == expected.name
        for one, two in zip(found[1:4], expected[1:4], strict=True):
            assert one.dtype == two.dtype and torch.equal(one, two)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.parametrize("name", DATASETS)
def test_workers_of_any_kind_make_the_same_batches(tmp_path, name):
    root = MAKERS[name](tmp_path)

    def batches(num_workers, cache):
        loader = train_loader(build(name, root, cache), 2, num_workers=num_workers)
        return [(*batch.name, *map(np.asarray, batch[1:4])) for batch in loader]

    here = batches(0, None)
    for num_workers, cache in ((2, None), (0, "ram"), (2, "ram"), (2, "disk")):
        for one, two in zip(batches(num_workers, cache), here, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", DATASETS)
def test_workers_that_are_not_forked_get_the_same_data_set(tmp_path, name):
    dataset = build(name, MAKERS[name](tmp_path), "disk")
    again = pickle.loads(pickle.dumps(dataset))
    for one, two in zip(dataset[1, 0][1:4], again[1, 0][1:4], strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", DATASETS)
def test_an_index_that_is_not_there_is_named(tmp_path, name):
    dataset = build(name, MAKERS[name](tmp_path))
    for index in (-1, len(dataset)):
        with pytest.raises(IndexError, match=f"item {index} of {len(dataset)}"):
            dataset[index]
