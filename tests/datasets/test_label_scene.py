from pathlib import Path

import numpy as np
import pytest

from datasets.prepare import main
from datasets.prepare.label_scene import label_scene
from datasets.transforms import Augment
from helpers.data_sets import builder, checker, scheme_finder
from helpers.tiny_data import write, write_envi, write_tiff
from utils.rasters.reading import open_raster
from utils.rasters.windows import Window
from utils.structures import IGNORE_INDEX

binary_scheme = scheme_finder("binary")
build_binary = builder("binary")
check_binary = checker("binary")

LANDSAT = Path(__file__).resolve().parents[2].parent / "shared/data/landsat"
IMAGES = np.random.default_rng(0).integers(0, 255, (2, 6, 50, 40)).astype(np.uint8)


def files(folder, images=IMAGES):
    """Two images, a mask of changed pixels in one corner, one of unchanged ones in another."""
    changed, unchanged = np.zeros((2, 50, 40), np.uint8)
    changed[:5, :5] = 255
    unchanged[-3:, -3:] = 255
    return [
        write_tiff(folder / "2000.tif", images[0]),
        write_tiff(folder / "2003.tif", images[1]),
        write(folder / "change.bmp", changed),
        write(folder / "unchanged.bmp", unchanged),
    ]


def pixels(path):
    raster = open_raster(path, indices=True)
    return raster.read(Window(0, 0, raster.height, raster.width), range(raster.count))


def test_the_result_is_a_binary_data_set(tmp_path):
    assert label_scene(*files(tmp_path / "in"), tmp_path / "out/train") == 1
    root = tmp_path / "out"
    scheme = binary_scheme(root)
    assert check_binary(root, scheme=scheme, progress=False) == {"train": 1}
    assert np.array_equal(pixels(root / "train/B/2000.tif"), IMAGES[1])
    sample = build_binary(root, "train", scheme=scheme)[0]
    change = sample.change[:50, :40]
    assert (change[:5, :5] == 1).all() and (change[-3:, -3:] == 0).all()
    assert (change == IGNORE_INDEX).sum() == 50 * 40 - 25 - 9
    assert sample.images.shape == (2, 6, 50, 40)


def test_tiles_are_equal_keep_their_place_and_hold_something_known(tmp_path):
    paths = files(tmp_path / "in")
    assert label_scene(*paths, tmp_path / "out", tile_px=32, name="x") == 2
    names = sorted(path.name for path in (tmp_path / "out/A").iterdir())
    assert names == ["x_00000_00000.tif", "x_00025_00020.tif"]  # 50 x 40 in four of 25 x 20
    tile, whole = open_raster(tmp_path / "out/A" / names[1]), open_raster(paths[0])
    assert np.array_equal(pixels(tile.path), IMAGES[0][:, 25:, 20:])
    assert tile.crs == whole.crs and tile.transform[:2] == whole.transform[:2]
    assert (tile.transform.c, tile.transform.f) == (500000 + 2 * 20, 6000000 - 2 * 25)
    assert pixels(tmp_path / "out/label/x_00025_00020.png").min() == 0
    scheme = binary_scheme(tmp_path / "out")
    assert check_binary(tmp_path / "out", scheme=scheme, progress=False) == {"train": 2}


def test_masks_that_contradict_or_say_nothing_are_errors(tmp_path):
    paths = files(tmp_path)
    with pytest.raises(ValueError, match=r"both mark 25 pixel"):
        label_scene(*paths[:3], paths[2], tmp_path / "out")
    empty = write(tmp_path / "empty.bmp", np.zeros((50, 40), np.uint8))
    with pytest.raises(ValueError, match=r"empty.bmp marks no pixel"):
        label_scene(*paths[:3], empty, tmp_path / "out")
    small = write(tmp_path / "small.bmp", np.ones((50, 41), np.uint8))
    with pytest.raises(ValueError, match=r"small.bmp is 50 x 41 .* 50 x 40"):
        label_scene(*paths[:3], small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_differ_are_errors(tmp_path):
    paths = files(tmp_path)
    for pixels_, options, match in (
        (IMAGES[1][:5], {}, "6 bands uint8 .* 5 bands uint8"),
        (IMAGES[1].astype(np.uint16), {}, "6 bands uint8 .* 6 bands uint16"),
        (IMAGES[1], {"left": 3}, r"transform .*gdalwarp"),
    ):
        write_tiff(paths[1], pixels_, **options)
        with pytest.raises(ValueError, match=match):
            label_scene(*paths, tmp_path / "out")


def test_command_line_overwrite_and_dry_run(tmp_path, capsys):
    words = ["label-scene", *map(str, files(tmp_path / "in")), str(tmp_path / "out")]
    main([*words, "--dry-run"])
    assert "would write 1 scene(s)" in capsys.readouterr().out and not (tmp_path / "out").exists()
    main(words)
    with pytest.raises(FileExistsError, match=r"A/2000\.tif.*--overwrite"):
        main(words)
    main([*words, "--overwrite"])
    assert capsys.readouterr().out.count("wrote 1 scene(s)") == 2


def test_envi_scenes_without_a_place(tmp_path):
    paths = files(tmp_path)
    paths[:2] = [
        write_envi(tmp_path / f"{y}TM", image) for y, image in zip((0, 3), IMAGES, strict=True)
    ]
    label_scene(*paths, tmp_path / "out")
    assert np.array_equal(pixels(tmp_path / "out/A/0TM.tif"), IMAGES[0])


@pytest.mark.parametrize(
    ("city", "dates"),
    [
        ("Taizhou", ("2000TM", "2003TM")),
        ("Nanjing", ("LT51200382000124BJC00_Nanjing", "LT51200382002193BJC00_Nanjing")),
    ],
)
def test_real_landsat_scenes(tmp_path, city, dates):
    source = LANDSAT / city
    if not source.is_dir():
        pytest.skip(f"no {source}")
    paths = [source / name for name in (*dates, "change.bmp", "unchanged.bmp")]
    label_scene(*paths, tmp_path / "train", tile_px=200)
    scheme = binary_scheme(tmp_path)
    assert len(scheme.bands) == 6 and scheme.standardise == "bands"
    check_binary(tmp_path, scheme=scheme, progress=False)
    dataset = build_binary(
        tmp_path, "train", scheme=scheme, augment=Augment(crop_size=96), positive_crops=1.0,
        split_rule="every10th",
    )  # fmt: skip
    sample = dataset[0]
    assert sample.images.shape == (2, 6, 96, 96) and sample.images.abs().mean() < 5
    assert set(sample.change.unique().tolist()) <= {0, 1, IGNORE_INDEX}
    num_changed = sum(int((pixels(p) == 1).sum()) for p in (tmp_path / "train/label").iterdir())
    assert num_changed == np.count_nonzero(pixels(paths[2]))
