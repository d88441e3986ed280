import os

import numpy as np
import pytest
import torch

from datasets.layout import REQUIREMENTS, DataError
from datasets.sentinel.data_sets import dfc_label_name
from datasets.sentinel.files import BROKEN, read_holdout
from helpers.data_sets import builder, checker
from helpers.sentinel_data import make_dfc2020, make_sen12ms, make_tiff_dir
from helpers.tiny_data import truncate, write_tiff
from utils.schemes import dfc_scheme
from utils.structures import IGNORE_INDEX

build_dfc2020 = builder("dfc2020")
build_sen12ms = builder("sen12ms")
build_tiff_dir = builder("tiff_dir")
check_dfc2020 = checker("dfc2020")
check_sen12ms = checker("sen12ms")
check_tiff_dir = checker("tiff_dir")

ALL = dfc_scheme(True, True, True, True)
OPTICAL = dfc_scheme(False, True, False, False)
SCENES = {"ROIs1158_spring/s2_1": 2, "ROIs1868_summer/s2_146": 1, "ROIs2017_winter/s2_3": 2}


def sen12ms(tmp_path, held_out=("ROIs1868_summer/s2_146",), **options):
    return make_sen12ms(tmp_path / "sen12ms", SCENES, held_out, **options)


def quiet(function, root, *args, **options):
    return function(root, *args, **{"scheme": ALL, **options})


def failure(function, root, *args, **options):
    with pytest.raises(DataError) as error:
        quiet(function, root, *args, **options)
    return error.value


def test_scenes_of_the_list_are_held_out(tmp_path):
    root = sen12ms(tmp_path)
    train = quiet(build_sen12ms, root, "train")
    assert train.names == [
        "ROIs1158_spring_s2_1_p1",
        "ROIs1158_spring_s2_1_p2",
        "ROIs2017_winter_s2_3_p1",
        "ROIs2017_winter_s2_3_p2",
    ]
    for part in ("holdout", "val", "test"):
        assert quiet(build_sen12ms, root, part).names == ["ROIs1868_summer_s2_146_p1"]
    assert quiet(build_sen12ms, root, "val", split_rule="official").part == "val"
    assert quiet(check_sen12ms, root) == {"train": 4, "holdout": 1}
    assert quiet(check_sen12ms, root, ["holdout"]) == {"holdout": 1}
    with pytest.raises(ValueError, match=r"no part 'dev', only train and holdout"):
        quiet(build_sen12ms, root, "dev")


def test_patches_are_sorted_by_name_across_seasons_and_scenes(tmp_path):
    scenes = {"ROIs2017_winter/s2_2": 1, "ROIs1158_spring/s2_10": 1, "ROIs1158_spring/s2_9": 1}
    root = make_sen12ms(tmp_path, scenes)
    names = quiet(build_sen12ms, root, "train").names
    assert names == sorted(names) and names[0] == "ROIs1158_spring_s2_10_p1"


def test_samples_have_one_date_and_all_of_it_counts(tmp_path):
    dataset = quiet(build_sen12ms, sen12ms(tmp_path), "train")
    sample = dataset[0]
    assert sample.images.shape == (1, 15, 32, 32) and sample.images.dtype == torch.float32
    assert sample.semantic.shape == (1, 32, 32) and sample.semantic.dtype == torch.int64
    assert set(sample.semantic.unique().tolist()) <= {0, 5, 6, 9} and (sample.change == 1).all()
    assert dataset.labelled and dataset.tile_sizes is None
    patch = dataset.scene_of(dataset.names[0])
    assert [path.name[16:18] for path in patch.files] == ["s2", "s1", "lc"]


def test_savanna_is_left_out_by_the_number_of_classes(tmp_path):
    root = sen12ms(tmp_path)
    every, without = (
        quiet(build_sen12ms, root, "train", scheme=dfc_scheme(False, True, False, False, savanna))
        for savanna in (True, False)
    )
    assert (every.scheme.num_classes, without.scheme.num_classes) == (10, 9)
    expected = every[0].semantic - (every[0].semantic > 2).long()
    assert torch.equal(without[0].semantic, expected)


def test_the_broken_patch_is_dropped_by_name(tmp_path):
    (broken,) = BROKEN
    assert broken == "ROIs1868_summer_s2_146_p202"
    root = make_sen12ms(tmp_path, {"ROIs1868_summer/s2_146": 1})
    for kind in ("s1", "s2", "lc"):
        folder = root / f"ROIs1868_summer/{kind}_146"
        names = [f"ROIs1868_summer_{kind}_146_p{i}.tif" for i in (1, 202)]
        (folder / names[1]).write_bytes((folder / names[0]).read_bytes())
    assert quiet(build_sen12ms, root, "train").names == ["ROIs1868_summer_s2_146_p1"]


def test_files_of_bands_that_are_not_read_need_not_be_there(tmp_path):
    root = sen12ms(tmp_path)
    for path in root.glob("*/s1_*/*.tif"):
        path.unlink()
    assert len(quiet(build_sen12ms, root, "train", scheme=OPTICAL)) == 4
    error = failure(build_sen12ms, root, "train")
    assert {p.requirement for p in error.problems} == {"missing mate"} and len(error.problems) == 4
    assert "s1_1/ROIs1158_spring_s1_1_p1.tif of ROIs1158_spring_s2_1_p1" in str(error)


def test_the_list_must_be_there_and_be_one(tmp_path):
    root = sen12ms(tmp_path)
    path = root / "SEN12MS_holdOutScenes.txt"
    path.rename(root / "list.txt")
    with pytest.raises(FileNotFoundError, match=r"no .*SEN12MS_holdOutScenes.txt, which says"):
        quiet(build_sen12ms, root, "train")
    folders = {"holdout_scenes": "list.txt"}
    assert len(quiet(build_sen12ms, root, "train", folders=folders)) == 4
    path.write_text("ROIs1158_spring/s1_1\nROIs1868_summer/s2_146/\n\n")
    assert read_holdout(path) == {"ROIs1158_spring/s2_1", "ROIs1868_summer/s2_146"}
    for line in ("s1_1", "ROIs1158_spring/1", "ROIs9_spring/s1_1"):
        path.write_text(line)
        with pytest.raises(ValueError, match=rf"'{line}' is no season and scene, such as ROIs"):
            read_holdout(path)


def test_no_patches_at_all(tmp_path):
    root = sen12ms(tmp_path, held_out=())
    with pytest.raises(FileNotFoundError, match=r"no Sentinel-2 patches in .*that are held out"):
        quiet(build_sen12ms, root, "holdout")
    for function, folder in ((build_dfc2020, "ROIs0000_test/s2_0"), (build_tiff_dir, "s2")):
        with pytest.raises(FileNotFoundError, match=rf"no Sentinel-2 patches in .*/{folder} "):
            quiet(function, root, "test")


def test_other_splits_cut_the_training_scenes(tmp_path):
    root = sen12ms(tmp_path, held_out=())
    train, val = (
        quiet(build_sen12ms, root, part, split_rule="every10th") for part in ("train", "val")
    )
    assert val.names == ["ROIs1158_spring_s2_1_p1"] and len(train.names) == 4
    (tmp_path / "ids.txt").write_text("ROIs2017_winter_s2_3_p2\n")
    val = quiet(build_sen12ms, root, "val", split_rule=str(tmp_path / "ids.txt"))
    assert val.names == ["ROIs2017_winter_s2_3_p2"]


def test_parts_of_dfc2020(tmp_path):
    root = make_dfc2020(tmp_path, val=3, test=2)
    assert quiet(check_dfc2020, root) == {"val": 3, "test": 2}
    test = quiet(build_dfc2020, root, "test")
    assert test.names == [f"ROIs0000_test_s2_0_p{i}" for i in range(2)] and test.labelled
    assert test.scene_of(test.names[1]).labels[0].parts[-2:] == (
        "dfc_0",
        "ROIs0000_test_dfc_0_p1.tif",
    )
    train = quiet(build_dfc2020, root, "train", split_rule="every10th")
    assert len(train) == 2 and train[0].images.shape == (1, 15, 32, 32)
    with pytest.raises(ValueError, match=r"no part 'train', only val and test.*--split"):
        quiet(build_dfc2020, root, "train")


def test_labels_that_are_not_there_at_all_make_an_unlabelled_part(tmp_path):
    root = make_dfc2020(tmp_path, val=2, test=2)
    for path in (root / "ROIs0000_test/dfc_0").iterdir():
        path.unlink()
    test = quiet(build_dfc2020, root, "test")
    assert not test.labelled and (test[0].semantic == IGNORE_INDEX).all()
    (root / "ROIs0000_validation/dfc_validation/ROIs0000_validation_dfc_0_p1.tif").unlink()
    assert "dfc_0_p1.tif of" in str(failure(build_dfc2020, root, "val"))
    for path in (root / "ROIs0000_validation/dfc_validation").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="has no labels; training needs them"):
        quiet(build_dfc2020, root, "val", split_rule="official")


def test_a_folder_of_tiffs_has_no_labels_and_any_size(tmp_path):
    root = make_tiff_dir(tmp_path, 2)
    write_tiff(root / "s2/town_s2_9.tif", np.full((13, 16, 24), 100, np.uint16))
    write_tiff(root / "s1/town_s1_9.tif", np.zeros((2, 16, 24), np.float32))
    dataset = quiet(build_tiff_dir, root, "test")
    assert dataset.names == ["town_s2_0", "town_s2_1", "town_s2_9"] and not dataset.labelled
    assert dataset.tile_sizes == [(32, 32), (32, 32), (16, 24)]
    assert dataset[2].images.shape == (1, 15, 16, 24)
    assert (dataset[0].semantic == IGNORE_INDEX).all()
    assert quiet(check_tiff_dir, root) == {"test": 3}


def test_names_of_predicted_labels():
    assert dfc_label_name("ROIs1158_spring_s2_1_p9", "sen12ms") == "ROIs1158_spring_lc_1_p9.tif"
    assert dfc_label_name("ROIs0000_test_s2_0_p9", "dfc2020") == "ROIs0000_test_dfc_0_p9.tif"
    assert dfc_label_name("town_s2_0", "tiff_dir") == "town_pred_0.tif"


def test_an_index_is_used_and_noticed_when_old(tmp_path):
    root, index = sen12ms(tmp_path), tmp_path / "index"
    for path in root.glob("*/*"):
        os.utime(path, ns=(10**18, 10**18))
    names = quiet(build_sen12ms, root, "train", index_dir=index).names
    assert len(list(index.iterdir())) == 1
    assert quiet(build_sen12ms, root, "train", index_dir=index).names == names
    for kind in ("s1", "s2", "lc"):
        (root / f"ROIs1158_spring/{kind}_1/ROIs1158_spring_{kind}_1_p2.tif").unlink()
    assert quiet(build_sen12ms, root, "train", index_dir=index).names == [names[0], *names[2:]]


def break_s2_bands(root):
    write_tiff(
        root / "ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p1.tif", np.ones((12, 32, 32), np.uint16)
    )
    return "12 band(s) where 13 are needed (B1 B2"


def break_s1_bands(root):
    write_tiff(
        root / "ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p1.tif", np.ones((1, 32, 32), np.float32)
    )
    return "1 band(s) where 2 are needed (VV VH)"


def break_label(root):
    write_tiff(
        root / "ROIs1158_spring/lc_1/ROIs1158_spring_lc_1_p1.tif",
        np.full((4, 32, 32), 42, np.uint8),
    )
    return "value(s) 42 where 0..17 (IGBP) is allowed"


def break_size(root):
    write_tiff(
        root / "ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p1.tif", np.ones((2, 32, 16), np.float32)
    )
    return "32 x 16"


def break_file(root):
    truncate(root / "ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p1.tif", 0.1)
    return "ROIs1158_spring_s2_1_p1.tif"


def break_mate(root):
    (root / "ROIs1158_spring/lc_1/ROIs1158_spring_lc_1_p1.tif").unlink()
    return "ROIs1158_spring_lc_1_p1.tif of ROIs1158_spring_s2_1_p1"


@pytest.mark.parametrize(
    ("spoil", "requirement"),
    [
        (break_s2_bands, "bands"),
        (break_s1_bands, "bands"),
        (break_label, "label values"),
        (break_size, "sizes differ"),
        (break_file, "unreadable"),
        (break_mate, "missing mate"),
    ],
)
def test_each_fault_of_a_first_patch_is_found(tmp_path, spoil, requirement):
    root = sen12ms(tmp_path)
    text = spoil(root)
    error = failure(check_sen12ms, root)
    assert [problem.requirement for problem in error.problems] == [requirement]
    assert text in str(error) and REQUIREMENTS[requirement] in str(error)


def test_the_check_opens_one_patch_a_folder(tmp_path):
    root = sen12ms(tmp_path)
    truncate(root / "ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p2.tif", 0.1)
    assert quiet(check_sen12ms, root) == {"train": 4, "holdout": 1}
    dataset = quiet(build_sen12ms, root, "train")
    with pytest.raises(OSError, match=r"s2_1_p2\.tif"):
        dataset[1]
