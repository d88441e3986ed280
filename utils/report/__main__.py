"""`python -m utils.report RUN_OR_MASK_DIR`."""

from utils.cli import run
from utils.report import main

run(main)
