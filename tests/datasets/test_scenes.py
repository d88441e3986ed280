import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import reader as scene_reader
from datasets.bands import band_names, band_numbers
from datasets.change_masks import find_coding
from datasets.labels import ChangeLabels
from datasets.loader import collate, train_loader
from datasets.reader import Reading
from datasets.samples import SceneSamples
from datasets.scene import split_scenes
from datasets.transforms import ORIENTATIONS, Augment
from helpers.tiny_data import make_change, write, write_tiff
from utils.rasters.reading import open_raster
from utils.rasters.windows import Window
from utils.schemes import change_scheme
from utils.structures import IGNORE_INDEX, ImageFile, Scene

RGB_SCHEME = change_scheme(("red", "green", "blue"), "none")
PLAIN_AUGMENT = {"orient": "none", "swap_dates": False, "jitter": 0.0}


def pair(name, paths, bands, label=None, rows=None) -> Scene:
    """A scene of two dates, each with one file and the same bands."""
    dates = tuple(
        (ImageFile(path, tuple(chosen)),) for path, chosen in zip(paths, bands, strict=True)
    )
    return Scene(name, dates, () if label is None else (label,), rows)


def samples(scenes, scheme, label_coding="auto", tile_px=None, **options) -> SceneSamples:
    """Whole scenes, crops with `augment`, or windows with `tile_px`."""
    coding = find_coding([path for scene in scenes for path in scene.labels], label_coding)
    options |= {"tile_px": tile_px, "whole_px": None if tile_px is None else 0}
    return SceneSamples(scenes, scheme, Reading(ChangeLabels(coding)), **options)


@pytest.fixture
def scenes(tmp_path):
    """`scenes(n, height, width, bands, most)` writes 8- or 16-bit scenes; also their arrays."""

    def make(count=2, height=70, width=50, bands=3, most=255, suffix="png", empty=False):
        found, arrays = [], []
        for index in range(count):
            images, change = make_change(np.random.default_rng(index), height, width, bands, most)
            images = images.astype(np.uint8 if most <= 255 else np.uint16)
            change = change * (not empty)
            paths = [tmp_path / f"{folder}/{index}.{suffix}" for folder in ("A", "B", "label")]
            for path, image in zip(paths, images, strict=False):
                if suffix == "png":
                    write(path, image.transpose(1, 2, 0))
                else:
                    write_tiff(path, image)
            write(label := paths[2].with_suffix(".png"), change)
            found.append(pair(str(index), paths[:2], (range(bands),) * 2, label))
            arrays.append((images, change))
        return found, arrays

    return make


def test_a_whole_scene_is_what_the_files_hold(scenes):
    found, arrays = scenes()
    dataset = samples(found, RGB_SCHEME, part="train", path="x", label_coding="01")
    assert (dataset.names, dataset.labelled, dataset.part) == (["0", "1"], True, "train")
    for index, (images, change) in enumerate(arrays):
        sample = dataset[index]
        assert sample.name == str(index) and sample.images.dtype == torch.uint8
        assert np.array_equal(sample.images, images) and np.array_equal(sample.change, change)
        assert sample.semantic.shape == (0, 70, 50) and sample.semantic.dtype == torch.int64
        assert sample.change.dtype == torch.int64


@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_standardised_bands_and_jointly(scenes, cache, tmp_path):
    found, arrays = scenes(1, bands=4, most=1023, suffix="tif")
    for standardise, axes in (("bands", (2, 3)), ("joint", (1, 2, 3))):
        scheme = change_scheme(("red", "green", "blue", "nir"), standardise)
        sample = samples(found, scheme, cache=cache, cache_dir=tmp_path / "cache")[0]
        x = arrays[0][0].astype(np.float64)
        expected = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
        assert sample.images.dtype == torch.float32
        assert np.allclose(sample.images, expected, atol=1e-5)


def test_published_rucode_normalisation(scenes):
    found, arrays = scenes(1, most=1023, suffix="tif")
    sample = samples(found, change_scheme(("grey",), "joint"))[0]
    for date in (0, 1):
        red, green, blue = arrays[0][0][date].astype(np.float64)
        grey = (0.299 * red + 0.587 * green + 0.114 * blue) / 1024
        expected = (grey - grey.mean()) / grey.std()
        assert sample.images.shape == (2, 1, 70, 50)
        assert np.allclose(sample.images[date, 0], expected, atol=1e-5)


def test_a_crop_is_standardised_by_the_whole_image(scenes):
    found, _ = scenes(1, most=1023, suffix="tif")
    scheme = change_scheme(("red", "green", "blue"), "joint")
    crop = samples(found, scheme, tile_px=32)[0]
    whole = samples(found, scheme)[0]
    assert torch.equal(crop.images, whole.images[..., :32, :32])


def test_a_constant_image_gives_zeros(scenes, tmp_path):
    found, _ = scenes(1, most=1023, suffix="tif")
    write_tiff(found[0].images[0], np.full((3, 70, 50), 700, np.uint16))
    sample = samples(found, change_scheme(("grey",), "joint"))[0]
    assert (sample.images[0] == 0).all() and sample.images[1].std() > 0.9


def test_windows_cover_all_scenes_and_ignore_the_padding(scenes):
    found, arrays = scenes(2, 70, 50)
    dataset = samples(found, RGB_SCHEME, tile_px=64, overlap_px=0, label_coding="01")
    # 70 x 50: two rows of windows; the width of 50 is rounded up to 64
    assert dataset.windows == [(i, Window(top, 0, 64, 64)) for i in (0, 1) for top in (0, 64)]
    for index, (scene, window) in enumerate(dataset.windows):
        images, change = (
            np.pad(a, ((0, 0),) * (a.ndim - 2) + ((0, 62), (0, 62)), "reflect")
            for a in arrays[scene]
        )
        sample = dataset[index]
        rows = slice(window.top, window.top + 64)
        assert np.array_equal(sample.images, images[..., rows, :64])
        inside = np.zeros((64, 64), bool)
        inside[: 70 - window.top, :50] = True
        assert np.array_equal(sample.change[inside], change[rows, :64][inside])
        assert (sample.change[~inside] == IGNORE_INDEX).all()


@pytest.mark.parametrize(
    ("size", "tile_px", "expected"),
    [((20, 70), 64, (32, 64)), ((70, 33), 512, (96, 64)), ((64, 64), 64, (64, 64)),
     ((90, 90), 100, (96, 96)), ((98, 98), 100, (100, 100))],
)  # fmt: skip
def test_windows_of_short_sides(scenes, size, tile_px, expected):
    found, _ = scenes(1, *size)
    dataset = samples(found, RGB_SCHEME, tile_px=tile_px)
    assert {window[2:] for _, window in dataset.windows} == {expected}
    assert dataset[0].change.shape == expected


def test_constant_padding_is_the_published_one(scenes):
    found, _ = scenes(1, 40, 50, most=1023, suffix="tif")
    scheme = change_scheme(("red", "green", "blue"), "joint")
    sample = samples(found, scheme, tile_px=64, padding="constant", label_coding="01")[0]
    value = samples(found, scheme)[0].images[0, 0, 0, 0]
    assert (sample.images[:, :, :, 50:] == value).all()
    assert (sample.images[:, :, 40:] == value).all()
    assert (sample.images[:, :, :40, :50] != value).float().mean() > 0.9


def test_crops_depend_on_seed_epoch_and_index_only(scenes):
    found, _ = scenes()
    augment = Augment(crop_size=16, swap_dates=True, jitter=0.5)
    make = lambda seed=0: samples(  # noqa: E731
        found, RGB_SCHEME, augment=augment, seed=seed, positive_crops=0.5, samples_per_image=4
    )
    first, second = make(), make()
    assert len(first) == 8
    for key in ((0, 3), (0, 0), (2, 7)):
        for a, b in zip(first[key][1:4], second[key][1:4], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(first[0, 3].images, first[1, 3].images)
    assert not torch.equal(first[0, 3].images, make(1)[0, 3].images)
    first.set_epoch(2)
    assert torch.equal(first[7].images, second[2, 7].images)


def test_a_scene_without_change_gives_the_same_crop_every_time(scenes):
    found, _ = scenes(2, empty=True)
    make = lambda: samples(  # noqa: E731
        found, RGB_SCHEME, augment=Augment(crop_size=16), positive_crops=1.0, label_coding="01"
    )
    dataset = make()
    first, again = dataset[0, 0].images, dataset[0, 0].images
    assert torch.equal(first, again) and torch.equal(first, make()[0, 0].images)


def test_every_scene_is_sampled_equally_often(scenes):
    found, _ = scenes(3)
    dataset = samples(found, RGB_SCHEME, augment=Augment(crop_size=8), samples_per_image=5)
    assert sorted(dataset[i].name for i in range(15)) == sorted(["0", "1", "2"] * 5)


def test_a_crop_is_an_aligned_piece_of_its_scene(scenes):
    found, arrays = scenes(1)
    images, change = arrays[0]
    augment = Augment(crop_size=24, **PLAIN_AUGMENT)
    dataset = samples(found, RGB_SCHEME, augment=augment, samples_per_image=20, label_coding="01")
    views = np.lib.stride_tricks.sliding_window_view(images[0, 0], (24, 24))
    places = set()
    for sample in dataset:
        (top, left), *more = np.argwhere((views == sample.images[0, 0].numpy()).all((2, 3)))
        assert not more
        piece = (..., slice(top, top + 24), slice(left, left + 24))
        assert np.array_equal(sample.images, images[piece])
        assert np.array_equal(sample.change, change[piece])
        places.add((top, left))
    assert len(places) > 15


def test_all_orientations_are_applied_after_the_crop(scenes):
    found, _ = scenes(1, 40, 40)
    dataset = samples(
        found, RGB_SCHEME, augment=Augment(crop_size=40), samples_per_image=60, label_coding="01"
    )
    seen = {sample.images.numpy().tobytes() for sample in dataset}
    assert len(seen) == len(ORIENTATIONS)


def test_positive_crops_always_hold_a_change_if_there_is_one(scenes, tmp_path):
    found, _ = scenes(1, 200, 200)
    change = np.zeros((200, 200), np.uint8)
    change[199, 0] = 1  # 1 crop in 35000 holds it: rejection alone would hardly ever end
    write(found[0].labels[0], change)
    dataset = samples(
        found,
        RGB_SCHEME,
        augment=Augment(crop_size=12),
        positive_crops=1.0,
        samples_per_image=10,
        label_coding="01",
    )
    assert all((sample.change == 1).sum() == 1 for sample in dataset)


def test_the_pixel_that_a_crop_is_put_around_lies_anywhere_in_it(scenes):
    found, _ = scenes(1, 100, 100)
    change = np.zeros((100, 100), np.uint8)
    change[50, 50] = 1
    write(found[0].labels[0], change)
    augment = Augment(crop_size=4, **PLAIN_AUGMENT)
    dataset = samples(
        found, RGB_SCHEME, augment=augment, positive_crops=1.0, samples_per_image=150,
        label_coding="01",
    )  # fmt: skip
    places = {tuple(np.argwhere(sample.change.numpy() == 1)[0]) for sample in dataset}
    assert len(places) == 16


def test_share_of_positive_crops(scenes):
    found, _ = scenes(1, 300, 300)
    change = np.zeros((300, 300), np.uint8)
    change[:9, :9] = 1  # plain crops: under 1 in 100
    write(found[0].labels[0], change)
    dataset = samples(
        found, RGB_SCHEME, augment=Augment(crop_size=16), positive_crops=0.7,
        samples_per_image=200, label_coding="01",
    )  # fmt: skip
    share = np.mean([(sample.change == 1).any() for sample in dataset])
    assert 0.6 < share < 0.8


def test_a_scene_without_change_gives_plain_crops(scenes):
    found, _ = scenes(1, empty=True)
    dataset = samples(
        found, RGB_SCHEME, augment=Augment(crop_size=16), positive_crops=1.0, samples_per_image=5
    )
    assert [sample.change.sum().item() for sample in dataset] == [0] * 5


def test_crops_of_small_scenes_are_padded_with_ignored_pixels(scenes):
    found, arrays = scenes(1, 70, 50)
    augment = Augment(crop_size=60, **PLAIN_AUGMENT)
    dataset = samples(found, RGB_SCHEME, augment=augment, samples_per_image=9, label_coding="01")
    lefts = set()
    for sample in dataset:
        inside = np.flatnonzero((sample.change != IGNORE_INDEX).all(0))
        assert len(inside) == 50 and sample.images.shape == (2, 3, 60, 60)
        piece = sample.images[..., inside[0] : inside[-1] + 1]
        tops = [t for t in range(11) if np.array_equal(piece, arrays[0][0][..., t : t + 60, :])]
        assert len(tops) == 1
        lefts.add(int(inside[0]))
    assert len(lefts) > 3


def test_jitter_of_deep_images_is_an_error(scenes):
    found, _ = scenes(1, most=1023, suffix="tif")
    dataset = samples(
        found, change_scheme(("red",), "joint"), augment=Augment(crop_size=8, jitter=0.1)
    )
    with pytest.raises(ValueError, match="--jitter works on 8-bit images"):
        dataset[0]


@pytest.mark.parametrize("rows", [None, (10, 60)])
def test_ram_cache_changes_nothing(scenes, rows):
    found, _ = scenes(2, most=1023, suffix="tif")
    found = [scene._replace(rows=rows) for scene in found]
    scheme = change_scheme(("red", "green", "blue"), "joint")
    for options in ({"tile_px": 48}, {"augment": Augment(crop_size=16), "positive_crops": 1.0}):
        plain, cached = (
            samples(found, scheme, label_coding="01", cache=cache, **options)
            for cache in (None, "ram")
        )
        for a, b in zip(plain, cached, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[1:4], b[1:4], strict=True))


def test_ram_cache_reads_each_file_once(scenes, monkeypatch):
    found, _ = scenes(1)
    dataset = samples(found, RGB_SCHEME, tile_px=32, cache="ram", label_coding="01")
    first = [sample.images for sample in dataset]
    for opened in (dataset.reader._image_files, dataset.reader._open):
        opened.found.clear()
        monkeypatch.setattr(opened, "open", lambda *_: pytest.fail("read again"))
    assert all(torch.equal(a, b.images) for a, b in zip(first, dataset, strict=True))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_workers_see_the_same_samples(scenes):
    found, _ = scenes(2, suffix="tif")
    dataset = samples(
        found, RGB_SCHEME, augment=Augment(crop_size=16), samples_per_image=4, label_coding="01"
    )
    _ = dataset[0]  # files are open before the fork
    batches = [list(train_loader(dataset, 4, num_workers=n)) for n in (0, 2)]
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.change, b.change)


def test_a_data_set_can_be_pickled_with_files_open(scenes):
    found, _ = scenes(1, suffix="tif")
    dataset = samples(found, RGB_SCHEME, tile_px=32, label_coding="01")
    first = dataset[0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].images, first.images)


def test_one_file_can_hold_both_dates(tmp_path):
    bands = np.random.default_rng(0).integers(0, 255, (8, 20, 20)).astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", bands)
    scene = pair("a", (path, path), ((0, 1, 2), (4, 5, 6)))
    sample = samples([scene], RGB_SCHEME)[0]
    assert np.array_equal(sample.images[0], bands[:3])
    assert np.array_equal(sample.images[1], bands[4:7])
    assert (sample.change == IGNORE_INDEX).all()
    assert not samples([scene], RGB_SCHEME).labelled


def test_unlike_files_are_an_error(scenes):
    found, _ = scenes(1)
    write(found[0].images[1], np.zeros((70, 51, 3), np.uint8))
    with pytest.raises(ValueError, match=r"sizes differ: .*70 x 51, .*70 x 50"):
        samples(found, RGB_SCHEME)[0]
    scene = pair("a", (found[0].images[0],) * 2, ((0, 1, 3),) * 2)
    with pytest.raises(ValueError, match=r"3 bands where 4 are needed.*--bands"):
        samples([scene], RGB_SCHEME)[0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"positive_crops": 1.5}, r"--positive-crops 1.5 must lie in 0..1"),
        ({"samples_per_image": 0}, "--samples-per-image 0 must be at least 1"),
        ({"padding": "wrap"}, "--padding 'wrap' is not known; choose from reflect, constant"),
        ({"cache": "tape"}, "--cache 'tape'"),
        ({"label_coding": "02"}, "--label-coding '02' .* auto, 01, 0255, each"),
    ],
)
def test_impossible_options_are_errors(scenes, options, match):
    with pytest.raises(ValueError, match=match):
        samples(scenes(1)[0], RGB_SCHEME, **options)


def test_no_scenes_is_an_error():
    with pytest.raises(ValueError, match="no scenes"):
        samples([], RGB_SCHEME)


def test_area_split_shares_rows_and_never_pixels(scenes):
    found, arrays = scenes(2, 100, 50)
    parts = {part: split_scenes(found, "area:0.3", part) for part in ("train", "val")}
    assert {s.rows for s in parts["train"]} == {(0, 70)}
    assert {s.rows for s in parts["val"]} == {(70, 100)}
    whole = samples(parts["val"], RGB_SCHEME, label_coding="01")[1]
    assert np.array_equal(whole.images, arrays[1][0][..., 70:, :])
    assert np.array_equal(whole.change, arrays[1][1][70:])
    val = samples(parts["val"], RGB_SCHEME, tile_px=64, label_coding="01")
    assert val.windows == [(0, Window(70, 0, 32, 64)), (1, Window(70, 0, 32, 64))]
    assert (val[0].change[30:] == IGNORE_INDEX).all()
    assert np.array_equal(val[0].images[..., 30, :50], arrays[0][0][..., 98, :])  # reflected
    train = samples(
        parts["train"], RGB_SCHEME, augment=Augment(crop_size=50, **PLAIN_AUGMENT),
        samples_per_image=30, label_coding="01",
    )  # fmt: skip
    allowed = [images[0, 0, :70] for images, _ in arrays]
    for sample in train:
        top = np.flatnonzero((allowed[int(sample.name)] == sample.images[0, 0, 0].numpy()).all(1))
        assert 0 <= top[0] <= 20


def test_split_by_ids_and_wrong_rules(scenes):
    found, _ = scenes(3)
    parts = {part: split_scenes(found, "leave_out:1", part) for part in ("train", "val")}
    assert [s.name for s in parts["train"]] == ["0", "2"]
    assert [s.name for s in parts["val"]] == ["1"]
    for rule, match in (
        ("leave_out:7", r"--split leave_out:7: there is no '7' .* choose from 0, 1, 2"),
        ("area:2", r"--split area:2: '2' must be a share"),
        ("area:x", r"--split area:x"),
        ("area:0.001", "leaves none for training or validation"),
    ):
        with pytest.raises(ValueError, match=match):
            split_scenes(found, rule, "train")


def test_only_scenes_that_are_larger_than_whole_px_are_divided(scenes):
    found, _ = scenes(1)
    make = lambda **o: SceneSamples(found, RGB_SCHEME, Reading(ChangeLabels("01")), **o)  # noqa: E731
    assert make(whole_px=70).windows == make().windows == [(0, Window(0, 0, 70, 50))]
    assert make(whole_px=69).windows == [(0, Window(0, 0, 96, 64))]
    assert make(augment=Augment(), whole_px=0).windows == []


def test_samples_of_equal_size_make_a_batch(scenes):
    found, _ = scenes(2)
    dataset = samples(found, RGB_SCHEME, tile_px=64, label_coding="01")
    batch = collate([dataset[0], dataset[1]])
    assert batch.semantic.shape == (2, 0, 64, 64) and batch.images.shape == (2, 2, 3, 64, 64)


def test_band_names_and_numbers():
    assert band_names(["3", 1, "NIR"]) == ("band3", "band1", "nir")
    assert band_numbers(("band3", "band1", "nir")) == (2, 0, 3)
    assert band_numbers(("grey",), first=4) == (4, 5, 6)
    for bad in (["purple"], ["band0"], ["1", "red"], ["grey", "nir"], ["grey", "grey"], []):
        with pytest.raises(ValueError, match="--bands"):
            band_names(bad)


def test_few_files_stay_open(scenes):
    found, _ = scenes(12, 16, 16)
    dataset = samples(found, RGB_SCHEME, label_coding="01")
    for _ in dataset:
        for opened in (dataset.reader._image_files, dataset.reader._open):
            assert len(opened.found) <= scene_reader.MOST_OPEN
    assert isinstance(open_raster(Path(found[0].labels[0])).path, Path)


def test_nodata_values_count_in_no_statistic_and_become_the_mean(tmp_path):
    images, change = make_change(np.random.default_rng(0), 40, 50, 2, 1023)
    images = images.astype(np.float32)
    holed = images.copy()
    holed[:, :, :8] = -9999
    for name, (one, two) in {"whole": images[:, :, 8:], "holed": holed}.items():
        for folder, image in (("A", one), ("B", two)):
            write_tiff(tmp_path / name / folder / "0.tif", image, nodata=-9999)
    write(tmp_path / "label.png", change)
    scheme, read = change_scheme(("band1", "band2"), "bands"), {}
    for name in ("whole", "holed"):
        paths = tuple(tmp_path / name / folder / "0.tif" for folder in "AB")
        read[name] = samples([pair("0", paths, ((0, 1), (0, 1)))], scheme)[0].images
    assert (read["holed"][:, :, :8] == 0).all()
    torch.testing.assert_close(read["holed"][:, :, 8:], read["whole"])
