"""The reading benchmark runs, and compares readings that give the same."""

import json

import numpy as np
import pytest

from benchmarks import reading
from helpers.data_sets import builder
from utils.schemes import dfc_scheme

build_sen12ms = builder("sen12ms")


@pytest.fixture
def dataset(tmp_path):
    reading.write_patches(tmp_path, 2, 32, reading.FILES["strips"])
    return build_sen12ms(tmp_path, "train", scheme=dfc_scheme(True, True, False, False))


def test_everything_is_measured_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading, "FOLDERS", 4)
    monkeypatch.setattr(reading, "FILES", {"strips": {}, "lzw": {"compress": "lzw"}})
    monkeypatch.setattr(reading, "GROUPS", {"s1": (True, False, False, False)})
    reading.main(["--quick", "--out", str(tmp_path / "a.json")])
    result = json.loads((tmp_path / "a.json").read_text())
    assert [(row["files"], row["bands"]) for row in result["rows"]] == [
        ("strips", "s1"),
        ("lzw", "s1"),
    ]
    for row in result["rows"]:
        for side in ("plain", "plain_chosen"):
            assert 0 < row[f"lowest_{side}"] <= row[f"highest_{side}"]
    shown = capsys.readouterr().out
    assert "\nlzw  " in shown and "\nindex of 8 files: " in shown


@pytest.mark.parametrize("every", [True, False])
def test_both_sides_read_the_same(dataset, every):
    reading.refuse_differences(dataset)
    image, classes = reading.plain_item(dataset, 1, every)
    assert image.shape == (6, 32, 32) and image.dtype == np.float32
    assert np.allclose(image, dataset[1].images[0], atol=1e-6)
    assert np.array_equal(classes, dataset[1].semantic[0])


def test_sides_that_differ_are_refused(dataset, monkeypatch):
    monkeypatch.setattr(reading, "IGBP_TO_DFC", (0,) * 18)
    with pytest.raises(ValueError, match="both sides must read the same"):
        reading.refuse_differences(dataset)


@pytest.mark.parametrize("cold", [False, True])
def test_every_side_reads_every_patch_before_the_next(dataset, cold):
    calls = []
    sides = {side: lambda i, side=side: calls.append((i, side)) for side in "ab"}
    seconds = reading.take_turns(sides, dataset, cold)
    assert calls == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert set(seconds) == {"a", "b"} and all(s > 0 for s in seconds.values())
