"""How long a run will take and how much it will write, from what a few of its steps did."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_LOG_BYTES = 50 * 2**20  # logs, curves and the record


@dataclass(frozen=True)
class Work:
    """What lies before a run.

    Attributes:
        steps: training steps.
        validations: complete passes over the validation data.
        batches_per_validation: of one process.
    """

    steps: int
    validations: int
    batches_per_validation: int


def run_seconds(
    work: Work, seconds_per_step: float, validation_batches: Sequence[float]
) -> tuple[float, float]:
    """Seconds of the training steps, and of one validation.

    Args:
        work: what lies before the run.
        seconds_per_step: with data loading.
        validation_batches: seconds of the batches that were validated; the first one counts once, as it does in every
            validation, and the median of the others for the rest. Empty where there is no validation.
    """
    one = 0.0
    if validation_batches and work.batches_per_validation:
        first, *others = validation_batches
        one = first + (work.batches_per_validation - 1) * (statistics.median(others) if others else first)
    return work.steps * seconds_per_step, one


def disk_bytes(
    checkpoint_bytes: int, weights_bytes: int, *, kept: int, saves: int, best: int
) -> tuple[int, int]:
    """Bytes of the checkpoints when the run is done, and the most that they take meanwhile, logs included.

    Args:
        checkpoint_bytes: one that the run can go on from.
        weights_bytes: one of the weights alone, as the best one is.
        kept: ``max_keep_ckpts``; -1 keeps all.
        saves: how often the run saves.
        best: how many best ones are kept.
    """
    remaining = saves if kept < 0 else min(kept, saves)
    in_the_end = remaining * checkpoint_bytes + best * weights_bytes + _LOG_BYTES
    # A file goes only when the newer one is there: one more of each at a time.
    return in_the_end, in_the_end + max(checkpoint_bytes, weights_bytes)
