"""Why a detector's average precision is what it is: kinds of error, groups of objects, the worst images."""

from sosr_det.evaluation.errors.analysis import ErrorAnalysis, analyze_errors

__all__ = ["ErrorAnalysis", "analyze_errors"]
