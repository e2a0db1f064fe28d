"""Losses: pure functions and thin modules over them. Imports torch only."""

from sosr_det.losses.criteria import ConfidencePenalty, Criterion, CrossEntropy, OnlineLabelSmoothing
from sosr_det.losses.penalty import is_overconfident, sosr_penalty
from sosr_det.losses.schedules import CosineSchedule, LinearSchedule, Schedule
from sosr_det.losses.sosr import SOSRLoss, SOSRTerms
from sosr_det.losses.targets import MixedTarget, Target, expected_classes

__all__ = [
    "ConfidencePenalty",
    "CosineSchedule",
    "Criterion",
    "CrossEntropy",
    "LinearSchedule",
    "MixedTarget",
    "OnlineLabelSmoothing",
    "SOSRLoss",
    "SOSRTerms",
    "Schedule",
    "Target",
    "expected_classes",
    "is_overconfident",
    "sosr_penalty",
]
