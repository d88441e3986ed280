"""Data sets by name. To add one, write a file with its DatasetEntry and add a line here."""

from datasets.binary import BINARY_ENTRY
from datasets.demo.tiles import DEMO_ENTRY
from datasets.entry import DatasetEntry
from datasets.folder import FOLDER_ENTRY
from datasets.naic2020.data_set import NAIC2020_ENTRY
from datasets.pairs import PAIRS_ENTRY
from datasets.rucode.data_set import RUCODE_ENTRY
from datasets.second import SECOND_ENTRY
from datasets.sentinel.data_sets import DFC2020_ENTRY, SEN12MS_ENTRY, TIFF_DIR_ENTRY

__all__ = ["DATASETS"]

DATASETS: dict[str, DatasetEntry] = {
    "second": SECOND_ENTRY,
    "demo": DEMO_ENTRY,
    "pairs": PAIRS_ENTRY,
    "binary": BINARY_ENTRY,
    "rucode": RUCODE_ENTRY,
    "folder": FOLDER_ENTRY,
    "naic2020": NAIC2020_ENTRY,
    "sen12ms": SEN12MS_ENTRY,
    "dfc2020": DFC2020_ENTRY,
    "tiff_dir": TIFF_DIR_ENTRY,
}
