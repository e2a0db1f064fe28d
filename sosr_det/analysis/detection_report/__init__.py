"""The report on a detector's errors that every test leaves: numbers, figures, pictures and one page."""

from sosr_det.analysis.detection_report.report import write_analysis, write_report

__all__ = ["write_analysis", "write_report"]
