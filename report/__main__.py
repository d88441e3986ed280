"""Entry point of `python -m report RUN_OR_MASK_DIR`."""

from report import main
from utils.cli import run

run(main)
