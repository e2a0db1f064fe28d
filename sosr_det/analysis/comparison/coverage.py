"""How often the intervals of a comparison hold what they promise: simulated twins whose true difference is known.

``python -m sosr_det.analysis.comparison.coverage`` prints the table of docs/compare.md.

A simulated test set has images of their own difficulty. Every run of an arm has a strength of its own (what seeds
change), an arm may be better on some images and worse on others (which all its seeds share), and every run has its own
luck with every image. By symmetry the true difference of two arms of equal strength is 0, whatever the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.bootstrap import draw_images, interval
from sosr_det.evaluation.weighted_ap import RankedClass, weighted_ap


@dataclass(frozen=True)
class World:
    """How much each thing varies, on the scale of a logit.

    Attributes:
        seeds: standard deviation of a run's strength.
        images: standard deviation of an arm's own preference for an image, the same in all its runs.
        luck: standard deviation of what a run makes of an object, on its own.
        effect: how much stronger the second arm is.
    """

    seeds: float
    images: float
    luck: float
    effect: float = 0.0


WORLDS = {
    "seeds vary most": World(seeds=0.3, images=0.0, luck=1.0),
    "only luck varies": World(seeds=0.0, images=0.0, luck=1.0),
    "arms prefer other images": World(seeds=0.0, images=1.0, luck=0.3),
    "all of these": World(seeds=0.1, images=0.5, luck=1.0),
}
METHODS = ("images and seeds", "t over seeds", "images alone", "bootstrap over both")


def false_verdicts(
    world: World,
    num_seeds: int,
    *,
    trials: int,
    num_images: int = 100,
    num_resamples: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """How often each interval leaves out 0, a fraction, over simulated comparisons by 11-point AP."""
    generator = np.random.default_rng(seed)
    outside = dict.fromkeys(METHODS, 0)
    for trial in range(trials):
        found = simulated_interval(world, num_seeds, generator, num_images, num_resamples, trial)
        bounds = {
            "images and seeds": (found.difference - found.half_width, found.difference + found.half_width),
            "t over seeds": (
                found.difference - found.seeds_half_width,
                found.difference + found.seeds_half_width,
            ),
            "images alone": (found.images_low, found.images_high),
            "bootstrap over both": (found.joint_low, found.joint_high),
        }
        for method, (low, high) in bounds.items():
            outside[method] += not low <= 0 <= high
    return {method: count / trials for method, count in outside.items()}


def simulated_interval(
    world: World,
    num_seeds: int,
    generator: np.random.Generator,
    num_images: int = 100,
    num_resamples: int = 200,
    seed: int = 0,
):
    """The interval of one simulated comparison; see :func:`sosr_det.evaluation.bootstrap.interval`."""
    image = np.repeat(np.arange(num_images), generator.poisson(1.5, num_images) + 1)  # of each object
    difficulty = generator.normal(0, 1, num_images)
    multiplicity = draw_images(num_images, num_resamples, seed)
    with_itself = np.concatenate([np.ones((num_images, 1), np.int32), multiplicity], axis=1)
    values = []
    for arm in range(2):
        preference = generator.normal(0, world.images, num_images)
        strengths = world.effect * arm + generator.normal(0, world.seeds, num_seeds)
        values.append(
            [
                weighted_ap(
                    _run(image, num_images, s + preference - difficulty, world.luck, generator), with_itself
                )[0]
                for s in strengths
            ]
        )
    difference = np.array(values[1]) - np.array(values[0])
    return interval(difference[:, 0], difference[:, 1:], seed=seed)


def _run(
    image: np.ndarray, num_images: int, ease: np.ndarray, luck: float, generator: np.random.Generator
) -> RankedClass:
    """A detector's output: every object found or not, and as many false alarms as images."""
    score = 1 + ease[image] + generator.normal(0, luck, len(image))
    is_found = score > 0
    alarms = generator.integers(num_images, size=num_images)
    alarm_score = generator.normal(0, 1, num_images) - 0.5 * ease[alarms]
    where = np.concatenate([image[is_found], alarms])
    right = np.concatenate([np.ones(is_found.sum(), bool), np.zeros(num_images, bool)])
    order = np.argsort(-np.concatenate([score[is_found], alarm_score]), kind="stable")
    where, hits = where[order], np.flatnonzero(right[order])
    images, counts = np.unique(image, return_counts=True)
    return RankedClass(
        where[: hits[-1] + 1], np.concatenate([[0], hits[:-1] + 1]), where[hits], images, counts
    )


def table(trials: int = 1000) -> str:
    """False verdicts in percent, for each world and number of seeds, as Markdown."""
    lines = [f"| what varies | seeds | {' | '.join(METHODS)} |", f"|---|---|{'---|' * len(METHODS)}"]
    for name, world in WORLDS.items():
        for num_seeds in (3, 5):
            rates = false_verdicts(world, num_seeds, trials=trials)
            cells = " | ".join(f"{100 * rates[method]:.1f}" for method in METHODS)
            lines.append(f"| {name} | {num_seeds} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
