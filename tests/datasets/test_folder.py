import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.layout import REQUIREMENTS, DataError, parse_names
from helpers.data_sets import builder, checker, scheme_finder
from helpers.tiny_data import make_folder, truncate, write, write_tiff
from utils.structures import IGNORE_INDEX

build_folder = builder("folder")
check_folder = checker("folder")
folder_scheme = scheme_finder("folder")

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared/data/landcover_samples"


def build(root, part="train", **options):
    scheme = folder_scheme(root, folders=options.get("folders"))
    return build_folder(root, part, scheme=scheme, **options)


def check(root, *parts, **options):
    scheme = folder_scheme(root, folders=options.get("folders"))
    return check_folder(root, parts or None, scheme=scheme, progress=False, **options)


def same(first, second):
    return all(
        one.name == two.name and all(map(torch.equal, one[1:4], two[1:4]))
        for one, two in zip(first, second, strict=True)
    )


def test_parts_and_their_samples(tmp_path):
    root = make_folder(tmp_path, {"train": 3, "val": 2, "test": 1})
    assert check(root) == {"train": 3, "val": 2, "test": 1}
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        dataset = build(root, part)
        assert dataset.names == [str(i) for i in range(count)]
        assert dataset.labelled and dataset.part == part and dataset.path == root / part
    sample = build(root)[0]
    assert sample.images.shape == (1, 3, 32, 32) and sample.images.dtype == torch.uint8
    assert sample.semantic.shape == (1, 32, 32) and (sample.change == 1).all()
    assert build(root).tile_sizes == [(32, 32)] * 3


def test_indices_and_colours_make_the_same_samples(tmp_path):
    roots = [make_folder(tmp_path / c, {"": 4}, coding=c) for c in ("index", "rgb")]
    assert same(*map(build, roots))


def test_parts_may_be_inside_images_and_labels(tmp_path):
    first = make_folder(tmp_path / "a", {"train": 2, "val": 1})
    second = tmp_path / "b"
    for part in ("train", "val"):
        for field in ("images", "labels"):
            shutil.copytree(first / part / field, second / field / part)
    shutil.copy(first / "classes.yaml", second)
    assert check(second) == {"train": 2, "val": 1} == check(first)
    assert same(build(first, "val"), build(second, "val"))
    assert build(second, "test").names == ["0"]


def test_undivided(tmp_path):
    root = make_folder(tmp_path, {"": 12})
    assert check(root) == {"train": 12}
    assert len(build(root, "test")) == 12 and check(root, "test") == {"test": 12}
    assert build(root, "val", split_rule="every10th").names == ["0", "8"]  # 0 1 10 11 2 ... by name
    assert len(build(root, "train", split_rule="every10th")) == 10
    with pytest.raises(FileNotFoundError, match=r"no part 'val' in .* has train.*--split"):
        build(root, "val", split_rule="official")


def test_official_validation_and_other_parts(tmp_path):
    root = make_folder(tmp_path, {"train": 2, "val": 1, "town": 3})
    assert build(root, "val", split_rule="official").path == root / "val"
    assert build(root, "test").path == root / "val"
    assert len(build(root, "town")) == 3
    with pytest.raises(FileNotFoundError, match="no part 'city'"):
        build(root, "city")


def test_training_needs_labels_and_testing_does_not(tmp_path):
    root = make_folder(tmp_path, {"": 2})
    shutil.rmtree(root / "labels")
    dataset = build(root, "test")
    assert not dataset.labelled and (dataset[0].semantic == IGNORE_INDEX).all()
    with pytest.raises(ValueError, match="has no labels; training needs the folder labels"):
        build(root, "train", split_rule="every10th")


def test_folders_can_be_called_otherwise(tmp_path):
    root = make_folder(tmp_path, {"": 2})
    (root / "images").rename(root / "img_dir")
    (root / "labels").rename(root / "ann_dir")
    (root / "classes.yaml").rename(root / "names.yaml")
    with pytest.raises(FileNotFoundError, match=r"no images in .*/images nor in .*--folders"):
        folder_scheme(root)
    folders = parse_names(["images=img_dir", "labels=ann_dir", "classes=names.yaml"])
    assert check(root, folders=folders) == {"train": 2} and build(root, folders=folders).labelled


def test_scheme(tmp_path):
    root = make_folder(tmp_path, {"": 1}, num_classes=5)
    scheme = folder_scheme(root)
    assert scheme.task == "land_cover" and scheme.num_classes == 5 and scheme.num_dates == 1
    assert scheme.palette[0] == (255, 255, 255) and len(scheme.palette) == 6
    assert scheme.mean[0] == 0.485 and scheme.scale == 255 and scheme.standardise == "none"
    (root / "classes.yaml").write_text("[a, b, c, d, e]")
    with pytest.raises(ValueError, match=r"the network knows class0, .*has a, b, c, d, e"):
        build_folder(root, "train", scheme=scheme)


def test_images_of_other_bands_are_standardised(tmp_path):
    root = make_folder(tmp_path, {"": 1})
    (root / "images/0.png").unlink()
    bands = np.random.default_rng(0).integers(0, 4000, (5, 32, 32)).astype(np.uint16)
    write_tiff(root / "images/0.tif", bands)
    scheme = folder_scheme(root)
    assert scheme.bands == tuple(f"band{i}" for i in range(1, 6)) and scheme.scale == 1
    image = build(root)[0].images
    assert image.dtype == torch.float32 and image.shape == (1, 5, 32, 32)
    assert image.mean((0, 2, 3)).abs().max() < 1e-5
    assert (image.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    two = folder_scheme(root, bands=["4", "1"])
    part = build_folder(root, "train", scheme=two)[0].images
    assert torch.equal(part, image[:, [3, 0]])
    with pytest.raises(ValueError, match=r"--bands band6: .* 5 band\(s\); pass numbers in 1..5"):
        folder_scheme(root, bands=[6])


def break_mate(root):
    (root / "labels/1.png").unlink()
    return "missing mate", "labels/1.*"


def break_image(root):
    truncate(root / "images/1.png")
    return "unreadable", "images/1.png"


def break_label(root):
    write(root / "labels/1.png", np.full((32, 32), 3, np.uint8))
    return "label values", "value(s) 3 where 0..2 or 255 (not labelled) is allowed"


def break_size(root):
    write(root / "labels/1.png", np.zeros((32, 16), np.uint8))
    return "sizes differ", "labels/1.png 32 x 16"


@pytest.mark.parametrize("spoil", [break_mate, break_image, break_label, break_size])
def test_each_fault_is_found_with_file_rule_and_remedy(tmp_path, spoil):
    root = make_folder(tmp_path)
    requirement, text = spoil(root)
    with pytest.raises(DataError) as error:
        check(root)
    assert [problem.requirement for problem in error.value.problems] == [requirement]
    assert text in str(error.value) and REQUIREMENTS[requirement] in str(error.value)


def test_a_check_is_made_again_when_the_classes_change(tmp_path):
    root, seen = make_folder(tmp_path), tmp_path / "data_check.json"
    assert check(root, passed_file=seen) == check(root, passed_file=seen) == {"train": 4}
    (root / "classes.yaml").write_text("[class0, class1, class2]\n")
    assert check(root, passed_file=seen) == {"train": 4}
    (root / "classes.yaml").write_text("{classes: [class0, class1, class2], first: 3}")
    with pytest.raises(DataError, match=r"0, 1, 2 where 3\.\.5"):
        check(root, passed_file=seen)


LOVEDA = (
    "{classes: [background, building, road, water, barren, forest, crops], first: 1, ignore: 0}"
)
ISPRS = "{classes: [paved, building, low vegetation, tree, car, clutter], first: 1, ignore: 0}"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs the land-cover samples")
@pytest.mark.parametrize(
    ("name", "text", "count", "size"),
    [
        ("loveda", LOVEDA, 3, 1024),
        ("potsdam", ISPRS, 1, 512),
        ("vaihingen", ISPRS, 1, 512),
    ],
)
def test_public_samples(tmp_path, name, text, count, size):
    (tmp_path / "classes.yaml").write_text(text)
    folders = {"images": "img_dir", "labels": "ann_dir", "classes": str(tmp_path / "classes.yaml")}
    assert check(SAMPLES / name, folders=folders) == {"train": count}
    dataset = build(SAMPLES / name, folders=folders)
    assert len(dataset) == count
    sample = dataset[0]
    assert sample.images.shape == (1, 3, size, size) and sample.images.dtype == torch.uint8
    values = set(sample.semantic.unique().tolist())
    assert len(values) > 3 and values <= {*range(dataset.scheme.num_classes), IGNORE_INDEX}
