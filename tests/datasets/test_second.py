import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import DATASETS
from datasets.codecs import read_image, read_label
from datasets.entry import DatasetEntry, Where
from datasets.layout import DataError, parse_names
from datasets.second import second_layout
from datasets.transforms import ORIENTATIONS, Augment, orient
from helpers.data_sets import build_dataset, check_dataset, second
from helpers.tiny_data import make_pair, write_label
from utils.schemes import SECOND
from utils.structures import IGNORE_INDEX, TASKS, Sample

REAL = Path(__file__).resolve().parents[2].parent / "shared/data/eurosat_scd"


def same(a: Sample, b: Sample) -> bool:
    return a.name == b.name and all(torch.equal(x, y) for x, y in zip(a[1:4], b[1:4], strict=True))


def test_scheme_has_a_colour_for_each_class_and_for_unchanged():
    assert SECOND.num_classes == 6 and SECOND.num_dates == 2
    assert len(set(SECOND.palette)) == 7 and SECOND.palette[0] == (255, 255, 255)


def test_a_sample_is_what_the_files_hold(second_root):
    root = second_root(train=3, size=32)
    dataset = second(root)
    assert dataset.names == ["00000", "00001", "00002"] and dataset.labelled
    sample = dataset[1]
    assert sample.name == "00001"
    assert sample.images.shape == (2, 3, 32, 32) and sample.images.dtype == torch.uint8
    assert sample.semantic.shape == (2, 32, 32) and sample.semantic.dtype == torch.int64
    assert sample.change.shape == (32, 32) and sample.change.dtype == torch.int64
    masks = torch.where(sample.change == 1, sample.semantic + 1, 0)
    for date in (0, 1):
        image = read_image(root / f"train/im{date + 1}/00001.png")
        assert np.array_equal(sample.images[date].permute(1, 2, 0), image)
        label = read_label(root / f"train/label{date + 1}/00001.png", SECOND.palette)
        assert np.array_equal(masks[date], label)
    assert 0.1 < sample.change.float().mean() < 0.4


def test_tiny_data_has_all_classes_and_an_unlabelled_val(second_root):
    root = second_root(train=4, val=2, test=1)
    classes = set(torch.cat([s.semantic.flatten() for s in second(root)]).tolist())
    assert classes == {*range(6), IGNORE_INDEX}
    assert second(root, "test").labelled
    val = second(root, "val")
    assert not val.labelled
    assert (val[0].semantic == IGNORE_INDEX).all() and (val[0].change == IGNORE_INDEX).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_label_coding_makes_no_difference(tmp_path, second_root, mode):
    other = second_root(train=2)
    for date in (1, 2):
        for path in (other / f"train/label{date}").iterdir():
            target = tmp_path / "coded/train" / path.parent.name / path.name
            write_label(target, read_label(path, SECOND.palette), mode)
        shutil.copytree(other / f"train/im{date}", tmp_path / f"coded/train/im{date}")
    assert same(second(tmp_path / "coded")[1], second(other)[1])


def test_mates_are_matched_by_stem_whatever_the_extension(second_root):
    root = second_root(train=2)
    for old, new in (("im1/00000.png", "im1/00000.TIF"), ("im2/00001.png", "im2/00001.tiff")):
        (root / "train" / new).write_bytes((root / "train" / old).read_bytes())
        (root / "train" / old).unlink()
    (root / "train/im1/.00000.png").write_bytes(b"")  # hidden files of other systems
    (root / "train/im1/notes.txt").write_text("")
    assert second(root).names == ["00000", "00001"]
    assert second(root)[0].images.shape == (2, 3, 64, 64)


def test_folders_can_be_called_otherwise(second_root):
    root = second_root(train=2)
    plain = second(root)[1]
    (root / "train").rename(root / "SECOND_train_set")
    (root / "SECOND_train_set/im1").rename(root / "SECOND_train_set/A")
    folders = parse_names(["train=SECOND_train_set", "im1=A"])
    assert same(second(root, folders=folders)[1], plain)


@pytest.mark.parametrize(
    ("items", "match"),
    [
        (["im1"], "not of the form KEY=NAME"),
        (["im1="], "not of the form KEY=NAME"),
        (["im1=A", "im1=B"], "names 'im1' twice"),
    ],
)
def test_wrong_folders_are_an_error(items, match):
    with pytest.raises(ValueError, match=match):
        parse_names(items)
    assert parse_names(None) == {}


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("im3", r"im3=A: --dataset second does not use im3; its keys are train, val, test, im1"),
        ("masks", r"does not use masks; .*; masks is of --dataset rucode"),
        ("classes", r"does not use classes; .*; classes is of --dataset pairs, binary, folder"),
    ],
)
def test_keys_of_other_layouts_are_an_error(second_root, key, match):
    with pytest.raises(ValueError, match=match):
        second(second_root(train=1), folders={key: "A"})


def test_no_images_names_the_folder_and_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no images in .*train/im1 .*--data-root"):
        second(tmp_path)


def test_missing_mates_and_doubled_ids_are_one_error(second_root):
    root = second_root(train=3)
    (root / "train/im2/00001.png").unlink()
    (root / "train/label2/00002.png").unlink()
    shutil.copy(root / "train/im1/00000.png", root / "train/im1/00000.tif")
    with pytest.raises(DataError) as error:
        second(root)
    for text in ("im2/00001.*", "label2/00002.*", "im1/00000.tif", "missing mate (2)", "(1)"):
        assert text in str(error.value)
    found = second_layout(root, SECOND, Where()).find("train")
    assert [scene.name for scene in found.scenes] == ["00000"]


def test_augmentation_depends_on_seed_epoch_and_index_only(second_root):
    root = second_root(train=4, size=32)
    augment = Augment(swap_dates=True, crop_size=24, jitter=0.5)
    one, other = (second(root, augment=augment, seed=1) for _ in range(2))
    forward = [one[2, index] for index in range(4)]
    other.set_epoch(2)
    backward = [other[index] for index in reversed(range(4))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert not same(one[3, 0], one[2, 0])
    assert not same(second(root, augment=augment, seed=2)[2, 0], one[2, 0])


def test_augmented_labels_stay_on_their_images(second_root):
    root = second_root(train=1, size=32)
    plain, dataset = second(root)[0], second(root, augment=Augment())
    for epoch in range(8):
        assert any(same(dataset[epoch, 0], orient(plain, name)) for name in ORIENTATIONS)


def test_cached_tiles_are_the_files_and_cannot_be_spoilt(second_root):
    root = second_root(train=2)
    plain, cached = second(root), second(root, cache="ram")
    assert cached.cache.nbytes == 2 * (1 + 9 * 64 * 64)  # a mark, 2 x 3 + 2 + 1 bytes a pixel
    cached[0].images.zero_()
    cached[0].semantic.zero_()
    assert same(cached[0], plain[0]) and same(cached[1], plain[1])
    with pytest.raises(ValueError, match="--cache 'tape' is not known"):
        second(root, cache="tape")


def test_pseudo_labels_give_the_classes_and_true_labels_the_change(tmp_path, second_root):
    root = second_root(train=2, size=32)
    dense = np.full((32, 32), 4, np.uint8)
    dense[0] = 0  # stays unlabelled
    for date in (1, 2):
        for name in ("00000", "00001"):
            write_label(tmp_path / f"masks/im{date}/{name}.png", dense)
    plain = second(root)[0]
    sample = second(root, pseudo_label_dir=tmp_path / "masks")[0]
    assert torch.equal(sample.change, plain.change)
    assert (sample.semantic[:, 1:] == 3).all() and (sample.semantic[:, 0] == IGNORE_INDEX).all()


def test_missing_pseudo_labels_are_one_error_with_the_remedy(tmp_path, second_root):
    root = second_root(train=3)
    write_label(tmp_path / "masks/im1/00001.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"3 of 3 .* 00000, 00001, 00002\. Run label\.py"):
        second(root, pseudo_label_dir=tmp_path / "masks")


def test_sizes_that_differ_are_named_when_the_check_was_skipped(second_root):
    root = second_root(train=2)
    write_label(root / "train/label2/00001.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(
        ValueError, match=r"sizes differ: .*im1/00001.png 64 x 64, .*label2/00001.png 8 x 8"
    ):
        second(root)[1]
    write_label(root / "train/label1/00001.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"im1/00001.png 64 x 64, .*label1/00001.png 8 x 8"):
        second(root)[1]


def test_dense_labels_are_there_only_to_be_measured_against(second_root):
    root = second_root(train=2, size=32)
    dataset = second(root)
    assert dataset.dense_labels("00000") is None
    masks = make_pair(np.random.default_rng(0), 32)[1]
    for date in (1, 2):
        write_label(root / f"train/dense{date}/00001.png", masks[date - 1])
    dataset = second(root)
    assert np.array_equal(dataset.dense_labels("00001"), masks)
    assert dataset.dense_labels("00000") is None


def test_the_test_set_is_test_or_else_val(second_root):
    assert len(build_dataset("second", "test", second_root(train=1, val=2))) == 2
    assert len(build_dataset("second", "test", second_root(val=2, test=3))) == 3


def test_train_and_val_are_disjoint_parts_of_the_training_folder(second_root):
    root = second_root(train=20, val=2, test=2)
    train, val = (
        build_dataset("second", part, root, split_rule="every10th") for part in ("train", "val")
    )
    assert val.names == ["00000", "00010"] and len(train) == 18
    assert val.path == train.path == root / "train"
    assert not set(train.names) & set(val.names)


def test_official_split_validates_on_a_labelled_val(second_root):
    root = second_root(train=3, test=2)
    (root / "test").rename(root / "val")
    train, val = (second(root, part, split_rule="official") for part in ("train", "val"))
    assert (len(train), train.path) == (3, root / "train")
    assert (val.names, val.path) == (["00000", "00001"], root / "val")


def test_official_split_without_labels_is_an_error(second_root):
    root = second_root(train=2)
    with pytest.raises(FileNotFoundError, match=r"official: .*no part 'val' .*every10th, hash10"):
        second(root, "val", split_rule="official")
    root = second_root(train=2, val=2)
    with pytest.raises(ValueError, match=r"val has no labels; training needs the folders label1"):
        second(root, "val", split_rule="official")


def test_training_without_labels_is_an_error(second_root):
    root = second_root(train=0, val=2)
    (root / "val").rename(root / "train")
    with pytest.raises(ValueError, match="train has no labels; training needs"):
        build_dataset("second", "train", root, split_rule="every10th")


def test_an_unknown_data_set_names_the_choices():
    with pytest.raises(ValueError, match=r"--dataset='secnd' is not known.*second"):
        build_dataset("secnd", "train")


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_says_what_it_is(name):
    entry = DATASETS[name]
    assert entry.about and entry.root.startswith("data") and entry.task in TASKS
    assert isinstance(entry, DatasetEntry)


@pytest.mark.parametrize("name", ["second", "demo"])
def test_the_scheme_of_tiles_is_fixed(name):
    entry = DATASETS[name]  # not by find_scheme, which would generate the demo
    scheme = entry.scheme(entry.root, Where(), None)
    assert scheme == SECOND and len(scheme.palette) == scheme.num_classes + 1
    with pytest.raises(ValueError, match="--bands: this data set always has red, green and blue"):
        entry.scheme(entry.root, Where(), ["grey"])


def test_real_tiles_are_read():
    if not REAL.is_dir():
        pytest.skip(f"{REAL} absent")
    train, val = (
        build_dataset("second", part, REAL, split_rule="every10th") for part in ("train", "val")
    )
    test = build_dataset("second", "test", REAL)
    assert (len(train), len(val), len(test)) == (540, 60, 120)
    sample, dense = train[0], train.dense_labels(train.names[0])
    assert sample.images.shape == (2, 3, 256, 256)
    changed = sample.change == 1
    assert np.array_equal(sample.semantic[:, changed] + 1, dense[:, changed.numpy()])
    assert check_dataset("second", ["test"], REAL) == {"test": 120}
