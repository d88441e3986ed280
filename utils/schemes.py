"""Schemes used by both data sets and published weights."""

from collections.abc import Sequence

from utils.structures import Scheme

WHITE = (255, 255, 255)

SECOND = Scheme(
    task="semantic_change",
    classes=("water", "ground", "low vegetation", "tree", "building", "sports field"),
    palette=(
        WHITE,  # unchanged
        (0, 0, 255),
        (128, 128, 128),
        (0, 128, 0),
        (0, 255, 0),
        (128, 0, 0),
        (255, 0, 0),
    ),
)

CHANGE_PALETTE = (WHITE, (220, 20, 60))  # unchanged, changed


def change_scheme(bands: Sequence[str], standardise: str) -> Scheme:
    """Binary change on `bands`; without standardisation ("none"), ImageNet's mean and std."""
    plain = () if standardise == "none" else (1.0, (0.0,) * len(bands), (1.0,) * len(bands))
    fields = dict(zip(("scale", "mean", "std"), plain, strict=False))
    return Scheme(
        "binary_change", (), CHANGE_PALETTE, tuple(bands), standardise=standardise, **fields
    )


NAIC2020 = Scheme(
    task="land_cover",
    classes=(
        "water",
        "transport",
        "building",
        "cropland",
        "grassland",
        "forest",
        "bare soil",
        "other",
    ),
    palette=(
        WHITE,
        (30, 100, 220),
        (90, 90, 90),
        (220, 40, 40),
        (250, 210, 80),
        (160, 220, 90),
        (20, 110, 40),
        (170, 110, 60),
        (190, 160, 210),
    ),
)

# bands of Sentinel-2 and Sentinel-1, in the order of their files
S2_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
S1_BANDS = ("VV", "VH")
S2_GROUPS = {  # by resolution: 10 m, 20 m, 60 m
    "s2hr": ("B2", "B3", "B4", "B8"),
    "s2mr": ("B5", "B6", "B7", "B8A", "B11", "B12"),
    "s2lr": ("B1", "B9", "B10"),
}
DFC_CLASSES = {
    "Forest": (0, 153, 0),
    "Shrubland": (198, 176, 68),
    "Savanna": (251, 255, 19),
    "Grassland": (182, 255, 5),
    "Wetlands": (39, 255, 135),
    "Croplands": (194, 79, 68),
    "Urban/Built-up": (165, 165, 165),
    "Snow/Ice": (105, 255, 248),
    "Barren": (249, 255, 164),
    "Water": (28, 13, 255),
}


def dfc_scheme(s1: bool, s2hr: bool, s2mr: bool, s2lr: bool, savanna: bool = True) -> Scheme:
    """DFC2020's land cover on groups of Sentinel bands scaled to 0..1.

    Order of the bands: Sentinel-2 as in its files, then Sentinel-1. Without `savanna`, that class
    is left out, and 9 remain.

    Raises:
        ValueError: no group is chosen.
    """
    chosen = {"s2hr": s2hr, "s2mr": s2mr, "s2lr": s2lr}
    optical = {band for group, wanted in chosen.items() if wanted for band in S2_GROUPS[group]}
    bands = tuple(b for b in S2_BANDS if b in optical) + (S1_BANDS if s1 else ())
    if not bands:
        raise ValueError(
            "no bands to read; pass at least one of --use-s1, --use-s2hr, --use-s2mr, --use-s2lr"
        )
    classes = {name: rgb for name, rgb in DFC_CLASSES.items() if savanna or name != "Savanna"}
    identity = {"scale": 1.0, "mean": (0.0,) * len(bands), "std": (1.0,) * len(bands)}
    return Scheme("land_cover", tuple(classes), (WHITE, *classes.values()), bands=bands, **identity)
