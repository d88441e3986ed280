"""The benchmark of the data pipeline runs, and tells every kind of cache apart."""

import json

import pytest

from benchmarks import loading


@pytest.mark.slow
def test_every_cache_is_measured_and_written(tmp_path, capsys):
    words = ["--quick", "--num-workers", "0", "--epochs", "2"]
    loading.main([*words, "--out", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert list(rows) == list(loading.KINDS)
    for row in rows.values():
        assert row["later_pairs_per_s"] > 0 and row["memory_mib"] > 50
        assert row["bound_pairs_per_s"] > 0
    assert "\ndisk, again " in capsys.readouterr().out
