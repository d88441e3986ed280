import multiprocessing
import os
import pickle
import time

import numpy as np
import pytest

from datasets import cache
from datasets.cache import BlockOffsets, DiskCache, RamCache, disk_path, make_cache
from helpers.data_sets import second
from helpers.processes import two_processes
from helpers.tiny_data import make_second

SHAPES = [((2, 3, 4), (4,)), ((5,), (2, 2)), ((1,), (1,))]
LAYOUT = BlockOffsets(SHAPES)


def arrays(index, seed=0):
    rng = np.random.default_rng((seed, index))
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in SHAPES[index]]


def holds(store, indices=range(3)) -> bool:
    """Whether it gives back what was put in, without reading anew."""
    for index in indices:
        found = store.fetch(index, lambda: pytest.fail("read again"))
        assert all(np.array_equal(a, b) for a, b in zip(found, arrays(index), strict=True))
    return True


def test_gives_back_what_was_read_and_reads_once():
    store, reads = RamCache(LAYOUT), []
    for _ in range(2):
        for index in (1, 0, 2):
            found = store.fetch(index, lambda i=index: reads.append(i) or arrays(i))
            assert all(np.array_equal(a, b) for a, b in zip(found, arrays(index), strict=True))
    assert reads == [1, 0, 2]
    assert store.num_filled == 3


def test_arrays_have_their_types():
    types = [(np.dtype("float32"), np.dtype("uint8"))]
    layout = BlockOffsets([((2, 2), (3,))], types)
    values = [np.array([[0.5, -1], [2, np.inf]], np.float32), np.array([1, 2, 3], np.uint8)]
    for store in (RamCache(layout), RamCache(layout)):
        found = store.fetch(0, lambda: values)
        assert [a.dtype for a in found] == [*types[0]]
        assert all(np.array_equal(a, b) for a, b in zip(found, values, strict=True))


def test_states_its_memory():
    assert RamCache(LAYOUT).nbytes == 3 + (24 + 4) + (5 + 4) + (1 + 1)  # marks and bytes


def test_arrays_cannot_be_written_by_mistake(tmp_path):
    for store in (RamCache(LAYOUT), DiskCache(tmp_path / "a.tiles", LAYOUT, arrays)):
        for _ in range(2):
            with pytest.raises(ValueError, match="read-only"):
                store.fetch(0, lambda: arrays(0))[0][:] = 1


def test_failed_read_leaves_the_tile_unread():
    store = RamCache(LAYOUT)
    with pytest.raises(OSError):
        store.fetch(0, lambda: (_ for _ in ()).throw(OSError()))
    assert store.num_filled == 0


def test_other_shapes_than_announced_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="--cache"):
        RamCache(LAYOUT).fetch(0, lambda: arrays(1))
    with pytest.raises(ValueError, match="--cache"):
        DiskCache(tmp_path / "a.tiles", LAYOUT, lambda i: arrays(2 - i))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_what_a_forked_worker_reads_is_there_for_all():
    store = RamCache(LAYOUT)
    worker = multiprocessing.get_context("fork").Process(
        target=store.fetch, args=(0, lambda: arrays(0))
    )
    worker.start()
    worker.join(30)
    assert store.num_filled == 1 and holds(store, [0])


def test_too_little_memory_names_what_is_needed(monkeypatch):
    monkeypatch.setattr(cache, "available_memory", lambda: 2**30)
    with pytest.raises(MemoryError, match=r"--cache ram needs 4\.00 GiB, and 1\.00 GiB are free"):
        RamCache(BlockOffsets([((2**32,),)]))


def test_workers_that_are_not_forked_are_an_error():
    with pytest.raises(RuntimeError, match="--cache disk"):
        pickle.dumps(RamCache(LAYOUT))


# ------------------------------------------------------------------------------------ disk


def test_a_file_is_built_once_and_found_by_the_next_run(tmp_path):
    path, reads = tmp_path / "new" / "a.tiles", []
    assert holds(DiskCache(path, LAYOUT, lambda i: reads.append(i) or arrays(i)))
    assert sorted(reads) == [0, 1, 2] and path.stat().st_size == LAYOUT.nbytes
    again = DiskCache(path, LAYOUT, lambda i: pytest.fail("built again"))
    assert holds(again) and holds(pickle.loads(pickle.dumps(again)))  # workers that are not forked


def test_an_interrupted_build_leaves_no_file(tmp_path):
    def interrupted(index):
        if index == 2:
            raise KeyboardInterrupt
        return arrays(index)

    path = tmp_path / "a.tiles"
    with pytest.raises(KeyboardInterrupt):
        DiskCache(path, LAYOUT, interrupted)
    assert not path.exists()
    assert holds(DiskCache(path, LAYOUT, arrays))


def test_a_file_that_is_cut_off_is_built_anew(tmp_path):
    path = tmp_path / "a.tiles"
    DiskCache(path, LAYOUT, arrays)
    path.write_bytes(path.read_bytes()[:-1])
    assert holds(DiskCache(path, LAYOUT, arrays))


def test_a_full_disk_says_how_much_is_needed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left.*needs 0\.00 GiB.*--cache-dir"):
        DiskCache(tmp_path / "a.tiles", LAYOUT, arrays)
    assert list(tmp_path.iterdir()) == []


def test_changed_files_rules_or_layouts_get_a_file_of_their_own(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(b"1")
    before = disk_path("c", LAYOUT, [file], "rules")
    assert disk_path("c", LAYOUT, [file], "rules") == before
    assert disk_path("c", LAYOUT, [file], "others") != before
    assert disk_path("c", BlockOffsets(SHAPES[:2]), [file], "rules") != before
    time.sleep(0.01)
    file.write_bytes(b"2")
    assert disk_path("c", LAYOUT, [file], "rules") != before


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_data_set_gives_the_same_samples(tmp_path, kind):
    root = make_second(tmp_path / "data", train=3, size=16)
    plain = second(root)
    kept = second(root, cache=kind, cache_dir=tmp_path / "cache")
    for _ in range(2):
        for one, two in zip(plain, kept, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one[1:4], two[1:4], strict=True))
    assert len(list(tmp_path.glob("cache/*"))) == (kind == "disk")


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="choose ram or disk"):
        make_cache("tape", lambda: LAYOUT, arrays, list, settings=None)


RANKS = """
import sys
import numpy as np
from datasets.cache import BlockOffsets, RamCache
from utils import distributed
from utils.cli import run


def main():
    with distributed.session("cpu"):
        store, rank = RamCache(BlockOffsets([((4,),), ((4,),)])), distributed.rank()
        store.fetch(rank, lambda: [np.full(4, 7 + rank, np.uint8)])
        distributed.barrier()
        assert store.num_filled == 2, store.num_filled
        found = store.fetch(1 - rank, lambda: sys.exit("a copy of its own"))
        assert (found[0] == 8 - rank).all()


run(main)
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="anonymous files are Linux's")
@pytest.mark.slow
def test_all_ranks_of_a_machine_share_one_copy(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    two_processes(script)
