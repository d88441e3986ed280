import numpy as np
import pytest
import torch

from datasets.loader import collate, eval_loader, train_loader
from datasets.naic2020 import data_set
from datasets.prepare import main
from datasets.scene import split_scenes
from datasets.transforms import Augment
from helpers.data_sets import builder, scheme_finder
from helpers.sentinel_data import make_sen12ms, make_tiff_dir
from helpers.tiny_data import make_folder, make_naic2020, write
from inference.decide import true_masks
from utils.schemes import dfc_scheme
from utils.structures import IGNORE_INDEX

build_folder = builder("folder")
folder_scheme = scheme_finder("folder")
build_naic2020 = builder("naic2020")
build_sen12ms = builder("sen12ms")
build_tiff_dir = builder("tiff_dir")

SENTINEL = dfc_scheme(True, True, False, False)


def sen12ms(tmp_path, **options):
    return build_sen12ms(make_sen12ms(tmp_path), "train", scheme=SENTINEL, **options)


def naic2020(tmp_path, **options):
    root = make_naic2020(tmp_path, train=3)
    folders = ["--mask-dir", str(root / "train/label"), "--save-path", str(root / "train_sub.json")]
    main(["naic2020", "annotate", str(root / "train/image"), *folders])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_set, "SIDE_PX", 64)
        return build_naic2020(root, "train", **options)


def folder(tmp_path, **options):
    root = make_folder(tmp_path, {"": 3})
    return build_folder(root, "train", scheme=folder_scheme(root), **options)


every_dataset = pytest.mark.parametrize("make", [sen12ms, naic2020, folder])


@every_dataset
def test_the_contract_of_one_date(tmp_path, make):
    dataset = make(tmp_path)
    scheme = dataset.scheme
    assert scheme.task == "land_cover" and scheme.num_dates == 1
    assert len(scheme.palette) == scheme.num_classes + 1 and scheme.palette[0] == (255, 255, 255)
    assert len(dataset) == len(dataset.names) and dataset.labelled and dataset.part == "train"
    for name, sample in zip(dataset.names, dataset, strict=True):
        height, width = sample.change.shape
        assert sample.name == name and (sample.change == 1).all()
        assert sample.images.shape == (1, len(scheme.bands), height, width)
        assert sample.semantic.shape == (1, height, width)
        assert sample.semantic.dtype == sample.change.dtype == torch.int64
        assert sample.images.is_contiguous() and sample.semantic.is_contiguous()
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@every_dataset
def test_masks_are_one_more_than_classes(tmp_path, make):
    batch = collate(list(make(tmp_path)))
    masks = true_masks(batch)
    known = batch.semantic != IGNORE_INDEX
    assert torch.equal(masks[known].long(), batch.semantic[known] + 1)
    assert (masks[~known] == IGNORE_INDEX).all() and masks.shape == batch.semantic.shape


@every_dataset
def test_memory_gives_what_files_give(tmp_path, make):
    plain, cached = make(tmp_path / "a"), make(tmp_path / "a", cache="ram")
    for _ in range(2):
        for one, two in zip(plain, cached, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[1:4], two[1:4], strict=True))
    assert cached.cache.num_filled == len(plain)
    kept = make(tmp_path / "a", cache="disk", cache_dir=tmp_path / "cache")
    for one, two in zip(plain, kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[1:4], two[1:4], strict=True))
    with pytest.raises(ValueError, match="--cache 'tape' is not known"):
        make(tmp_path / "a", cache="tape")


@every_dataset
def test_changes_depend_on_seed_epoch_and_index_alone(tmp_path, make):
    augment = Augment(crop_size=16, swap_dates=True)
    first, second = (make(tmp_path / "a", augment=augment, seed=3) for _ in range(2))
    second.set_epoch(5)
    assert torch.equal(first[(5, 1)].images, second[1].images)
    assert first[0].images.shape[-2:] == (16, 16) and (first[0].change == 1).all()
    crops = {first[(epoch, 0)].images.numpy().tobytes() for epoch in range(6)}
    assert len(crops) > 1


def test_geometry_moves_labels_with_images(tmp_path):
    root = make_folder(tmp_path, {"": 1})
    image = np.zeros((32, 32, 3), np.uint8)
    image[3:9, 20:30] = 200
    write(root / "images/0.png", image)
    write(root / "labels/0.png", (image[..., 0] > 0).astype(np.uint8))
    dataset = build_folder(root, "train", scheme=folder_scheme(root), augment=Augment())
    for epoch in range(10):
        sample = dataset[(epoch, 0)]
        assert torch.equal(sample.images[0, 0] > 0, sample.semantic[0] == 1)


@every_dataset
def test_loaders_take_it(tmp_path, make):
    dataset = make(tmp_path)
    (batch,) = train_loader(dataset, len(dataset), num_workers=0)
    assert sorted(batch.name) == sorted(dataset.names) and batch.images.ndim == 5
    names = [name for batch in eval_loader(dataset, 2) for name in batch.name]
    assert names == dataset.names


def test_batches_hold_one_size(tmp_path):
    root = make_tiff_dir(tmp_path, 1)
    make_tiff_dir(tmp_path / "small", 2, size=16)
    for kind in ("s1", "s2"):
        for i in range(2):
            path = tmp_path / f"small/{kind}/town_{kind}_{i}.tif"
            path.rename(root / kind / f"village_{kind}_{i}.tif")
    dataset = build_tiff_dir(root, scheme=SENTINEL)
    batches = list(eval_loader(dataset, 4))
    assert [batch.name for batch in batches] == [["town_s2_0"], ["village_s2_0", "village_s2_1"]]


def test_workers_read_the_same(tmp_path):
    dataset = sen12ms(tmp_path)
    here, there = (list(eval_loader(dataset, 2, num_workers=n)) for n in (0, 1))
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True))


def test_a_split_is_of_train_and_val(tmp_path):
    scenes = folder(tmp_path).scenes
    assert [p.name for p in split_scenes(scenes, "every10th", "val")] == ["0"]
    with pytest.raises(ValueError, match="makes train and val, not 'test'"):
        split_scenes(scenes, "every10th", "test")


def test_several_crops_of_each_image(tmp_path):
    augment = Augment(orient="none", crop_size=8)
    one, three = (folder(tmp_path / str(n), augment=augment, samples_per_image=n) for n in (1, 3))
    assert len(three) == 3 * len(one) == 3 * len(three.names)
    crops = [three[(0, i)] for i in range(len(three))]
    assert [crop.name for crop in crops] == [name for name in three.names for _ in range(3)]
    assert not torch.equal(crops[0].images, crops[1].images)  # of one image, elsewhere
    with pytest.raises(IndexError):
        three[len(three)]
    with pytest.raises(ValueError, match=r"--samples-per-image .*--crop-size"):
        folder(tmp_path / "x", samples_per_image=2)
