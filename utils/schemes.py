"""Schemes that both data sets and published weights rely on."""

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
