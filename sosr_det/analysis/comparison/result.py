"""The numbers of a comparison; fractions throughout."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from sosr_det.analysis.comparison.collect import Finished
from sosr_det.engine.compare.study import DETECTION, Study
from sosr_det.evaluation.bootstrap import (
    Resampled,
    draw_images,
    interval,
    resample_accuracy,
    resample_detections,
)

LEVEL = 0.95


def compute(
    study: Study,
    finished: Finished,
    *,
    num_resamples: int,
    bootstrap_seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """By metric: every arm, every pair of arms, and the effects of a two-by-two design."""
    first = finished.predictions[0][0]
    multiplicity = draw_images(len(first.image_ids), num_resamples, bootstrap_seed)
    if study.kind == DETECTION:
        resampled = resample_detections(finished.predictions, multiplicity, progress=progress)
    else:
        correct = np.array([[run.correct for run in row] for row in finished.predictions])
        names = first.class_names or [str(label) for label in range(int(first.label.max()) + 1)]
        resampled = {"top1": resample_accuracy(correct, first.label, names, multiplicity)}
    return {metric: _of_metric(study, each, bootstrap_seed) for metric, each in resampled.items()}


def _of_metric(study: Study, resampled: Resampled, seed: int) -> dict[str, Any]:
    names = [arm.name for arm in study.arms]
    return {
        "arms": {
            name: {
                **_spread(resampled.point[i, :, 0]),
                "per_class_mean": {
                    each: _spread(resampled.point[i, :, k])["mean"]
                    for k, each in enumerate(resampled.names[1:], start=1)
                },
            }
            for i, name in enumerate(names)
        },
        "pairs": [
            {
                "reference": names[i],
                "arm": names[j],
                **_contrast(resampled, _pair(len(names), i, j), seed),
            }
            for i, j in itertools.combinations(range(len(names)), 2)
        ],
        "effects": [
            {"effect": name, **_contrast(resampled, coefficients, seed)}
            for name, coefficients in two_by_two(study)
        ],
    }


def _pair(count: int, reference: int, arm: int) -> list[float]:
    coefficients = [0.0] * count
    coefficients[reference], coefficients[arm] = -1.0, 1.0
    return coefficients


def two_by_two(study: Study) -> list[tuple[str, list[float]]]:
    """Main effects and interaction of two configs with two backbones each, as weights of the four arms; else none."""
    configs = list(dict.fromkeys(arm.config for arm in study.arms))
    backbones = list(dict.fromkeys(arm.backbone for arm in study.arms))
    if len(study.arms) != 4 or len(configs) != 2 or len(backbones) != 2:
        return []
    signs = [
        (1 if a.config == configs[1] else -1, 1 if a.backbone == backbones[1] else -1) for a in study.arms
    ]
    return [
        (f"config: {configs[1]} instead of {configs[0]}", [c / 2 for c, _ in signs]),
        (f"backbone: {backbones[1]} instead of {backbones[0]}", [b / 2 for _, b in signs]),
        # How much more the second config gains on the second backbone than on the first.
        ("interaction of both", [float(c * b) for c, b in signs]),
    ]


def _contrast(resampled: Resampled, coefficients: list[float], seed: int) -> dict[str, Any]:
    overall = interval(*resampled.contrast(coefficients), level=LEVEL, seed=seed)
    per_class = {}
    for index, name in enumerate(resampled.names[1:], start=1):
        found = interval(*resampled.contrast(coefficients, index), level=LEVEL, seed=seed)
        per_class[name] = None if found is None else found.to_dict()
    return {**(overall.to_dict() if overall else {"difference": None}), "per_class": per_class}


def _spread(values: np.ndarray) -> dict[str, Any]:
    numbers = [None if np.isnan(value) else float(value) for value in values]
    known = [value for value in numbers if value is not None]
    return {
        "n": len(numbers),
        "mean": statistics.fmean(known) if known and len(known) == len(numbers) else None,
        "std": statistics.stdev(known) if len(known) > 1 and len(known) == len(numbers) else None,
        "values": numbers,
    }
