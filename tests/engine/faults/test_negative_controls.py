"""All of a checkpoint is needed: what a resumption leaves out is seen by the comparison that these tests rely on."""

from __future__ import annotations

import pytest

from sosr_det.analysis.bench_faults.arrange import die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import differences, losses


def leave_out(part):
    from sosr_det.engine.acceleration.weight_average import WeightAverageHook
    from sosr_det.engine.loops import place
    from sosr_det.engine.runner import EngineRunner

    if part == "random states":
        place.set_rng_state = lambda state: None
    elif part == "averaged weights":
        WeightAverageHook.after_load_checkpoint = lambda self, runner, checkpoint: None
    elif part == "place in the epoch":
        restore = place.Place.restore

        def forgetful(self, *arguments):
            restore(self, *arguments)
            self.batches_done = 0

        place.Place.restore = forgetful
    else:
        load = EngineRunner.load_checkpoint

        def without(self, *arguments, **options):
            checkpoint = load(self, *arguments, **options)
            if part == "schedules":
                checkpoint["param_schedulers"] = [each.state_dict() for each in self.param_schedulers]
            if part == "momentum":
                checkpoint["optimizer"]["state"] = {}
            return checkpoint

        EngineRunner.load_checkpoint = without


@pytest.fixture(scope="module")
def killed(zygote, request):
    """A run that was killed in the middle of its third epoch."""
    zygote.module = str(request.path)
    assert zygote.train("to-be-resumed", before=["die_at_step", 16, "after", 2]).code == -9
    return zygote.folder / "to-be-resumed"


@pytest.mark.parametrize(
    ("part", "seen"),
    [
        ("random states", True),
        ("averaged weights", True),
        ("place in the epoch", True),
        ("schedules", True),
        ("momentum", True),
        ("nothing", False),
    ],
)
def test_each_part_is_needed(drill, undisturbed, killed, part, seen):
    name = drill.copy(killed, "without")
    outcome = drill.train(name, "--resume", before=["leave_out", part])
    assert outcome.code == 0, outcome.text
    assert "2 of 6 batches of the next" in outcome.text
    folder = drill.folder / name
    found = differences(undisturbed / "epoch_4.pth", folder / "epoch_4.pth")
    assert bool(found) == seen
    assert (losses(folder) != losses(undisturbed)) == seen
