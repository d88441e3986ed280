import numpy as np
import pytest

from datasets.resize import fit_size, pad, resize_image, resize_label


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((256, 256), (512, 512)),
        ((512, 512), (512, 512)),
        ((100, 200), (256, 512)),
        ((600, 300), (512, 256)),
        ((3, 1000), (2, 512)),  # 1.536 + 0.5
    ],
)
def test_images_fit_into_the_square(size, fitted):
    assert fit_size(size, 512) == fitted


def test_bilinear_between_pixel_centres_with_edges_repeated():
    # 1-D: 0 100 -> 0, 0.75*0+0.25*100, 0.25*0+0.75*100, 100
    image = np.array([[[0, 100]]], np.uint8)
    assert resize_image(image, (1, 4)).tolist() == [[[0, 25, 75, 100]]]
    # both ways: the inner pixels weigh 9:3:3:1 of 16; 16 * 9/16 = 9
    image = np.array([[[16, 0], [0, 0]]], np.uint8)
    assert resize_image(image, (4, 4))[0].tolist() == [
        [16, 12, 4, 0],
        [12, 9, 3, 0],
        [4, 3, 1, 0],
        [0, 0, 0, 0],
    ]


def test_halves_are_rounded_up_and_nothing_is_smoothed():
    # 0 2 -> 0, 0.5, 1.5, 2
    assert resize_image(np.array([[[0, 2]]], np.uint8), (1, 4)).tolist() == [[[0, 1, 2, 2]]]
    # 8 -> 2 pixels: centres 1.5 and 5.5 of the old ones, two neighbours each
    row = np.array([[[9, 10, 20, 9, 9, 40, 60, 9]]], np.uint8)
    assert resize_image(row, (1, 2)).tolist() == [[[15, 50]]]


def test_fixed_point_rounds_as_opencv_does():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 3, 3), dtype=np.uint8)
    # made with cv2.resize(image[0], (7, 5)); plain rounding differs at 2 places
    expected = [
        [95, 100, 115, 130, 157, 185, 194],
        [144, 146, 153, 161, 182, 203, 210],
        [217, 216, 211, 207, 219, 231, 235],
        [96, 108, 144, 181, 152, 123, 114],
        [15, 36, 99, 163, 107, 52, 33],
    ]
    assert resize_image(image, (5, 7))[0].tolist() == expected


def test_an_exact_half_is_the_mean_of_four():
    image = np.array([[[0, 1, 10, 20], [2, 4, 30, 41]]], np.uint8)
    assert resize_image(image, (1, 2)).tolist() == [[[2, 25]]]  # (7 + 2) // 4, (101 + 2) // 4


def test_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (3, 7, 5)).astype(np.uint8)
    assert resize_image(image, (7, 5)) is image
    assert np.array_equal(resize_label(image[0], (7, 5)), image[0])


def test_labels_take_the_nearest_pixel_from_above():
    label = np.array([[1, 2, 255]], np.uint8)
    assert resize_label(label, (2, 6)).tolist() == [[1, 1, 2, 2, 255, 255]] * 2
    assert resize_label(label, (1, 4)).tolist() == [[1, 1, 2, 255]]  # floor(0 0.75 1.5 2.25)
    assert resize_label(label, (1, 2)).tolist() == [[1, 2]]  # floor(0 1.5)
    assert resize_label(label, (1, 1)).dtype == np.uint8


def test_padding_is_below_and_right():
    label = np.array([[1, 2]], np.uint8)
    assert pad(label, (2, 3), np.uint8(255)).tolist() == [[1, 2, 255], [255, 255, 255]]
    assert pad(label, (2, 3), np.uint8(255)).dtype == np.uint8
    image = np.full((2, 1, 1), 7, np.uint8)
    mean = np.array([0.5, 1.5], np.float32)[:, None, None]
    padded = pad(image, (1, 2), mean)
    assert padded.dtype == np.float32 and padded.tolist() == [[[7, 0.5]], [[7, 1.5]]]
