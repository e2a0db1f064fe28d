"""Getting the data sets onto the disk (``sosr-det data prepare``) and checking them (``sosr-det data verify``).

Nothing here imports torch before an image is decoded.
"""

from sosr_det.data.prepare.catalogue import CATALOGUE, Archive, DatasetEntry, OfficialSplit, dataset_entry
from sosr_det.data.prepare.download import Patience
from sosr_det.data.prepare.prepare import PreparedDataset, prepare_dataset
from sosr_det.data.prepare.report import VerifyReport
from sosr_det.data.prepare.verify import verify_dataset

__all__ = [
    "CATALOGUE",
    "Archive",
    "DatasetEntry",
    "OfficialSplit",
    "Patience",
    "PreparedDataset",
    "VerifyReport",
    "dataset_entry",
    "prepare_dataset",
    "verify_dataset",
]
