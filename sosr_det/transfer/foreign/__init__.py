"""Import of other people's checkpoints: exact tensors, and nothing assumed that is not said."""

from sosr_det.transfer.foreign.importing import import_checkpoint
from sosr_det.transfer.foreign.report import ImportReport

__all__ = ["ImportReport", "import_checkpoint"]
