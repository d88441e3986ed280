"""Windows cover a scene, and what is predicted in them is blended without seams."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.windows import joined
from inference.blending import Blender, ramp
from inference.prediction import finished_areas
from inference.predictor import Member, Predictor
from models.normalise import Normalise
from utils.rasters.windows import Window, along, windows_of
from utils.structures import Logits, Sample

SIZES = [(100, 100), (1, 1), (31, 64), (64, 64), (65, 64), (100, 237), (256, 40)]


def blend(height, width, tile_px, overlap_px, value_of, full=False) -> torch.Tensor:
    """A whole scene out of windows whose values `value_of(window)` gives."""
    blender = Blender(height, width, tile_px, overlap_px, full)
    windows = windows_of(height, width, tile_px, overlap_px, full)
    pieces = [blender.add(w, value_of(w)) for w in windows]
    return joined(height, width, pieces)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("tile_px", "overlap_px"), [(64, 0), (64, 16), (64, 30), (64, 32), (33, 7)]
)
def test_windows_cover_every_pixel_and_begin_inside(height, width, tile_px, overlap_px):
    seen = torch.zeros(height, width)
    for w in windows_of(height, width, tile_px, overlap_px):
        assert 0 <= w.top < height and 0 <= w.left < width
        seen[w.top : w.top + w.height, w.left : w.left + w.width] += 1
    assert seen.min() >= 1
    assert seen.max() == 1 or overlap_px


def test_a_short_side_makes_windows_shorter_in_steps_of_32():
    assert windows_of(20, 200, 64, 16)[0] == Window(0, 0, 32, 64)
    assert windows_of(20, 20, 512, 0) == [Window(0, 0, 32, 32)]
    assert windows_of(40, 40, 50, 0) == [Window(0, 0, 50, 50)]  # never above the tile


def test_full_windows_never_shrink():
    assert windows_of(20, 200, 64, 16, full=True)[0] == Window(0, 0, 64, 64)
    scene = blend(20, 100, 64, 0, lambda w: torch.full((1, w.height, w.width), 0.5), full=True)
    assert scene.shape == (1, 20, 100) and (scene == 0.5).all()


def test_windows_begin_at_equal_steps_until_one_reaches_the_end():
    # 100 px, tiles of 64 that share 16: the second, from 48 to 112, reaches the end
    assert along(100, 64, 16) == (64, [0, 48])
    assert along(113, 64, 16) == (64, [0, 48, 96])
    assert along(64, 64, 16) == (64, [0])


def test_windows_are_as_short_as_covers_the_scene():
    # 10,000 px need 11 windows of 1,024 that share 48; 11 of 960 are enough
    assert along(10_000, 1024, 48) == (960, [912 * i for i in range(11)])
    assert along(10_000, 1024, 48, full=True) == (1024, [976 * i for i in range(11)])
    assert along(1025, 1024, 48)[0] == 544


@pytest.mark.parametrize("overlap_px", [1, 2, 7, 16])
def test_neighbours_weights_add_up_to_one_where_they_overlap(overlap_px):
    weights = ramp(40, overlap_px)
    assert weights.min() > 0 and weights.max() <= 1
    assert (weights[1 : 1 + overlap_px] >= weights[:overlap_px]).all()
    torch.testing.assert_close(
        weights[-overlap_px:] + weights[:overlap_px], torch.ones(overlap_px), rtol=0, atol=1e-6
    )
    assert (weights[overlap_px : 40 - overlap_px] == 1).all()


@pytest.mark.parametrize("overlap_px", [-1, 33, 64])
def test_an_overlap_beyond_half_a_window_is_refused(overlap_px):
    with pytest.raises(ValueError, match=r"--overlap-px .* must lie in 0\.\.32"):
        windows_of(100, 100, 64, overlap_px)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap_px", [0, 16, 32])
def test_a_constant_stays_constant(height, width, overlap_px):
    scene = blend(height, width, 64, overlap_px, lambda w: torch.full((2, w.height, w.width), 0.3))
    torch.testing.assert_close(scene, torch.full((2, height, width), 0.3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_without_overlap_every_pixel_is_exactly_its_windows_value(height, width):
    generator = torch.Generator().manual_seed(0)
    scene = torch.zeros(1, height + 64, width + 64)
    parts = {}
    for w in windows_of(height, width, 64):
        parts[w] = torch.rand((1, w.height, w.width), generator=generator)
        scene[:, w.top : w.top + w.height, w.left : w.left + w.width] = parts[w]
    assert torch.equal(blend(height, width, 64, 0, parts.get), scene[:, :height, :width])


def test_where_windows_agree_their_overlap_changes_nothing():
    truth = torch.rand((3, 400, 300), generator=torch.Generator().manual_seed(0))
    scene = blend(
        200, 100, 64, 24, lambda w: truth[:, w.top : w.top + w.height, w.left : w.left + w.width]
    )
    torch.testing.assert_close(scene, truth[:, :200, :100], rtol=0, atol=1e-6)


def test_windows_that_disagree_leave_no_seam():
    # neighbouring windows are off by 0.05: with 128 px of overlap no step exceeds 0.05 / 64
    def level(w: Window) -> torch.Tensor:
        return torch.full((1, w.height, w.width), 0.4 + 0.05 * ((w.top // 128 + w.left // 128) % 2))

    scene = blend(600, 600, 256, 128, level)[0]
    steps = max((scene[1:] - scene[:-1]).abs().max(), (scene[:, 1:] - scene[:, :-1]).abs().max())
    assert steps <= 1e-3
    hard = blend(600, 600, 256, 0, lambda w: torch.full_like(level(w), float(w.top > 0)))[0]
    assert (hard[1:] - hard[:-1]).abs().max() == 1  # what it would be without overlap


class Smoothed(nn.Module):
    """P(changed) by a wide mean of date 1, zeros beyond the edges, as convolutions pad."""

    def forward(self, images: torch.Tensor) -> Logits:
        mean = nn.functional.avg_pool2d(images[:, 0], 31, 1, 15, count_include_pad=True)
        return Logits(None, 4 * mean[:, 0] - 2)


class Scenes:
    """Stands for SceneSamples: its windows, and unlabelled scenes with repeated edges."""

    def __init__(self, images, tile_px, overlap_px):
        self.images, self.reader, self.padding = images, self, "reflect"
        self.tile_px, self.overlap_px = tile_px, overlap_px
        self.names = [str(i) for i in range(len(images))]
        self.windows = [
            (i, w)
            for i, image in enumerate(images)
            for w in windows_of(*image.shape, tile_px, overlap_px)
        ]

    def in_use(self, scene):
        return Window(0, 0, *self.images[scene].shape)

    def labels(self, scene, window):
        return np.zeros((1, window.height, window.width), np.uint8)

    def tile(self, scene, w):
        padded = nn.functional.pad(
            self.images[scene][None, None], (0, 128, 0, 128), mode="replicate"
        )[0]
        tile = padded[:, w.top : w.top + w.height, w.left : w.left + w.width]
        return torch.stack([tile, tile])


def whole_scenes(images, tile_px, overlap_px, batch_size=3):
    """Scenes (H, W) predicted by Smoothed through `finished_areas`, their edges repeated."""
    network = Member(Smoothed(), Normalise(1.0, (0.0,), (1.0,)))
    data, predictor = Scenes(images, tile_px, overlap_px), Predictor([network], torch.device("cpu"))
    count = len(data.windows)
    keys = [list(range(k, min(k + batch_size, count))) for k in range(0, count, batch_size)]
    batches = SimpleNamespace(dataset=data, batch_sampler=[[(0, k) for k in ks] for ks in keys])
    predicted = []
    for ks in keys:
        tiles = torch.stack([data.tile(*data.windows[k]) for k in ks])
        blank = torch.zeros(len(ks), 0)
        names = [data.names[data.windows[k][0]] for k in ks]
        predicted.append((Sample(names, tiles, blank, blank), predictor(tiles)))
    found = {scene: torch.full(image.shape, torch.nan) for scene, image in enumerate(images)}
    for area in finished_areas(predicted, batches):
        for scene, change in zip(area.scenes, area.probs.change, strict=True):
            rows = slice(area.top, area.top + change.shape[0])
            columns = slice(area.left, area.left + change.shape[1])
            found[scene][rows, columns] = change[: len(found[scene]), : found[scene].shape[1]]
    return found


def test_a_smooth_scene_has_no_seam_at_the_borders_of_its_windows():
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(260.0), indexing="ij")
    image = 0.5 + 0.4 * torch.sin(y / 50) * torch.cos(x / 50)
    (whole,) = whole_scenes([image], 512, 0).values()
    (scene,) = whole_scenes([image], 128, 64).values()
    assert (scene - whole)[:200, :200].abs().max() < 1e-3  # far from where the padding differs
    (hard,) = whole_scenes([image], 128, 0).values()
    assert (hard - whole)[:200, :200].abs().max() > 0.1  # plain tiling shows every border


def test_scenes_of_several_sizes_share_batches_and_come_out_whole():
    sizes = [(64, 64), (64, 200), (130, 64)]
    images = [
        torch.rand(size, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(sizes)
    ]
    together = whole_scenes(images, 64, 0, batch_size=4)
    assert {i: tuple(s.shape) for i, s in together.items()} == dict(enumerate(sizes))
    for i, image in enumerate(images):
        assert torch.equal(whole_scenes([image], 64, 0)[0], together[i])


@pytest.mark.parametrize("length", range(380, 420, 3))
def test_no_more_than_two_windows_overlap(length):
    scene = blend(length, 300, 256, 128, lambda w: torch.full((1, w.height, w.width), 0.3))
    torch.testing.assert_close(scene, torch.full((1, length, 300), 0.3), rtol=0, atol=1e-6)
