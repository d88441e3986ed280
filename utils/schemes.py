"""Schemes that both data sets and published weights rely on."""

from collections.abc import Sequence

from utils.structures import Scheme

SECOND = Scheme(
    task="semantic_change",
    classes=("water", "ground", "low vegetation", "tree", "building", "sports field"),
    palette=(
        (255, 255, 255),  # unchanged
        (0, 0, 255),
        (128, 128, 128),
        (0, 128, 0),
        (0, 255, 0),
        (128, 0, 0),
        (255, 0, 0),
    ),
)

CHANGE_PALETTE = ((255, 255, 255), (220, 20, 60))  # unchanged, changed


def change_scheme(bands: Sequence[str], standardise: str) -> Scheme:
    """Binary change on some bands; plain 8-bit colours ("none") as ImageNet has them."""
    plain = () if standardise == "none" else (1.0, (0.0,) * len(bands), (1.0,) * len(bands))
    fields = dict(zip(("scale", "mean", "std"), plain, strict=False))
    return Scheme(
        "binary_change", (), CHANGE_PALETTE, tuple(bands), standardise=standardise, **fields
    )
