from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.transforms import (
    INVERSE,
    ORIENTATIONS,
    Augment,
    choose_orientations,
    copy_view,
    jitter,
    orient,
    random_crop,
    swap_dates,
)
from utils.structures import Sample


def painted(height=6, width=6, seed=0):
    """A sample whose labels are painted from its images, so that alignment can be checked."""
    rng = np.random.default_rng(seed)
    images = np.repeat(rng.integers(0, 6, (2, 1, height, width)), 3, 1).astype(np.uint8)
    return Sample("a", images, images[:, 0].copy(), (images[0, 0] != images[1, 0]).astype(np.uint8))


def to_tensors(sample):
    return Sample(sample.name, *(torch.from_numpy(np.array(x, order="C")) for x in sample[1:4]))


def same(a, b):
    return all(
        np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a[1:4], b[1:4], strict=True)
    )


def assert_aligned(sample):
    images = np.asarray(sample.images)
    assert np.array_equal(images[:, 0], np.asarray(sample.semantic))
    assert np.array_equal(images[0, 0] != images[1, 0], np.asarray(sample.change) == 1)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_orientation_moves_all_alike_and_has_an_inverse(name):
    sample = painted(6, 8)
    moved = orient(sample, name)
    assert_aligned(moved)
    assert same(orient(moved, INVERSE[name]), sample)
    assert same(orient(to_tensors(sample), name), moved)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize(
    "shape", [(2, 3, 96, 80), (0, 16, 8), (70, 130), (2, 1, 16), (1, 1), (3, 71, 69)]
)
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_view_is_copied_as_it_is_seen(name, shape, dtype):
    values = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    axis, turns = ORIENTATIONS[name]
    for tile in (values, values[..., 1:, 3:], values[..., ::2]):
        view = np.rot90(tile, turns, (-2, -1)) if axis is None else np.flip(tile, axis)
        for kind in (dtype, np.float64):
            out = np.full(view.shape, 7, kind)
            copy_view(out, view)
            assert np.array_equal(out, view)


@pytest.mark.parametrize(
    ("name", "transpose"),
    [
        ("flip_horizontal", Image.Transpose.FLIP_LEFT_RIGHT),
        ("flip_vertical", Image.Transpose.FLIP_TOP_BOTTOM),
        ("rot90", Image.Transpose.ROTATE_90),
        ("rot180", Image.Transpose.ROTATE_180),
        ("rot270", Image.Transpose.ROTATE_270),
    ],
)
def test_orientations_are_those_of_pillow(name, transpose):
    sample = painted(6, 8)
    expected = np.asarray(Image.fromarray(sample.change).transpose(transpose))
    assert np.array_equal(orient(sample, name).change, expected)


def test_all_six_orientations_occur_alike_often():
    sample = painted()
    seen = Counter()
    for index in range(1200):
        moved = Augment()(sample, np.random.default_rng((0, 0, index)))
        seen.update(name for name in ORIENTATIONS if same(moved, orient(sample, name)))
    assert set(seen) == set(ORIENTATIONS)  # 200 each expected, standard deviation 13
    assert all(140 < count < 260 for count in seen.values())


def test_swap_exchanges_dates_and_keeps_change():
    sample = painted()
    swapped = swap_dates(sample)
    assert_aligned(swapped)
    assert np.array_equal(swapped.images[0], sample.images[1])
    assert np.array_equal(swapped.change, sample.change)
    assert same(swap_dates(to_tensors(sample)), swapped)


def test_dates_are_swapped_half_the_time_if_asked_for():
    sample = painted()
    rng = np.random.default_rng(0)
    turns = [Augment(orient="none", swap_dates=True)(sample, rng) for _ in range(400)]
    swaps = sum(same(moved, swap_dates(sample)) for moved in turns)
    assert 150 < swaps < 250
    assert all(same(moved, sample) or same(moved, swap_dates(sample)) for moved in turns)


def test_crops_are_aligned_and_reach_every_corner():
    sample = painted(5, 6)._replace(name="t7")
    rng = np.random.default_rng(0)
    crops = [random_crop(sample, 4, rng) for _ in range(100)]
    for crop in crops:
        assert crop.images.shape == (2, 3, 4, 4)
        assert_aligned(crop)
    assert len({crop.images.tobytes() for crop in crops}) == 2 * 3  # every offset


def test_crop_larger_than_the_tile_names_the_flag_and_the_tile():
    with pytest.raises(ValueError, match=r"--crop-size 7 .*tile a \(6 x 8\).*at most 6"):
        random_crop(painted(6, 8), 7, np.random.default_rng(0))


def test_jitter_changes_each_date_by_itself_and_no_label():
    sample = painted()
    sample = sample._replace(images=np.full((2, 3, 6, 6), 100, np.uint8))
    moved = jitter(sample, 0.5, np.random.default_rng(0))
    first, second = (np.unique(date) for date in moved.images)
    assert len(first) == len(second) == 1 and first[0] != second[0]
    assert moved.images.dtype == np.uint8
    assert moved.semantic is sample.semantic and moved.change is sample.change


def test_jitter_never_reverses_grey_values():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (1, 3, 2, 256))
    sample = Sample("a", ramp, None, None)
    for seed in range(20):
        moved = jitter(sample, 1.0, np.random.default_rng(seed)).images.astype(int)
        assert (np.diff(moved, axis=-1) >= 0).all()


def test_jitter_of_tensors_and_arrays_is_the_same():
    sample = painted()
    moved = jitter(to_tensors(sample), 0.7, np.random.default_rng(3))
    assert torch.is_tensor(moved.images)
    assert same(moved, jitter(sample, 0.7, np.random.default_rng(3)))


def test_jitter_needs_8_bit_images():
    sample = painted()._replace(images=np.zeros((2, 3, 6, 6), np.float32))
    with pytest.raises(ValueError, match="--jitter works on 8-bit"):
        jitter(sample, 0.5, np.random.default_rng(0))


def test_all_options_together_stay_aligned_in_shape():
    augment = Augment(swap_dates=True, crop_size=4, jitter=0.3)
    moved = augment(painted(6, 8), np.random.default_rng(0))
    assert moved.images.shape == (2, 3, 4, 4) and moved.semantic.shape == (2, 4, 4)


@pytest.mark.parametrize("options", [{"crop_size": 0}, {"jitter": 1.5}, {"jitter": -0.1}])
def test_options_out_of_range_name_their_flag(options):
    with pytest.raises(ValueError, match=r"--(crop-size|jitter)"):
        Augment(**options)


def test_turns_and_flips_each_half_of_the_time_reach_all_eight_symmetries():
    rng, square = np.random.default_rng(0), np.arange(9).reshape(1, 3, 3)
    seen = Counter()
    for _ in range(8000):
        sample = Sample("a", square[None], square.astype(np.uint8), square[0])
        for name in choose_orientations("turn_flip", rng):
            sample = orient(sample, name)
        seen[sample.change.tobytes()] += 1
    assert len(seen) == 8
    # as it is: no turn (1/2 + 1/8) and no flip (1/2), or half a turn (1/8) and both flips (1/6)
    assert seen[square[0].tobytes()] / 8000 == pytest.approx(5 / 16 + 1 / 48, abs=0.02)


def test_no_orientation_is_ever_chosen_by_none():
    rng = np.random.default_rng(0)
    assert all(choose_orientations("none", rng) == [] for _ in range(100))
    with pytest.raises(ValueError, match="--orient 'some' must be one of six, turn_flip, none"):
        Augment(orient="some")


def test_oblong_tiles_keep_their_sides_unless_they_may_turn():
    images = np.arange(2 * 3 * 4 * 6, dtype=np.uint8).reshape(2, 3, 4, 6)
    sample = Sample("a", images, images[:, 0], images[0, 0])

    def shapes(augment):
        drawn = (augment(sample, np.random.default_rng(i)) for i in range(40))
        return {one.change.shape for one in drawn}

    assert shapes(Augment(turns_oblong=False)) == {(4, 6)}
    assert shapes(Augment()) == {(4, 6), (6, 4)}
    square = Sample("a", images[..., :4], images[:, 0, :, :4], images[0, 0, :, :4])
    for i in range(20):
        one, other = (
            Augment(turns_oblong=turns)(square, np.random.default_rng(i)) for turns in (False, True)
        )
        assert np.array_equal(one.images, other.images)
