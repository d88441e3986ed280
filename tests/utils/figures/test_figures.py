import numpy as np
import pytest

from utils.figures.panels import (
    GHOST,
    GHOST_RANGE,
    PANEL_PX,
    UNLABELLED,
    colourise,
    comparison,
    for_tensorboard,
    ghost,
    legend_entries,
    overlay,
)
from utils.structures import Scheme

PALETTE = ((255, 255, 255), (0, 0, 255), (128, 128, 128), (200, 0, 17))
SEMANTIC = Scheme("semantic_change", ("water", "ground", "building"), PALETTE)
BINARY = Scheme("binary_change", (), ((255, 255, 255), (214, 39, 40)))
LAND_COVER = SEMANTIC._replace(task="land_cover")


def tile(dates: int = 2, size: tuple[int, int] = (64, 64)) -> tuple[np.ndarray, np.ndarray]:
    """Images (T, H, W, 3) without a colour of the palette, and masks with classes 1 and 3."""
    rng = np.random.default_rng(0)
    images = rng.integers(60, 90, (dates, *size, 3), dtype=np.uint8)
    masks = np.zeros((dates, *size), np.uint8)
    masks[:, 8:24, 8:40] = 1
    masks[-1, 40:60, 40:60] = 3
    return images, masks


def count(figure: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(figure) == colour).all(-1).sum())


def test_colourise_looks_colours_up():
    mask = np.array([[0, 1], [3, 255]])
    expected = [[PALETTE[0], PALETTE[1]], [PALETTE[3], PALETTE[0]]]
    assert colourise(mask, PALETTE).tolist() == np.array(expected).tolist()


def test_overlay_keeps_class_colours_exact_and_the_rest_pale_grey():
    images, masks = tile()
    picture = overlay(images[1], masks[1], PALETTE)
    np.testing.assert_array_equal(picture[masks[1] == 3], [PALETTE[3]] * 400)
    rest = picture[masks[1] == 0]
    assert (rest == rest[:, :1]).all() and rest.min() >= GHOST_RANGE[0]
    none = overlay(images[1], masks[1] * 0, PALETTE)
    np.testing.assert_array_equal(none[..., :1], ghost(images[1]))


def test_unlabelled_pixels_are_grey_and_in_the_legend_only_where_there_is_any():
    images, masks = tile()
    truth = masks.copy()
    truth[:, 50:, :20] = 255
    assert (overlay(images[1], truth[1], PALETTE)[50:, :20] == UNLABELLED).all()
    labelled, partly = (
        count(comparison(images, masks, t, SEMANTIC), UNLABELLED) for t in (masks, truth)
    )
    assert labelled == 0 and partly > 2 * 14 * 20 * 16


def test_ghost_is_as_pale_for_a_dark_image_as_for_a_bright_one():
    images, _ = tile()
    dark, bright = ghost(images[0] // 3), ghost(images[0] * 2)
    assert abs(float(dark.mean()) - float(bright.mean())) < 4
    assert GHOST_RANGE[0] <= GHOST[0] <= GHOST_RANGE[1]
    assert ghost(np.zeros_like(images[0])).shape == (64, 64, 1)  # no contrast, no division by zero


def test_every_class_of_the_scheme_is_in_the_legend():
    images, masks = tile()
    without = count(comparison(images, masks * 0, None, SEMANTIC), PALETTE[3])
    assert without > 100  # the swatch alone
    assert [text for _, text in legend_entries(SEMANTIC)] == ["unchanged", *SEMANTIC.classes]
    assert legend_entries(LAND_COVER) == list(zip(PALETTE[1:], LAND_COVER.classes, strict=True))
    assert [text for _, text in legend_entries(BINARY)] == ["unchanged", "changed"]


def test_prediction_and_truth_are_each_drawn_once_per_date():
    images, masks = tile()
    scale = PANEL_PX[0] // 64
    swatch = count(comparison(images, masks * 0, None, SEMANTIC), PALETTE[3])
    area = 400 * scale**2  # class 3 at date 2 only
    assert count(comparison(images, masks, None, SEMANTIC), PALETTE[3]) == swatch + area
    assert count(comparison(images, masks, masks, SEMANTIC), PALETTE[3]) == swatch + 2 * area


def test_dates_stand_one_above_the_other_and_truth_right_of_prediction():
    images, masks = tile()
    figure = np.asarray(comparison(images, masks, masks, SEMANTIC))
    rows, columns = np.nonzero((figure == PALETTE[3]).all(-1))
    in_panels = rows < rows.max() - 60  # the legend is at the foot
    assert rows[in_panels].min() > PANEL_PX[0]
    assert np.ptp(columns[in_panels]) > PANEL_PX[0]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("scheme", "dates", "maps"), [
    (SEMANTIC, 2, 2), (BINARY, 2, 1), (LAND_COVER, 1, 1),
])  # fmt: skip
def test_every_task_with_and_without_truth_makes_a_figure(scheme, dates, maps, known):
    images, masks = tile(dates)
    masks = np.minimum(masks[-maps:], len(scheme.palette) - 1)
    figure = comparison(images, masks, masks if known else None, scheme, "tile 7")
    panels = (dates if maps < dates else 1) + (2 if known else 1)
    assert figure.mode == "RGB" and panels * PANEL_PX[0] < figure.width < panels * 320
    assert count(figure, scheme.palette[1]) > 100


@pytest.mark.parametrize("size", [(16, 16), (100, 60), (700, 700), (300, 1200)])
def test_small_and_large_tiles_give_figures_of_readable_size(size):
    images, masks = tile(size=size)
    figure = comparison(images, masks, masks, SEMANTIC, "a")
    assert 3 * PANEL_PX[0] < figure.width < 3 * PANEL_PX[1] + 200


def test_a_title_takes_room_of_its_own():
    images, masks = tile()
    plain, titled = (comparison(images, masks, None, SEMANTIC, title) for title in ("", "tile 7"))
    assert titled.height > plain.height and titled.width == plain.width


def test_tensorboard_gets_the_same_pixels_channels_first():
    images, masks = tile()
    array = for_tensorboard(images, masks, masks, SEMANTIC, "a")
    assert array.dtype == np.uint8 and array.flags.c_contiguous
    figure = np.asarray(comparison(images, masks, masks, SEMANTIC, "a"))
    np.testing.assert_array_equal(array.transpose(1, 2, 0), figure)


def test_masks_of_another_size_are_an_error():
    images, masks = tile()
    with pytest.raises(ValueError, match=r"prediction .* does not lie on images"):
        comparison(images, masks[:, :-1], None, SEMANTIC)
    with pytest.raises(ValueError, match=r"truth .* does not lie on images"):
        comparison(images, masks, masks[:, :-1], SEMANTIC)
