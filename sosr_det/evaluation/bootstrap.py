"""How sure a difference between arms is, given the images that were tested and the seeds that were run.

Two things vary. Another test set of the same kind would have other images; other seeds would give other weights. Each
run's predictions are resampled over images (the same resample for all runs); how much the seeds vary is seen in the
seeds. :func:`interval` puts both together; docs/compare.md derives it and shows how often it is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.student_t import t_quantile
from sosr_det.evaluation.weighted_ap import rank_class, weighted_ap

FEWEST_SEEDS = 3  # of a verdict that two arms differ
_ROUNDING = 1e-12  # a sum that is 0 but for rounding is no difference
_NORMAL_QUANTILE = {0.95: 1.959963984540054}


@dataclass(frozen=True, eq=False)
class Resampled:
    """One metric of every run, on the test set as it is and on resamples of it.

    Attributes:
        names: what the last axis but one of both arrays holds: the overall metric, then each class.
        point: on the images as they are; float64 [arms, seeds, len(names)], fractions.
        resampled: on each resample; float64 [arms, seeds, len(names), B]. NaN where a resample lacks a class.
    """

    names: tuple[str, ...]
    point: np.ndarray
    resampled: np.ndarray

    def contrast(self, coefficients: Sequence[float], name_index: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """A weighted sum over arms: float64 [seeds] and [seeds, B]."""
        weights = np.asarray(coefficients, np.float64)
        used = weights != 0
        point = np.tensordot(weights[used], self.point[used, :, name_index], axes=1)
        return point, np.tensordot(weights[used], self.resampled[used, :, name_index], axes=1)


@dataclass(frozen=True)
class Interval:
    """A difference and what is known about it; fractions.

    Attributes:
        difference: mean over the seeds.
        per_seed: one difference per seed.
        half_width: ``difference`` ± this is the interval over images and seeds; None where one seed says nothing about
            seeds.
        level: its nominal coverage.
        std_over_seeds: sample standard deviation of ``per_seed`` (n - 1); None for one seed.
        seeds_half_width: of the paired t interval over seeds alone, for these images; None for one seed.
        images_low, images_high: percentile interval over images alone, for these seeds.
        joint_low, joint_high: percentile interval of the bootstrap over images and seeds. With few seeds it is too
            narrow, since n seeds drawn from n vary less than n new ones; no verdict comes from it.
        image_std: standard deviation over resamples of images of ``difference``.
        shared_image_std: the part of it that all seeds share, and that more seeds would not average out.
    """

    difference: float
    per_seed: tuple[float, ...]
    half_width: float | None
    level: float
    std_over_seeds: float | None
    seeds_half_width: float | None
    images_low: float
    images_high: float
    joint_low: float
    joint_high: float
    image_std: float
    shared_image_std: float

    @property
    def num_seeds(self) -> int:
        return len(self.per_seed)

    @property
    def distinguishable(self) -> bool:
        """At least :data:`FEWEST_SEEDS` seeds, and 0 lies outside of the interval over images and seeds.

        An interval that ends exactly at 0 contains it.
        """
        return (
            self.half_width is not None
            and self.num_seeds >= FEWEST_SEEDS
            and abs(self.difference) - self.half_width > _ROUNDING
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON types; bounds beside half widths."""
        half = self.half_width
        return {
            "difference": self.difference,
            "per_seed": list(self.per_seed),
            "num_seeds": self.num_seeds,
            "level": self.level,
            "half_width": half,
            "low": None if half is None else self.difference - half,
            "high": None if half is None else self.difference + half,
            "distinguishable": self.distinguishable,
            "seeds": {"std": self.std_over_seeds, "t_half_width": self.seeds_half_width},
            "images": {
                "percentile_low": self.images_low,
                "percentile_high": self.images_high,
                "std": self.image_std,
                "std_shared_by_seeds": self.shared_image_std,
            },
            "joint_bootstrap": {"percentile_low": self.joint_low, "percentile_high": self.joint_high},
        }


def interval(
    point: np.ndarray, resampled: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> Interval | None:
    """The interval of a mean over seeds.

    With n seeds, the half width is ``sqrt((t * s / sqrt(n))**2 + (z * r)**2)``: s the standard deviation over seeds and
    t Student's quantile with n - 1 degrees of freedom; r the standard deviation of the mean over resamples of images,
    and z the normal quantile. The first term is what other seeds would change, the second what other images would. What
    a single run makes of single images by luck is in both, which is on the safe side: the half width is at most 10 %
    too large with 3 seeds, 22 % with 5.

    Args:
        point: One value per seed, on the images as they are; float64 [n].
        resampled: The same on resamples of the images; float64 [n, B]. Resamples with NaN (a class absent) are left
            out.
        level: Nominal coverage; 0.95.
        seed: Of the resampling of seeds.

    Returns:
        The interval; None where a value of ``point`` is NaN or fewer than two resamples are left.

    Source: the combination is Zou and Donner, "Construction of confidence limits about effect measures: a general
    approach", Statistics in Medicine 27 (2008), for a sum of two independent parts.
    """
    usable = ~np.isnan(resampled).any(axis=0)
    if np.isnan(point).any() or usable.sum() < 2:
        return None
    resampled = resampled[:, usable]
    count = len(point)
    z = _NORMAL_QUANTILE[level]
    tails = [(1 - level) / 2, (1 + level) / 2]
    means = resampled.mean(axis=0)
    images_low, images_high = np.quantile(means, tails)
    drawn = np.random.default_rng(seed).integers(count, size=(count, resampled.shape[1]))
    joint_low, joint_high = np.quantile(np.take_along_axis(resampled, drawn, axis=0).mean(axis=0), tails)
    image_variance = float(means.var(ddof=1))
    std = seeds_half = None
    shared = image_variance
    if count > 1:
        covariance = np.cov(resampled)
        shared = max(0.0, float((covariance.sum() - np.trace(covariance)) / (count * (count - 1))))
        std = float(np.std(point, ddof=1))
        seeds_half = t_quantile(tails[1], count - 1) * std / math.sqrt(count)
    return Interval(
        difference=float(point.mean()),
        per_seed=tuple(map(float, point)),
        half_width=None if seeds_half is None else math.sqrt(seeds_half**2 + z**2 * image_variance),
        level=level,
        std_over_seeds=std,
        seeds_half_width=seeds_half,
        images_low=float(images_low),
        images_high=float(images_high),
        joint_low=float(joint_low),
        joint_high=float(joint_high),
        image_std=math.sqrt(image_variance),
        shared_image_std=math.sqrt(shared),
    )


def draw_images(num_images: int, num_resamples: int, seed: int) -> np.ndarray:
    """How often each image is drawn in each resample of ``num_images`` with replacement; int32 [num_images, B]."""
    generator = np.random.default_rng(seed)
    counts = np.empty((num_images, num_resamples), np.int32)
    for column in range(num_resamples):
        drawn = generator.integers(num_images, size=num_images)
        counts[:, column] = np.bincount(drawn, minlength=num_images)
    return counts


def resample_detections(
    runs: Sequence[Sequence[EvaluationSet]],
    multiplicity: np.ndarray,
    *,
    iou_threshold: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Resampled]:
    """Average precision of every run on resamples of its images.

    Args:
        runs: Detections of each arm and seed; all on the same images and ground truth, in the same order.
        multiplicity: From :func:`draw_images`.
        iou_threshold: As :func:`sosr_det.evaluation.voc_ap.evaluate_class`.
        progress: Called with the number of runs done, and of all.

    Returns:
        ``map_11point`` and ``map_area``; the overall value is the mean over the classes that a resample has.
    """
    names = tuple(runs[0][0].class_names)
    as_it_is = np.ones((len(multiplicity), 1), np.int32)
    values = np.empty((2, len(runs), len(runs[0]), len(names) + 1, multiplicity.shape[1] + 1))
    done = 0
    for arm, seeds in enumerate(runs):
        for place, run in enumerate(seeds):
            for index, name in enumerate(names, start=1):
                ranked = rank_class(run.ground_truth[name], run.detections[name], iou_threshold)
                values[:, arm, place, index, :1] = weighted_ap(ranked, as_it_is)
                values[:, arm, place, index, 1:] = weighted_ap(ranked, multiplicity)
            done += 1
            if progress:
                progress(done, len(runs) * len(runs[0]))
    values[:, :, :, 0] = _mean_of_present(values[:, :, :, 1:], axis=3)
    return {
        metric: Resampled(("mean", *names), values[i, ..., 0], values[i, ..., 1:])
        for i, metric in enumerate(("map_11point", "map_area"))
    }


def resample_accuracy(
    correct: np.ndarray, labels: np.ndarray, class_names: Sequence[str], multiplicity: np.ndarray
) -> Resampled:
    """Top-1 accuracy of every run on resamples of its images.

    Args:
        correct: Whether each arm, seed and image was right; bool [arms, seeds, N].
        labels: True class of each image; int64 [N].
        class_names: The classes by label.
        multiplicity: From :func:`draw_images`.
    """
    arms, seeds, num_images = correct.shape
    weights = np.concatenate([np.ones((num_images, 1)), multiplicity], axis=1)
    values = np.empty((arms, seeds, len(class_names) + 1, weights.shape[1]))
    values[:, :, 0] = correct @ weights / weights.sum(axis=0)
    for label in range(len(class_names)):
        of_class = np.flatnonzero(labels == label)
        counts = weights[of_class].sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            values[:, :, label + 1] = correct[:, :, of_class] @ weights[of_class] / counts
    return Resampled(("all", *class_names), values[..., 0], values[..., 1:])


def _mean_of_present(values: np.ndarray, axis: int) -> np.ndarray:
    present = ~np.isnan(values)
    counts = present.sum(axis=axis)
    total = np.where(present, values, 0).sum(axis=axis)
    return np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
