"""Twins that differ in one thing, trained with the same seeds and batches: ``sosr-det compare``."""

from sosr_det.engine.compare.compare import CompareOptions, run_comparison
from sosr_det.engine.compare.study import Study, read_study

__all__ = ["CompareOptions", "Study", "read_study", "run_comparison"]
