"""Losses: pure functions and thin modules over them. Imports torch only."""

from sosr_det.losses.sosr import SOSRLoss, SOSRTerms, is_overconfident, sosr_penalty

__all__ = ["SOSRLoss", "SOSRTerms", "is_overconfident", "sosr_penalty"]
