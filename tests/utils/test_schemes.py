"""Schemes of land cover."""

import itertools

import pytest

from utils.schemes import DFC_CLASSES, NAIC2020, S2_BANDS, dfc_scheme


def test_bands_of_each_group_have_the_published_places_in_the_file():
    # 1-based, in a file of 13 bands
    places = {
        "s2hr": [2, 3, 4, 8],
        "s2mr": [5, 6, 7, 9, 12, 13],
        "s2lr": [1, 10, 11],
    }
    for group, expected in places.items():
        chosen = {name: name == group for name in places}
        scheme = dfc_scheme(s1=False, **chosen)
        assert [S2_BANDS.index(band) + 1 for band in scheme.bands] == expected
    assert dfc_scheme(True, False, False, False).bands == ("VV", "VH")


@pytest.mark.parametrize("chosen", list(itertools.product([False, True], repeat=4))[1:])
def test_optical_bands_come_in_the_order_of_the_file_then_radar(chosen):
    s1, hr, mr, lr = chosen
    scheme = dfc_scheme(s1, hr, mr, lr)
    optical = [S2_BANDS.index(b) for b in scheme.bands if b in S2_BANDS]
    assert optical == sorted(optical) and len(optical) == 4 * hr + 6 * mr + 3 * lr
    assert scheme.bands[len(optical) :] == (("VV", "VH") if s1 else ())
    assert (scheme.scale, set(scheme.mean), set(scheme.std)) == (1.0, {0.0}, {1.0})
    assert len(scheme.mean) == len(scheme.std) == len(scheme.bands)


def test_the_twelve_bands_of_the_published_network():
    expected = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "VV", "VH"]
    assert list(dfc_scheme(s1=True, s2hr=True, s2mr=True, s2lr=False).bands) == expected


def test_no_group_is_an_error_with_the_flags():
    with pytest.raises(ValueError, match="--use-s1, --use-s2hr, --use-s2mr, --use-s2lr"):
        dfc_scheme(False, False, False, False)


def test_classes_and_colours_are_the_published_ones():
    scheme = dfc_scheme(True, True, True, True)
    assert scheme.classes == (
        "Forest",
        "Shrubland",
        "Savanna",
        "Grassland",
        "Wetlands",
        "Croplands",
        "Urban/Built-up",
        "Snow/Ice",
        "Barren",
        "Water",
    )
    published = "ffffff 009900 c6b044 fbff13 b6ff05 27ff87 c24f44 a5a5a5 69fff8 f9ffa4 1c0dff"
    assert scheme.palette == tuple(tuple(bytes.fromhex(rgb)) for rgb in published.split())


def test_without_savanna_that_class_and_its_colour_are_gone():
    full, less = dfc_scheme(True, True, True, True), dfc_scheme(True, True, True, True, False)
    assert less.num_classes == 9 and "Savanna" not in less.classes
    colours = dict(zip(full.classes, full.palette[1:], strict=True))
    assert dict(zip(less.classes, less.palette[1:], strict=True)) == {
        name: rgb for name, rgb in colours.items() if name != "Savanna"
    }
    assert less.palette[0] == (255, 255, 255) and DFC_CLASSES["Savanna"] == (251, 255, 19)


@pytest.mark.parametrize("scheme", [NAIC2020, dfc_scheme(True, False, False, False)])
def test_land_cover_is_of_one_date_and_every_class_has_a_colour_of_its_own(scheme):
    assert scheme.task == "land_cover" and scheme.num_dates == 1
    assert len(set(scheme.palette)) == scheme.num_classes + 1


def test_naic_has_eight_classes_and_imagenets_normalisation():
    assert NAIC2020.num_classes == 8
    mean, std = ([255 * x for x in values] for values in (NAIC2020.mean, NAIC2020.std))
    assert mean == pytest.approx([123.675, 116.28, 103.53])
    assert std == pytest.approx([58.395, 57.12, 57.375])
