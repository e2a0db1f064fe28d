"""What a comparison found: numbers, verdict, report and plots."""

from sosr_det.analysis.comparison.report import write_comparison

__all__ = ["write_comparison"]
