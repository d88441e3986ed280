"""The generated patches are what tests and recipes take them for."""

import numpy as np
import pytest
import rasterio

from datasets.sentinel.reader import IGBP_TO_DFC
from helpers.data_sets import builder
from helpers.sentinel_data import IGBP, LAYOUTS, SPECTRA, main, make_patch
from utils.schemes import dfc_scheme

build_dfc2020 = builder("dfc2020")
build_sen12ms = builder("sen12ms")
build_tiff_dir = builder("tiff_dir")

EVERYTHING = dfc_scheme(True, True, True, True)


def pixels(seed: int, count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Bands (15, N) and classes (N,) of some patches, without what is NaN."""
    patches = [
        make_patch(np.random.default_rng((seed, i)), 32, tuple(SPECTRA)) for i in range(count)
    ]
    bands = [np.concatenate([s2, s1]).reshape(15, -1) for s2, s1, _ in patches]
    bands, classes = np.concatenate(bands, 1), np.concatenate([t.ravel() for *_, t in patches])
    known = np.isfinite(bands).all(0)
    return bands[:, known], classes[known]


def average_accuracy(chosen: slice) -> float:
    """Of a Gaussian for each class, fitted to some patches and asked about others."""
    (train, train_classes), (test, test_classes) = pixels(0), pixels(1)
    scores = []
    for number in SPECTRA:
        of_class = train[chosen, train_classes == number]
        inverse = np.linalg.inv(np.cov(of_class))
        off = test[chosen] - of_class.mean(1, keepdims=True)
        scores.append(np.linalg.slogdet(inverse)[1] - (off * (inverse @ off)).sum(0))
    pred = np.argmax(scores, 0)
    return np.mean([(pred[test_classes == n] == n).mean() for n in np.unique(test_classes)])


def test_optical_bands_tell_all_classes_apart_and_radar_does_not():
    assert average_accuracy(slice(0, 15)) > 0.95
    assert 0.2 < average_accuracy(slice(13, 15)) < 0.5


def test_patches_are_as_sentinel_stores_them():
    optical, radar, classes = make_patch(np.random.default_rng(0), 64)
    assert (optical.shape, optical.dtype) == ((13, 64, 64), np.uint16)
    assert (radar.shape, radar.dtype) == ((2, 64, 64), np.float32)
    assert 0 < np.isnan(radar).mean() < 0.01
    assert classes.shape == (64, 64) and set(np.unique(classes)) <= {0, 5, 6, 9}


def test_stored_labels_stand_for_their_classes():
    assert sorted(IGBP) == sorted(SPECTRA) == list(range(10))
    assert all(IGBP_TO_DFC[i] == number + 1 for number, igbp in IGBP.items() for i in igbp)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_written_and_read(tmp_path, layout):
    main([str(tmp_path), "--layout", layout, "--patches", "9", "--size", "16"])
    build = {"sen12ms": build_sen12ms, "dfc2020": build_dfc2020, "tiff_dir": build_tiff_dir}
    parts = {"sen12ms": {"train": 6, "holdout": 3}, "dfc2020": {"val": 2, "test": 7}}
    places = []
    for part, count in parts.get(layout, {"test": 9}).items():
        dataset = build[layout](tmp_path, part, scheme=EVERYTHING)
        assert len(dataset) == count and dataset.labelled == (layout != "tiff_dir")
        assert dataset[0].images.shape == (1, 15, 16, 16)
        for name in dataset.names:
            for path, *_ in dataset.scene_of(name).dates[0]:
                with rasterio.open(path) as file:
                    assert file.crs.to_epsg() == 32637 and file.res == (10, 10)
                    places.append((file.bounds.left, file.bounds.top))
    assert len(set(places)) == 9 and len(places) == 18  # two files in each place


def test_seeds_give_other_patches(tmp_path):
    for seed in (0, 1):
        words = ["--patches", "2", "--size", "16", "--seed", str(seed)]
        main([str(tmp_path / str(seed)), "--layout", "tiff_dir", *words])
    one, two = (next((tmp_path / seed / "s1").iterdir()).read_bytes() for seed in "01")
    assert one != two
