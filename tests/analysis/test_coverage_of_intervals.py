"""Intervals of simulated comparisons leave out the truth about as often as they say, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from sosr_det.analysis.comparison.coverage import WORLDS, World, false_verdicts, simulated_interval


def test_a_small_simulation():
    """Three seeds that vary: the bootstrap over both and the images alone promise too much, the t part does not."""
    rates = false_verdicts(WORLDS["seeds vary most"], 3, trials=60, num_images=50, num_resamples=60)
    assert rates["images alone"] > 0.25
    assert rates["images and seeds"] <= 0.15  # 5 % of 60 are 3; more than 9 come up once in 700
    again = false_verdicts(WORLDS["seeds vary most"], 3, trials=60, num_images=50, num_resamples=60)
    assert again == rates


def test_a_real_difference_is_seen():
    generator = np.random.default_rng(0)
    world = World(seeds=0.02, images=0.1, luck=0.5, effect=1.5)
    found = [simulated_interval(world, 4, generator, 80, 60) for _ in range(10)]
    assert sum(each.distinguishable for each in found) >= 9
    assert all(each.difference > 0 for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_equal_arms_are_told_apart_in_5_percent(world, num_seeds):
    rates = false_verdicts(WORLDS[world], num_seeds, trials=400)
    assert rates["images and seeds"] <= 0.08  # 5 % and 2.8 standard deviations of 400 trials
