"""Own classes at two dates: four label styles, own codes, sizes and bands."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.layout import DataError
from datasets.prepare import main as prepare
from datasets.transforms import Augment
from helpers.data_sets import build_dataset, check_dataset, find_scheme
from helpers.tiny_data import make_second, write, write_tiff
from utils.rasters.masks import write_mask
from utils.schemes import SECOND
from utils.structures import IGNORE_INDEX

COLOURS = {
    "farm": (0, 155, 0),
    "desert": (255, 165, 0),
    "town": (230, 30, 100),
    "sea": (0, 170, 240),
}


def truth(seed: int, size: int = 32, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Classes (2, H, W) in 0..K-1, and change (H, W): a quarter, always to another class."""
    rng = np.random.default_rng(seed)
    dates = rng.integers(num_classes, size=(2, size, size))
    change = rng.random((size, size)) < 0.25
    dates[1] = np.where(
        change, (dates[0] + 1 + dates[1] % (num_classes - 1)) % num_classes, dates[0]
    )
    return dates, change


def make(root, labels, classes, count=4, size=32, part=""):
    """Writes scenes with `labels(dates, change)` -> {folder: pixels}, and classes.yaml."""
    for index in range(count):
        dates, change = truth(index, size)
        rng = np.random.default_rng(index)
        for date in (1, 2):
            pixels = rng.integers(0, 255, (size, size, 3)).astype(np.uint8)
            write(root / part / f"im{date}/{index}.png", pixels)
        for folder, stored in labels(dates, change).items():
            write(root / part / folder / f"{index}.png", stored)
    if classes is not None:
        (root / "classes.yaml").write_text(classes)
    return root


def check_samples(root, changed_only=False, **options):
    """Each sample is the truth: classes where known, and change."""
    check_dataset("pairs", None, root, **options)
    dataset = build_dataset("pairs", "train", root, **options)
    for index, sample in enumerate(dataset):
        dates, change = truth(index)
        wanted = np.where(change, dates, IGNORE_INDEX) if changed_only else dates
        np.testing.assert_array_equal(sample.semantic, wanted)
        np.testing.assert_array_equal(sample.change, change)
    return dataset


def coloured_only_changed(dates, change):
    palette = np.array([*COLOURS.values(), (255, 255, 255)], np.uint8)
    return {f"label{i + 1}": palette[np.where(change, d, 4)] for i, d in enumerate(dates)}


NAMED = "classes:\n" + "".join(f"  {name}: {list(rgb)}\n" for name, rgb in COLOURS.items())


@pytest.mark.parametrize("more", ["", "labels: changed\n", "unchanged: [255, 255, 255]\n"])
def test_own_colours_where_the_land_changed(tmp_path, more):
    dataset = check_samples(make(tmp_path, coloured_only_changed, NAMED + more), changed_only=True)
    assert dataset.scheme.classes == tuple(COLOURS)
    assert dataset.scheme.palette == ((255, 255, 255), *COLOURS.values())


def test_indices_where_the_land_changed_begin_with_1(tmp_path):
    def labels(dates, change):
        return {f"label{i + 1}": (change * (d + 1)).astype(np.uint8) for i, d in enumerate(dates)}

    check_samples(make(tmp_path, labels, "[farm, desert, town, sea]"), changed_only=True)


@pytest.mark.parametrize("style", ["auto", "dense"])
def test_indices_everywhere_begin_with_0(tmp_path, style):
    def labels(dates, change):
        return {f"label{i + 1}": d.astype(np.uint8) for i, d in enumerate(dates)}

    text = f"{{classes: [farm, desert, town, sea], labels: {style}}}"
    check_samples(make(tmp_path, labels, text))


def test_codes_with_gaps_a_class_of_255_and_ignored_ones(tmp_path):
    codes = np.array([10, 255, 7, 300], np.uint16)

    def labels(dates, change):
        stored = codes[dates]
        stored[0, 0, :5] = 99
        return {"label1": stored[0], "label2": stored[1]}

    text = "{classes: [a, b, c, d], values: {a: 10, b: 255, c: 7, d: 300}, ignore: 99}"
    root = make(tmp_path, labels, text)
    check_dataset("pairs", None, root)
    sample = build_dataset("pairs", "train", root)[1]
    dates, change = truth(1)
    assert (sample.semantic[0, 0, :5] == IGNORE_INDEX).all()
    assert (sample.change[0, :5] == IGNORE_INDEX).all()
    np.testing.assert_array_equal(sample.semantic[:, 1:], dates[:, 1:])
    np.testing.assert_array_equal(sample.change[1:], change[1:])


@pytest.mark.parametrize("kind", ["01", "0255", "threshold"])
def test_a_change_mask_decides_where_there_is_one(tmp_path, kind):
    masks = {}

    def labels(dates, change):
        one = np.zeros(change.shape, np.uint8)
        one[:5, :5] = 1  # other than where classes differ
        masks[len(masks)] = one
        stored = {"01": one, "0255": one * 255, "threshold": one * 130 + 40}[kind]
        return {
            "label1": dates[0].astype(np.uint8),
            "label2": dates[1].astype(np.uint8),
            "change": stored,
        }

    more = ", threshold: 128" if kind == "threshold" else ""
    root = make(tmp_path, labels, f"{{classes: [a, b, c, d]{more}}}")
    check_dataset("pairs", None, root)
    for index, sample in enumerate(build_dataset("pairs", "train", root)):
        np.testing.assert_array_equal(sample.change, masks[index])
        np.testing.assert_array_equal(sample.semantic, truth(index)[0])


def test_from_to_codes(tmp_path):
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    table = np.zeros((4, 4), np.uint8)
    for code, pair in enumerate(pairs, start=1):
        table[pair] = code
    names = list(COLOURS)
    lines = [f"  {i + 1}: [{names[a]}, {names[b]}]\n" for i, (a, b) in enumerate(pairs)]
    text = f"classes: [{', '.join(names)}]\ntransitions:\n{''.join(lines)}"
    root = make(tmp_path, lambda dates, _: {"label": table[tuple(dates)]}, text)
    check_samples(root, changed_only=True)
    write(root / "label/0.png", np.full((32, 32), 13, np.uint8))
    with pytest.raises(DataError, match=r"label/0.png: value\(s\) 13 where 1..12 or 0 \(unchanged"):
        check_dataset("pairs", None, root)


def test_without_a_class_file_they_are_those_of_second(tmp_path):
    root = make_second(tmp_path, train=3, size=32)
    assert find_scheme("pairs", root) == SECOND
    for mine, theirs in zip(
        *(build_dataset(n, "train", root) for n in ("pairs", "second")), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(mine[1:4], theirs[1:4], strict=True))


def test_classes_everywhere_are_refused_by_second_and_read_by_pairs(tmp_path):
    def labels(dates, change):
        return {f"label{i + 1}": (d + 1).astype(np.uint8) for i, d in enumerate(dates)}

    root = make(tmp_path, labels, None, part="train")
    with pytest.raises(DataError, match=r"(?s)label style .*all 4,096 labelled pixels"):
        check_dataset("second", None, root)
    check_samples(root)


def test_deep_images_of_several_sizes_with_gaps(tmp_path):
    for index, size in enumerate((24, 32, 40)):
        dates, _ = truth(index, size)
        rng = np.random.default_rng(index)
        for date in (1, 2):
            bands = rng.integers(1, 9000, (4, size, size)).astype(np.uint16)
            bands[:, :3] = 0
            write_tiff(tmp_path / f"im{date}/{index}.tif", bands, nodata=0)
            write_tiff(
                tmp_path / f"label{date}/{index}.tif", dates[date - 1][None].astype(np.uint8)
            )
    (tmp_path / "classes.yaml").write_text("[a, b, c, d]")
    check_dataset("pairs", None, tmp_path)
    dataset = build_dataset("pairs", "train", tmp_path)
    assert dataset.scheme.bands == ("band1", "band2", "band3", "band4")
    assert dataset.tile_sizes == [(24, 24), (32, 32), (40, 40)]
    for sample in dataset:
        assert (sample.semantic[:, :3] == IGNORE_INDEX).all() and (
            sample.images[:, :, :3] == 0
        ).all()
        assert (sample.semantic[:, 3:] != IGNORE_INDEX).all()
        known = sample.images[:, :, 3:]
        assert known.mean((2, 3)).abs().max() < 1e-5
        assert (known.std((2, 3), correction=0) - 1).abs().max() < 1e-5
    crops = build_dataset("pairs", "train", tmp_path, augment=Augment(crop_size=32))
    assert {tuple(sample.change.shape) for sample in crops} == {(32, 32)}


def test_suffixes_match_mates_and_are_guessed(tmp_path):
    root = make(tmp_path, coloured_only_changed, NAMED)
    ends = {
        "im1": "_pre_disaster",
        "im2": "_post",
        "label1": "_pre_target",
        "label2": "_post_target",
    }
    for folder, end in ends.items():
        for path in list((root / folder).iterdir()):
            path.rename(path.with_name(path.stem + end + ".png"))
    check_samples(root, changed_only=True, suffixes=ends)
    with pytest.raises(
        DataError, match=r"--suffixes im1=_pre_disaster im2=_post label1=_pre_target"
    ):
        check_dataset("pairs", None, root)


def test_the_check_prints_what_it_found(tmp_path, capsys):
    root = make(tmp_path, coloured_only_changed, NAMED)
    prepare(["check", str(root), "--dataset", "pairs"])
    out = capsys.readouterr().out
    changed = sum(int(truth(i)[1].sum()) for i in range(4))
    assert "train: 4 scene(s) of 32 x 32 px" in out and "3 x uint8, no CRS" in out
    assert "labels: classes where the land changed" in out
    assert f"changed: {changed:,} px ({changed / 4096:.1%})" in out and "no data" not in out


def test_the_check_counts_pixels_without_data(tmp_path, capsys):
    root = make(tmp_path, coloured_only_changed, NAMED)
    image = np.full((3, 32, 32), 9, np.uint8)
    image[:, :8] = 0
    (root / "im2/1.png").unlink()
    write_tiff(root / "im2/1.tif", image, crs=None, nodata=0)
    prepare(["check", str(root), "--dataset", "pairs"])
    assert f"no data: 256 px of the images ({256 / (8 * 1024):.1%})" in capsys.readouterr().out


def test_a_palette_of_other_colours_or_values_is_refused(tmp_path):
    root = make(tmp_path, coloured_only_changed, NAMED)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(root / "label1/2.png")
    with pytest.raises(DataError, match=r"label1/2.png: 1024 pixels in 1 colour"):
        check_dataset("pairs", None, root)
    other = SECOND._replace(classes=("a", "b"))
    with pytest.raises(ValueError, match=r"the network knows a, b, .* has farm, desert, town, sea"):
        build_dataset("pairs", "train", root, scheme=other)


def test_an_index_0_that_may_be_a_class_or_unchanged_is_refused(tmp_path):
    """Dense labels 0..2 of three classes, whose first is the same at both dates."""
    for date in (1, 2):
        image = np.random.default_rng(date).integers(0, 256, (16, 16, 3), np.uint8)
        write(tmp_path / f"train/im{date}/a.png", image)
        label = np.zeros((16, 16), np.uint8)
        label[8:] = date
        write(tmp_path / f"train/label{date}/a.png", label)
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [water, wood, town]")
    with pytest.raises(ValueError, match=r"0 may be water or mean unchanged.*labels: dense"):
        build_dataset("pairs", "train", tmp_path)
    path.write_text("classes: [water, wood, town]\nlabels: dense")
    (sample,) = build_dataset("pairs", "train", tmp_path)
    assert sample.change[8:].all() and not sample.change[:8].any()
    path.rename(tmp_path / "Classes.yml")
    with pytest.raises(ValueError, match=r"Classes\.yml is not read; rename it to classes\.yaml"):
        find_scheme("pairs", tmp_path)


def test_auto_compares_labels_of_the_same_id_whatever_their_suffixes(tmp_path):
    def labels(dates, change):
        return {f"label{i + 1}": (change * (d + 1)).astype(np.uint8) for i, d in enumerate(dates)}

    root = make(tmp_path, labels, "[farm, desert, town, sea]", count=11)
    for path in (root / "label2").iterdir():  # sorted by name: 0_b, 10_b, 1_b
        path.rename(path.with_name(f"{path.stem}_b.png"))
    dataset = build_dataset("pairs", "train", root, suffixes={"label2": "_b"})
    assert dataset.reader.reading.labels.style == "changed"
    one = dataset[dataset.names.index("10")]
    np.testing.assert_array_equal(one.change, truth(10)[1])


@pytest.mark.parametrize("colours", [("white", "black"), ("grey", "white")])
def test_a_white_class_keeps_its_pseudo_labels(tmp_path, colours):
    shades = {"white": [255] * 3, "black": [0] * 3, "grey": [3] * 3}

    def labels(dates, change):
        return {f"label{i + 1}": (d % 2 + 1).astype(np.uint8) for i, d in enumerate(dates)}

    text = "first: 1\nlabels: dense\nclasses:\n"
    text += "".join(f"  {name}: {shades[name]}\n" for name in colours)
    root = make(tmp_path, labels, text)
    scheme = find_scheme("pairs", root)
    assert len(set(scheme.palette)) == len(scheme.palette) == 3
    wanted = np.random.default_rng(5).integers(0, 3, (32, 32)).astype(np.uint8)
    for date in (1, 2):
        for index in range(4):
            write_mask(tmp_path / f"masks/im{date}/{index}.png", wanted, scheme.palette)
    dataset = build_dataset("pairs", "train", root, pseudo_label_dir=tmp_path / "masks")
    read = np.where(wanted == 0, IGNORE_INDEX, wanted.astype(int) - 1)
    np.testing.assert_array_equal(dataset[0].semantic, np.stack([read, read]))


@pytest.mark.parametrize("may_stay", [True, False])
def test_a_code_from_a_class_to_itself(tmp_path, may_stay):
    def labels(dates, change):
        stored = np.zeros(change.shape, np.uint8)
        stored[:4], stored[4:8] = 1, 2
        return {"label": stored}

    text = "classes: [a, b]\ntransitions: {1: [a, a], 2: [a, b]}\n"
    text += f"same_class_change: {str(may_stay).lower()}\n"
    sample = build_dataset("pairs", "train", make(tmp_path, labels, text))[0]
    assert sample.change[:4].eq(int(may_stay)).all() and sample.change[4:8].eq(1).all()
    assert sample.semantic[:, :4].eq(0).all() and sample.change[8:].eq(0).all()


@pytest.mark.parametrize("nodata", [7, 0, 255])
def test_nodata_of_a_grey_change_mask(tmp_path, nodata):
    """0 and 255 are grey levels of such masks; GDAL's tools often declare them."""
    root = make(tmp_path, dense_indices, "{classes: [a, b, c, d], threshold: 128}", count=1)
    stored = np.array([0, 7, 120, 255], np.uint8).repeat(8)[None].repeat(32, 0)
    write_tiff(root / "change/0.tif", stored[None], nodata=nodata)
    change = build_dataset("pairs", "train", root)[0].change
    expected = [0, IGNORE_INDEX if nodata == 7 else 0, 0, 1]
    assert change[0, ::8].tolist() == expected


def dense_indices(dates, change):
    return {f"label{i + 1}": d.astype(np.uint8) for i, d in enumerate(dates)}


def test_label_folders_may_be_called_dense1_and_dense2(tmp_path):
    root = make(tmp_path, dense_indices, "{classes: [a, b, c, d], labels: dense}")
    names = {f"label{date}": f"dense{date}" for date in (1, 2)}
    for old, new in names.items():
        (root / old).rename(root / new)
    assert build_dataset("pairs", "train", root, folders=names).dense_labels("0") is None


def test_dense_labels_are_coded_as_the_labels(tmp_path):
    text = "{classes: [a, b, c, d], values: {a: 10, b: 20, c: 30, d: 40}, unchanged: 0}"
    codes = np.array([10, 20, 30, 40], np.uint8)

    def labels(dates, change):
        every = {f"dense{i + 1}": codes[d] for i, d in enumerate(dates)}
        return every | {f"label{i + 1}": codes[d] * change for i, d in enumerate(dates)}

    dataset = build_dataset("pairs", "train", make(tmp_path, labels, text))
    np.testing.assert_array_equal(dataset.dense_labels("0"), truth(0)[0] + 1)


def test_folders_that_are_not_there_or_not_read_are_told(tmp_path, capsys):
    root = make(tmp_path, dense_indices, "{classes: [a, b, c, d], labels: dense}", part="train")
    (root / "Test/im1").mkdir(parents=True)
    (root / "train/chnage").mkdir()
    prepare(["check", str(root), "--dataset", "pairs"])
    told = capsys.readouterr().out.split("not read")[1].splitlines()[1:]
    assert [line.strip() for line in told] == [str(root / "Test"), str(root / "train/chnage")]
    with pytest.raises(FileNotFoundError, match=r"--folders change=chang: no files in"):
        build_dataset("pairs", "train", root, folders={"change": "chang"})
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*--data-root, .*--dataset"):
        build_dataset("pairs", "train", tmp_path / "nowhere")
