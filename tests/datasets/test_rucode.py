import numpy as np
import pytest
import torch

from datasets.entry import Where
from datasets.layout import REQUIREMENTS, DataError, parse_names
from datasets.rucode.data_set import RucodeLayout
from datasets.transforms import Augment
from helpers.data_sets import builder, checker, scheme_finder
from helpers.tiny_data import make_rucode, truncate, write_tiff
from utils.rasters.windows import Window

build_rucode = builder("rucode")
check_rucode = checker("rucode")
rucode_scheme = scheme_finder("rucode")

RGB = rucode_scheme()
IMAGES, MASKS = "Images_composit/Images_composit/8_ch", "mask/mask"
NAMES = [f"KVI_2018_SCN{i}__KV1_2019_SCN{i}" for i in range(5)]


@pytest.fixture
def root(tmp_path):
    return make_rucode(tmp_path)


def build(root, part, **options):
    return build_rucode(root, part, **{"scheme": RGB, **options})


def check(root, *parts, **options):
    return check_rucode(root, parts or None, **{"scheme": RGB, "progress": False, **options})


def failure(root, *parts, **options):
    with pytest.raises(DataError) as error:
        check(root, *parts, **options)
    return error.value


def test_schemes():
    assert RGB.bands == ("red", "green", "blue") and RGB.standardise == "joint"
    assert (RGB.scale, RGB.mean, RGB.std) == (1.0, (0.0,) * 3, (1.0,) * 3)
    assert RGB.num_classes == 0 and RGB.num_dates == 2
    assert rucode_scheme(bands=["grey"]).mean == (0.0,)
    assert rucode_scheme(bands=["red", "green", "blue", "nir"]).bands[3] == "nir"
    with pytest.raises(ValueError, match="--bands band5: a date has 4 bands"):
        rucode_scheme(bands=[5])


def test_masks_train_and_the_sample_submission_tests_in_its_order(root):
    assert build(root, "train").names == NAMES[:3] and build(root, "train").labelled
    test = build(root, "test")
    assert test.names == NAMES[:2:-1] and not test.labelled
    assert check(root) == {"train": 3, "test": 2}
    (root / "sample_submission.csv").unlink()
    assert build(root, "test").names == NAMES[3:] and check(root) == {"train": 3, "test": 2}


@pytest.mark.parametrize(
    ("bands", "numbers"),
    [(None, (0, 1, 2, 4, 5, 6)), (["red", "green", "blue", "nir"], range(8)), ([4], (3, 7))],
)
def test_bands_of_each_date(root, bands, numbers):
    import rasterio

    dataset = build(root, "train", scheme=rucode_scheme(bands=bands))
    with rasterio.open(root / IMAGES / f"{NAMES[0]}.tif") as file:
        stored = file.read([n + 1 for n in numbers]).astype(float)
    stored = stored.reshape(2, -1, *stored.shape[1:])
    axes = (1, 2, 3)
    expected = (stored - stored.mean(axes, keepdims=True)) / stored.std(axes, keepdims=True)
    assert np.allclose(dataset[0].images[..., :80, :72], expected, atol=1e-5)


def test_an_id_of_the_submission_without_an_image_is_named(root):
    with open(root / "sample_submission.csv", "a") as file:
        file.write("KVI_x__KV1_y,2 1\n")
    with pytest.raises(DataError, match=r"8_ch/KVI_x__KV1_y\.tif"):
        build(root, "test")
    assert [p.requirement for p in failure(root).problems] == ["no image"]
    assert build(root, "train").names == NAMES[:3]


def test_explicit_places(root, tmp_path):
    moved = tmp_path / "elsewhere"
    (root / "Images_composit").rename(moved)
    (root / "mask/mask").rename(root / "truth")
    (root / "sample_submission.csv").rename(root / "ids.csv")
    folders = parse_names(
        [f"images={moved}/Images_composit/8_ch", "masks=truth", "sample_submission=ids.csv"]
    )
    assert build(root, "train", folders=folders).names == NAMES[:3]
    assert check(root, folders=folders) == {"train": 3, "test": 2}
    folders["sample_submission"] = "nothing.csv"
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        build(root, "test", folders=folders)


def test_splits(root):
    assert build(root, "val", split_rule=f"leave_out:{NAMES[1]}").names == [NAMES[1]]
    val = build(root, "val", split_rule="area")  # a fifth of 80, 88 and 96 rows, below
    assert [window for _, window in val.windows] == [
        Window(64, 0, 32, 96), Window(70, 0, 32, 96), Window(77, 0, 32, 96),
    ]  # fmt: skip
    train = build(
        root, "train", split_rule="area", augment=Augment(crop_size=32), positive_crops=0.7,
        samples_per_image=100,
    )  # fmt: skip
    assert len(train) == 300 and train[7].images.shape == (2, 3, 32, 32)
    with pytest.raises(FileNotFoundError, match="--split official: Rucode has no part"):
        build(root, "val", split_rule="official")
    with pytest.raises(FileNotFoundError, match=r"no part 'val', only train and test.*--split"):
        build(root, "val")


def test_published_padding(root):
    sample = build(root, "train", tile_px=256, padding="constant")[0]
    assert sample.images.shape == (2, 3, 256, 256)
    assert (sample.images[:, :, 80:] == sample.images[0, 0, 0, 0]).all()
    reflected = build(root, "train", tile_px=256)[0].images[..., :72]
    assert torch.equal(reflected[:, :, :80], sample.images[:, :, :80, :72])
    assert torch.equal(reflected[:, :, 80:], reflected[:, :, 63:79].flip(2))


def test_no_images_names_the_ways_out(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"datasets\.prepare compose.*--folders images=DIR"):
        check(tmp_path)


def test_a_part_without_scenes_is_an_error(root):
    for path in (root / MASKS).iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"'train' is empty: .* 0 mask\(s\) for 5"):
        RucodeLayout(root, RGB, Where()).find("train")


def stored(path):
    import rasterio

    with rasterio.open(path) as file:
        return file.read()


def break_bands(root):
    path = root / IMAGES / f"{NAMES[1]}.tif"
    write_tiff(path, stored(path)[:7])
    return "7 bands where 8 are needed"


def break_more_bands(root):
    path = root / IMAGES / f"{NAMES[1]}.tif"
    write_tiff(path, np.concatenate([stored(path)] * 2))
    return "16 bands where 8 are needed"


def break_image(root):
    truncate(root / IMAGES / f"{NAMES[1]}.tif")
    return f"{NAMES[1]}.tif"


def break_mask_size(root):
    write_tiff(root / MASKS / f"{NAMES[1]}.tif", np.ones((1, 9, 9), np.uint8))
    return f"{MASKS}/{NAMES[1]}.tif 9 x 9"


def break_mask_place(root):
    path = root / MASKS / f"{NAMES[1]}.tif"
    write_tiff(path, stored(path), left=7)
    return f"{MASKS}/{NAMES[1]}.tif: transform"


def break_mask_values(root):
    path = root / MASKS / f"{NAMES[1]}.tif"
    write_tiff(path, stored(path) * 3)
    return "value(s) 3 where 0, 1, 255 are allowed"


def break_all_masks(root):
    for path in (root / MASKS).iterdir():
        write_tiff(path, stored(path) * 0)
    return "3 label(s), none has a changed pixel"


def break_mask_without_image(root):
    (root / IMAGES / f"{NAMES[1]}.tif").unlink()
    return f"8_ch/{NAMES[1]}.tif"


@pytest.mark.parametrize(
    ("spoil", "requirement"),
    [
        (break_bands, "bands"),
        (break_more_bands, "bands"),
        (break_image, "unreadable"),
        (break_mask_size, "sizes differ"),
        (break_mask_place, "grids differ"),
        (break_mask_values, "mask values"),
        (break_all_masks, "no change"),
        (break_mask_without_image, "no image"),
    ],
)
def test_each_fault_is_found_with_file_rule_and_remedy(root, spoil, requirement):
    text = spoil(root)
    error = failure(root)
    assert [problem.requirement for problem in error.problems] == [requirement]
    assert text in str(error) and REQUIREMENTS[requirement] in str(error)
