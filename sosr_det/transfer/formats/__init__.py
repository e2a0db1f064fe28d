"""Export of registry entries into the files that other projects read."""

from sosr_det.transfer.formats.exporting import FORMATS, export_entry

__all__ = ["FORMATS", "export_entry"]
