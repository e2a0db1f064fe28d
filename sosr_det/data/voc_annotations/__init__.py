"""VOC annotations in bulk: thousands of XML files as flat arrays, fast, and from a cache that knows changed files."""

from sosr_det.data.voc_annotations.files import MissingAnnotationError
from sosr_det.data.voc_annotations.read import ReadAnnotations, read_annotations, read_folder
from sosr_det.data.voc_annotations.scan import find_voc_folders, scan_classes
from sosr_det.data.voc_annotations.table import AnnotationTable

__all__ = [
    "AnnotationTable",
    "MissingAnnotationError",
    "ReadAnnotations",
    "find_voc_folders",
    "read_annotations",
    "read_folder",
    "scan_classes",
]
