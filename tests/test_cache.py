import multiprocessing
import pickle

import numpy as np
import pytest

from datasets import cache
from datasets.cache import RamCache

SHAPES = [((2, 3, 4), (4,)), ((5,), (2, 2)), ((1,), (1,))]


def arrays(index, seed=0):
    rng = np.random.default_rng((seed, index))
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in SHAPES[index]]


def test_gives_back_what_was_read_and_reads_once():
    store, reads = RamCache(SHAPES), []
    for _ in range(2):
        for index in (1, 0, 2):
            found = store.fetch(index, lambda i=index: reads.append(i) or arrays(i))
            assert all(np.array_equal(a, b) for a, b in zip(found, arrays(index), strict=True))
    assert reads == [1, 0, 2]
    assert store.num_filled == 3


def test_states_its_memory():
    assert RamCache(SHAPES).nbytes == 3 + (24 + 4) + (5 + 4) + (1 + 1)  # marks and bytes


def test_arrays_cannot_be_written_by_mistake():
    store = RamCache(SHAPES)
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            store.fetch(0, lambda: arrays(0))[0][:] = 1


def test_failed_read_leaves_the_tile_unread():
    store = RamCache(SHAPES)
    with pytest.raises(OSError):
        store.fetch(0, lambda: (_ for _ in ()).throw(OSError()))
    assert store.num_filled == 0


def test_other_shapes_than_announced_are_an_error():
    with pytest.raises(ValueError, match="--cache ram"):
        RamCache(SHAPES).fetch(0, lambda: arrays(1))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_what_a_forked_worker_reads_is_there_for_all():
    store = RamCache(SHAPES)
    worker = multiprocessing.get_context("fork").Process(
        target=store.fetch, args=(0, lambda: arrays(0))
    )
    worker.start()
    worker.join(30)
    assert store.num_filled == 1
    found = store.fetch(0, lambda: pytest.fail("read again"))
    assert all(np.array_equal(a, b) for a, b in zip(found, arrays(0), strict=True))


def test_too_little_memory_names_what_is_needed(monkeypatch):
    monkeypatch.setattr(cache, "available_memory", lambda: 2**30)
    with pytest.raises(MemoryError, match=r"--cache ram needs 4\.00 GiB, and 1\.00 GiB are free"):
        RamCache([((2**32,),)])


def test_workers_that_are_not_forked_are_an_error():
    with pytest.raises(RuntimeError, match="--num-workers 0"):
        pickle.dumps(RamCache(SHAPES))
