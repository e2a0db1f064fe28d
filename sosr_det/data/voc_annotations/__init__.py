"""VOC annotations in bulk: thousands of XML files as flat arrays, fast, and from a cache that knows changed files."""

from sosr_det.data.voc_annotations.files import MissingAnnotationError
from sosr_det.data.voc_annotations.read import ReadAnnotations, read_annotations
from sosr_det.data.voc_annotations.table import AnnotationTable

__all__ = ["AnnotationTable", "MissingAnnotationError", "ReadAnnotations", "read_annotations"]
