import multiprocessing
import threading
import time

import pytest
import torch
from torch.utils.data import Dataset

from datasets.cache import RamCache
from datasets.loader import (
    PREFETCH,
    EpochBatches,
    ThreadedLoader,
    collate,
    eval_loader,
    train_loader,
)
from datasets.transforms import Augment
from helpers.data_sets import second
from utils.structures import Sample, to_device

needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here"
)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


class Counted(Dataset):
    """Tile i of epoch e is full of 10 e + i; notes what was read."""

    def __init__(self, num_tiles, sizes=None):
        self.sizes = sizes or [4] * num_tiles
        self.read = []

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, key):
        (epoch, index), size = key, self.sizes[key[1]]
        self.read.append(key)
        images = torch.full((2, 3, size, size), 10 * epoch + index, dtype=torch.uint8)
        return Sample(str(index), images, images[:, 0].long(), images[0, 0].long())


def batches(num_tiles=22, batch_size=4, epoch=0, start=0, **options):
    sampler = EpochBatches(num_tiles, batch_size, seed=3, **options)
    sampler.set_epoch(epoch, start)
    return [[index for _, index in batch] for batch in sampler]


def test_an_epoch_holds_each_tile_at_most_once_and_drops_the_rest():
    found = [index for batch in batches() for index in batch]
    assert len(found) == len(set(found)) == 20
    assert set(found) <= set(range(22))


def test_order_depends_on_seed_and_epoch_only():
    assert batches(epoch=2) == batches(epoch=2)
    assert batches(epoch=2) != batches(epoch=3)
    torch.manual_seed(0)
    first = batches()
    torch.manual_seed(1)
    assert batches() == first
    assert [[i for _, i in batch] for batch in EpochBatches(22, 4, seed=4)] != first


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_take_the_same_global_batches(world):
    shards = [batches(rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(batches()):
        for rank in range(world):
            assert shards[rank][step] == whole[rank::world]


def test_resuming_at_a_step_gives_the_rest_and_reads_no_more():
    dataset = Counted(22)
    loader = train_loader(dataset, 4, seed=3)
    loader.batch_sampler.set_epoch(1, start_step=3)
    names = [batch.name for batch in loader]
    assert names == [[str(i) for i in batch] for batch in batches(epoch=1)[3:]]
    assert len(dataset.read) == 2 * 4
    assert len(loader) == 5


@pytest.mark.parametrize(
    ("size", "world", "match"),
    [(3, 4, "at least 4"), (0, 1, "--batch-size 0"), (23, 1, "at most 22")],
)
def test_batch_size_that_does_not_fit_names_the_flag(size, world, match):
    with pytest.raises(ValueError, match=match):
        train_loader(Counted(22), size, world=world)


def test_batch_has_a_leading_axis_and_names():
    batch = next(iter(eval_loader(Counted(5), 3)))
    assert batch.name == ["0", "1", "2"]
    assert batch.images.shape == (3, 2, 3, 4, 4) and batch.images.dtype == torch.uint8
    assert batch.semantic.shape == (3, 2, 4, 4) and batch.change.shape == (3, 4, 4)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_reads_every_tile_once_on_any_number_of_ranks(world, batch_size):
    names = []
    for rank in range(world):
        mine = [
            n for b in eval_loader(Counted(7), batch_size, rank=rank, world=world) for n in b.name
        ]
        assert mine == [str(index) for index in range(7)[rank::world]]
        names += mine
    assert sorted(names) == [str(index) for index in range(7)]


@pytest.mark.parametrize("side", [512, 1024, 1536, 6000])
def test_large_tiles_come_fewer_at_a_time(side):
    tiles = Counted(9)
    for sizes in ([(side, side)] * 9, [((side, side), (7, 7))] * 9):
        tiles.tile_sizes = sizes
        found = [len(batch) for batch in eval_loader(tiles, 9).batch_sampler]
        assert sum(found) == 9
        assert max(found) == {512: 9, 1024: 2, 1536: 1, 6000: 1}[side]


def test_tiles_of_different_sizes_are_named_with_the_remedy():
    with pytest.raises(ValueError, match=r"0 3x4x4, 1 3x8x8.*--crop-size.*batch size of 1"):
        collate([Counted(2, [4, 8])[0, index] for index in (0, 1)])
    assert len(list(eval_loader(Counted(2, [4, 8]), 1))) == 2


def test_loading_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(train_loader(Counted(8), 4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("tiles", "processes"), [(0, 0), (4, 0), (8, 2)])
def test_no_more_processes_read_than_there_are_batches_and_none_a_single_one(tiles, processes):
    assert eval_loader(Counted(tiles), 4, num_workers=3).num_workers == processes


@needs_fork
def test_workers_live_on_and_follow_the_epoch():
    loader = train_loader(Counted(8), 4, num_workers=2)
    for epoch in (0, 1, 2):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            expected = [10 * epoch + int(name) for name in batch.name]
            assert batch.images[:, 0, 0, 0, 0].tolist() == expected


@needs_fork
def test_workers_ranks_and_cache_do_not_change_what_is_trained_on(second_root):
    root = second_root(train=6, size=16)
    augment = Augment(swap_dates=True, crop_size=12, jitter=0.5)

    def epoch_tiles(num_workers=0, cache=None, world=1):
        tiles = {}
        for rank in range(world):
            dataset = second(root, augment=augment, seed=5, cache=cache)
            loader = train_loader(
                dataset, 2, seed=1, rank=rank, world=world, num_workers=num_workers
            )
            for epoch in (0, 1):
                loader.batch_sampler.set_epoch(epoch)
                for batch in loader:
                    for name, *values in zip(*batch[:4], strict=True):
                        tiles[epoch, name] = [value.tolist() for value in values]
        return tiles

    plain = epoch_tiles()
    assert len(plain) == 12
    assert plain == epoch_tiles(num_workers=2, cache="ram")
    assert plain == epoch_tiles(world=2)


@needs_fork
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_labels_travel_as_bytes_and_arrive_as_int64(second_root, tmp_path, cache, num_workers):
    augment = Augment(swap_dates=True, jitter=0.5)
    options = {"augment": augment, "seed": 5, "cache": cache, "cache_dir": tmp_path / "cache"}
    dataset = second(second_root(train=13, size=16), **options)
    loader = train_loader(dataset, 4, seed=1, num_workers=num_workers)
    assert isinstance(loader, ThreadedLoader) == (num_workers > 0 and cache is not None)
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        keys = list(loader.batch_sampler)
        assert len(keys) == len(loader) == 3
        for batch, batch_keys in zip(loader, keys, strict=True):
            assert all(tensor.dtype == torch.uint8 for tensor in batch[1:4])
            batch = to_device(batch, torch.device("cpu"))
            assert batch.semantic.dtype == batch.change.dtype == torch.int64
            expected = collate([dataset[key] for key in batch_keys])
            assert batch.name == expected.name
            for found, alone in zip(batch[1:4], expected[1:4], strict=True):
                assert found.dtype == alone.dtype and torch.equal(found, alone)


class Slow(Counted):
    """Kept in a cache, so that threads read it; the earlier a tile, the longer that takes."""

    cache = True

    def __getitems__(self, keys):
        time.sleep(0.002 * (len(self) - keys[0][1]))
        return [self[key] for key in keys]


def test_threads_keep_the_order_and_read_only_so_far_ahead():
    dataset = Slow(24)
    loader = eval_loader(dataset, 2, num_workers=3)
    for begun, batch in enumerate(loader, start=1):
        assert batch.name == [str(2 * begun - 2), str(2 * begun - 1)]
        assert len(dataset.read) <= 2 * (3 * PREFETCH + begun)
    assert begun == len(loader) == 12


def test_threads_end_when_the_epoch_is_left():
    dataset = Slow(24)
    for _ in eval_loader(dataset, 2, num_workers=2):
        break
    count = len(dataset.read)
    time.sleep(0.1)
    assert len(dataset.read) == count < 24
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())


def test_an_error_in_a_thread_is_raised_as_it_is():
    dataset = Slow(6, sizes=[4, 4, 4, 8, 4, 4])
    batches = iter(eval_loader(dataset, 2, num_workers=2))
    assert next(batches).name == ["0", "1"]
    with pytest.raises(ValueError, match="--crop-size"):
        next(batches)


def test_a_batch_of_two_types_has_the_wider_one():
    bytes_, floats = (
        Sample("a", torch.full((2, 3, 4, 4), 7, dtype=dtype), *torch.zeros(2, 4, 4).byte())
        for dtype in (torch.uint8, torch.float32)
    )
    batch = collate([bytes_, floats])
    assert batch.images.dtype == torch.float32 and (batch.images == 7).all()


@needs_fork
def test_workers_fill_the_cache_for_all(second_root):
    dataset = second(second_root(train=4, size=16), cache="ram")
    assert isinstance(dataset.cache, RamCache)
    for _ in eval_loader(dataset, 2, num_workers=2):
        pass
    assert dataset.cache.num_filled == 4
