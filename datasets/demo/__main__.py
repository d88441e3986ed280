"""`python -m datasets.demo`."""

from datasets.demo import main
from utils.cli import run

run(main)
