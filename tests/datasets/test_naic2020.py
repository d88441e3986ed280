import numpy as np
import pytest
import torch

from datasets import checks
from datasets.codecs import LabelError, open_label
from datasets.layout import REQUIREMENTS, DataError
from datasets.loader import collate
from datasets.naic2020 import data_set
from datasets.naic2020.data_set import classes_of_naic, naic_classes
from datasets.prepare import main
from helpers.data_sets import builder, checker, scheme_finder
from helpers.tiny_data import make_naic2020, truncate, write
from utils.rasters.windows import Window
from utils.schemes import NAIC2020
from utils.structures import IGNORE_INDEX

check_naic2020 = checker("naic2020")
naic2020_scheme = scheme_finder("naic2020")


def build_naic2020(root, part, size_px=512, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_set, "SIDE_PX", size_px)
        return builder("naic2020")(root, part, **options)


def read_naic_label(path):
    label = open_label(path)
    return classes_of_naic(label, Window(0, 0, label.height, label.width))


def make(tmp_path, size=(32, 32), train=5, num_eval=2):
    """Raw files and the three lists."""
    root = make_naic2020(tmp_path / "data", train=train, size=size)
    labels = ["--mask-dir", root / "train/label"]
    steps = (
        ["annotate", root / "train/image", *labels, "--save-path", root / "train.json"],
        ["annotate", root / "image_A", "--save-path", root / "image_A.json"],
        ["split", root / "train.json", "--num-eval", num_eval],
    )
    for step in steps:
        main(["naic2020", *map(str, step)])
    return root


def failure(root):
    with pytest.raises(DataError) as error:
        check_naic2020(root, progress=False)
    return error.value


def test_golden_labels_wrap_as_eight_bits_do():
    stored = np.array([0, 99, 100, 250, 799, 800, 899, 900], np.uint16)
    assert naic_classes(stored).tolist() == [255, 255, 0, 1, 6, 7, 7, 8]
    assert naic_classes(np.array([0, 100, 250, 800, 900])).tolist() == [255, 0, 1, 7, 8]


def test_labels_of_16_bits_are_read_and_900_is_refused(tmp_path):
    path = write(tmp_path / "a.png", np.array([[0, 50, 100, 800]], np.uint16))
    assert read_naic_label(path).tolist() == [[255, 255, 0, 7]]
    assert read_naic_label(path).dtype == np.uint8
    write(path, np.array([[100, 900, 901]], np.uint16))
    with pytest.raises(LabelError, match=r"a\.png: value\(s\) 900, 901 where 0\.\.899 is allowed"):
        read_naic_label(path)
    write(path, np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(LabelError, match="colours, where a label has one band"):
        read_naic_label(path)


def test_scheme():
    scheme = naic2020_scheme()
    assert scheme == NAIC2020 and scheme.num_classes == 8 and scheme.num_dates == 1
    assert len(scheme.palette) == len(set(scheme.palette)) == 9
    mean, std = (np.array(v) * scheme.scale for v in (scheme.mean, scheme.std))
    assert np.allclose(mean, [123.675, 116.28, 103.53]) and np.allclose(
        std, [58.395, 57.12, 57.375]
    )
    with pytest.raises(ValueError, match="--bands"):
        naic2020_scheme(bands=["nir"])


def test_parts_are_lists(tmp_path):
    root = make(tmp_path)
    assert check_naic2020(root, progress=False) == {"train": 3, "val": 2, "test": 2}
    train, val, test = (build_naic2020(root, part) for part in ("train", "val", "test"))
    assert sorted(train.names + val.names) == ["1", "2", "3", "4", "5"]
    assert train.labelled and val.labelled and not test.labelled and test.names == ["1", "2"]
    whole = build_naic2020(root, "train", folders={"train": "train.json"})
    assert whole.names == ["1", "2", "3", "4", "5"]
    folders = {"train": "train.json"}
    assert build_naic2020(root, "val", split_rule="every10th", folders=folders).names == ["1"]
    assert build_naic2020(root, "image_A").names == ["1", "2"]
    with pytest.raises(ValueError, match="has no labels; training needs them; make the list with"):
        build_naic2020(root, "train", folders={"train": "image_A.json"}, split_rule="official")
    with pytest.raises(FileNotFoundError, match=r"no .*image_B\.json"):
        build_naic2020(root, "test", folders={"test": "image_B.json"})


def test_tiles_are_doubled(tmp_path):
    root = make(tmp_path, size=(256, 256), train=2, num_eval=1)
    for part in ("train", "val"):
        dataset = build_naic2020(root, part)
        sample = dataset[0]
        assert sample.images.shape == (1, 3, 512, 512) and sample.images.dtype == torch.uint8
        side = 512 if part == "train" else 256
        assert sample.semantic.shape == (1, side, side) and (sample.change == 1).all()
        stored = torch.from_numpy(read_naic_label(dataset.scene_of(sample.name).labels[0]))
        if part == "train":
            assert torch.equal(sample.semantic[0, ::2, ::2], stored.long())
            assert torch.equal(sample.semantic[0, 1::2, 1::2], stored.long())
        else:  # predictions return to the size of the file
            assert torch.equal(sample.semantic[0], stored.long())
    assert build_naic2020(root, "train").tile_sizes is None
    assert build_naic2020(root, "val").tile_sizes == [((512, 512), (256, 256))]


def test_oblong_tiles_are_padded_for_training_only(tmp_path):
    root = make(tmp_path, size=(32, 64))
    train, val = (build_naic2020(root, part, size_px=128) for part in ("train", "val"))
    sample = train[0]
    assert sample.images.shape == (1, 3, 128, 128) and sample.images.dtype == torch.float32
    assert (sample.semantic[0, 64:] == IGNORE_INDEX).all()
    assert (sample.semantic[0, :64] != IGNORE_INDEX).all()
    mean, std, scale = (
        torch.tensor(v)[..., None, None] for v in (NAIC2020.mean, NAIC2020.std, NAIC2020.scale)
    )
    normalised = (sample.images[0] / scale - mean) / std
    assert normalised[:, 64:].abs().max() < 1e-6 < normalised[:, :64].abs().max()
    assert val[0].images.shape == (1, 3, 64, 128) and val[0].images.dtype == torch.uint8
    assert val.tile_sizes == [((64, 128), (32, 64))] * 2


def test_labels_keep_their_size_where_predictions_return_to_it(tmp_path):
    root = make(tmp_path, size=(32, 64))
    val = build_naic2020(root, "val", size_px=128)
    assert val[0].images.shape == (1, 3, 64, 128) and val[0].semantic.shape == (1, 32, 64)
    assert val[0].change.shape == (32, 64)
    stored = read_naic_label(val.scene_of(val.names[0]).labels[0])
    assert np.array_equal(val[0].semantic[0], stored)
    train = build_naic2020(root, "train", size_px=128)
    assert train[0].semantic.shape == (1, 128, 128)


def test_padded_and_whole_tiles_go_into_one_batch_and_one_cache(tmp_path):
    root = make(tmp_path)
    write(root / "train/image/1.tif", np.full((16, 32, 3), 9, np.uint8))
    write(root / "train/label/1.png", np.full((16, 32), 300, np.uint16))
    folders = {"train": "train.json"}
    plain = build_naic2020(root, "train", folders=folders, size_px=64)
    cached = build_naic2020(root, "train", folders=folders, size_px=64, cache="ram")
    for _ in range(2):
        for one, two in zip(plain, cached, strict=True):
            assert one.images.dtype == two.images.dtype
            assert all(torch.equal(a, b) for a, b in zip(one[1:4], two[1:4], strict=True))
    batch = collate([plain[0], plain[1]])
    assert batch.images.shape == (2, 1, 3, 64, 64) and batch.images.dtype == torch.float32
    assert torch.equal(batch.images[1], plain[1].images.float())


def break_image(root):
    truncate(root / "train/image/1.tif")
    return "unreadable", "image/1.tif"


def break_depth(root):
    write(root / "train/image/1.tif", np.zeros((32, 32), np.uint16))
    return "bands", "image/1.tif: 1 bands where 3 are needed"


def break_value(root):
    write(root / "train/label/1.png", np.full((32, 32), 900, np.uint16))
    return "label values", "label/1.png: value(s) 900 where 0..899 is allowed"


def break_size(root):
    write(root / "train/label/1.png", np.full((32, 16), 800, np.uint16))
    return "sizes differ", "label/1.png 32 x 16"


def break_list(root):
    (root / "train/image/1.tif").unlink()
    return "missing file", "image/1.tif"


@pytest.mark.parametrize("spoil", [break_image, break_depth, break_value, break_size, break_list])
def test_each_fault_is_found_with_file_rule_and_remedy(tmp_path, spoil):
    root = make(tmp_path)
    requirement, text = spoil(root)
    error = failure(root)
    assert [problem.requirement for problem in error.problems] == [requirement]
    assert text in str(error) and REQUIREMENTS[requirement] in str(error)


def test_lists_that_passed_are_not_decoded_again(tmp_path, monkeypatch):
    root, seen, decoded = make(tmp_path), tmp_path / "data_check.json", []
    plain = checks.check_scene
    monkeypatch.setattr(checks, "check_scene", lambda *a: decoded.append(a) or plain(*a))
    for _ in range(2):
        check_naic2020(root, passed_file=seen, progress=False)
    assert len(decoded) == 7
