"""SIGKILL anywhere in a training: what is learned in the end is what the run that nothing happened to learned."""

from __future__ import annotations

import random
import re

import pytest

from sosr_det.analysis.bench_faults.arrange import die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import EPOCHS, STEPS, STEPS_PER_EPOCH, differences, losses

_random = random.Random(20)
KILLS = [
    (step, _random.choice(("before", "inside", "after")), _random.choice((0, 2, 3, 5)))
    for step in _random.sample(range(1, STEPS + 1), 20)
]


def require_same(undisturbed, folder):
    last = f"epoch_{EPOCHS}.pth"
    assert differences(undisturbed / last, folder / last) == []
    assert losses(folder) == losses(undisturbed)
    assert sorted(losses(folder)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_once_at_twenty_steps(drill, undisturbed, workers):
    ran_twice = []
    for step, when, save_each in KILLS[workers // 2 :: 2] if workers else KILLS:
        name = drill.new("killed")
        first, second = drill.until_done(
            name, faults=[("die_at_step", step, when, save_each)], workers=workers
        )
        assert (first.code, second.code) == (-9, 0), first.text + second.text
        require_same(undisturbed, drill.folder / name)
        found = re.search(r"resuming from \S+: (\d+) epochs?, (\d+) steps", second.text)
        at = int(found[2]) if found else 0
        ran_twice.append(step - (when != "after") - at)
        assert 0 <= ran_twice[-1] <= (save_each or STEPS_PER_EPOCH)
    assert max(ran_twice) > 1  # kills fell between saves


def test_killed_five_times(drill, undisturbed):
    name = drill.new("often")
    faults = [("die_at_step", step, "inside", 2) for step in (3, 4, 9, 17, 24)]
    outcomes = drill.until_done(name, faults=faults, workers=2)
    assert [each.code for each in outcomes] == [-9] * 5 + [0]
    require_same(undisturbed, drill.folder / name)


def test_another_seed_learns_something_else(drill, undisturbed):
    """The negative control of the comparison."""
    name = drill.new("seed")
    assert drill.train(name, "--seed", "6").code == 0
    found = differences(undisturbed / "epoch_4.pth", drill.folder / name / "epoch_4.pth")
    assert {"state_dict.head.weight", "ema_state_dict.module.head.weight"} & set(found)
    assert losses(drill.folder / name) != losses(undisturbed)
