"""`python -m datasets.prepare COMMAND`."""

from datasets.prepare import main
from utils.cli import run

run(main)
