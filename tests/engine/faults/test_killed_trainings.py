"""SIGKILL anywhere in a training: what is learned in the end is what the run that nothing happened to learned."""

from __future__ import annotations

import random
import re

import pytest

from sosr_det.analysis.bench_faults.arrange import die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import EPOCHS, STEPS, STEPS_PER_EPOCH, differences, losses

_random = random.Random(20)
STEPS_KILLED = _random.sample(range(1, STEPS + 1), 20)
# Four kills to a run, in five runs.
KILLS = [
    [(step, _random.choice(("before", "inside", "after")), saves) for step in sorted(STEPS_KILLED[run::5])]
    for run, saves in enumerate((0, 2, 3, 4, 5))
]


def require_same(undisturbed, folder):
    last = f"epoch_{EPOCHS}.pth"
    assert differences(undisturbed / last, folder / last) == []
    assert losses(folder) == losses(undisturbed)
    assert sorted(losses(folder)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kills", KILLS, ids=lambda kills: "-".join(str(each[0]) for each in kills))
def test_killed_at_random_steps(drill, undisturbed, workers, kills):
    name = drill.new("killed")
    made, lost = 0, []
    for fault in [*(["die_at_step", *kill] for kill in kills), None]:
        outcome = drill.train(name, "--auto-resume", before=fault, workers=workers)
        assert outcome.code == (-9 if fault else 0), outcome.text
        found = re.search(r"resuming from \S+: (\d+) epochs?, (\d+) steps", outcome.text)
        at = int(found[2]) if found else 0
        lost.append(made - at)
        made = fault[1] - (fault[2] != "after") if fault else STEPS
    require_same(undisturbed, drill.folder / name)
    saves = kills[0][2]
    assert min(lost) >= 0
    assert (
        0 < max(lost) <= (saves or STEPS_PER_EPOCH)
    )  # kills fell between saves, and no more than that was lost


def test_another_seed_learns_something_else(drill, undisturbed):
    """The negative control of the comparison."""
    name = drill.new("seed")
    assert drill.train(name, "--seed", "6").code == 0
    found = differences(undisturbed / "epoch_4.pth", drill.folder / name / "epoch_4.pth")
    assert {"state_dict.head.weight", "ema_state_dict.module.head.weight"} & set(found)
    assert losses(drill.folder / name) != losses(undisturbed)
