"""DatasetEntry of the demo data set: SECOND layout, generated on first use."""

from datasets.demo import ensure_demo
from datasets.second import SECOND_ENTRY

DEMO_ENTRY = SECOND_ENTRY._replace(
    root="data/demo", about="generated scenes, made on first use", make=ensure_demo
)
