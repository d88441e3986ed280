"""The benchmark of many tiles runs, and takes start-up off the cost of a tile."""

import json

import pytest

from benchmarks import many_tiles


@pytest.mark.slow
def test_both_scripts_are_measured_and_written(tmp_path, capsys):
    many_tiles.main(["--quick", "--out", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert list(rows) == ["1", "20"]
    for row in rows.values():
        assert list(row) == list(many_tiles.KINDS)
        for kind in row.values():
            assert kind["seconds"] > 0 and kind["cpu_seconds"] > 0 and kind["memory_mib"] > 50
    assert "\nlabel, done       20 " in capsys.readouterr().out


def test_a_tile_costs_what_a_run_takes_longer_than_the_one_before():
    seconds = {1: 3.0, 11: 4.0, 111: 24.0}
    rows = {
        count: {kind: {"seconds": s, "cpu_seconds": s / 2} for kind in many_tiles.KINDS}
        for count, s in seconds.items()
    }
    many_tiles.add_costs(rows)
    assert "ms_per_tile" not in rows[1]["test"]
    assert [rows[n]["label"]["ms_per_tile"] for n in (11, 111)] == [100, 200]
    assert rows[111]["test"]["cpu_ms_per_tile"] == 100
