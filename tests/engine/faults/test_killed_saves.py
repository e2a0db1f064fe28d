"""SIGKILL between any two system calls of a save, and in the middle of each write."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from sosr_det.analysis.bench_faults.disk import FaultyDisk, dies
from sosr_det.analysis.bench_faults.drill import forked
from sosr_det.engine.checkpoints.atomic_file import DIGEST, check_file, remove_checkpoint
from sosr_det.engine.checkpoints.choice import choose_checkpoint
from sosr_det.engine.checkpoints.names import POINTER

sys.path.insert(0, str(Path(__file__).parent))
import saving

sys.path.pop(0)


def epoch_after_two(folder):
    """The third checkpoint of a run that keeps two: the first one goes."""
    saving.save_epoch(folder, 1)
    saving.save_epoch(folder, 2)
    return lambda: saving.save_epoch(folder, 3), {"epoch_2.pth"}, "epoch_3.pth"


def epoch_after_a_middle(folder):
    saving.save_epoch(folder, 1)
    saving.save_middle(folder, 1, 14)
    return lambda: saving.save_epoch(folder, 2), {"mid_epoch_2_iter_14.pth"}, "epoch_2.pth"


def middle_after_a_middle(folder):
    saving.save_epoch(folder, 1)
    saving.save_middle(folder, 1, 12)
    return lambda: saving.save_middle(folder, 1, 15), {"mid_epoch_2_iter_12.pth"}, "mid_epoch_2_iter_15.pth"


def best_and_the_same_epoch_again(folder):
    made = saving.hook(folder)
    saving.save_epoch(folder, 1, made)
    saving.save_best(folder, 1, 0.5, made)
    saving.save_epoch(folder, 2, made)
    return lambda: saving.save_best(folder, 2, 0.6), {"epoch_2.pth"}, "epoch_2.pth"


def over_a_digest_that_was_left(folder):
    """A former save of that name was removed, all but its digest: by a kill between the two."""
    saving.save_epoch(folder, 1)
    (folder / f"epoch_2.pth{DIGEST}").write_text(f"{'0' * 64}  epoch_2.pth\n")
    return lambda: saving.save_epoch(folder, 2), {"epoch_1.pth"}, "epoch_2.pth"


SAVES = [
    epoch_after_two,
    epoch_after_a_middle,
    middle_after_a_middle,
    best_and_the_same_epoch_again,
    over_a_digest_that_was_left,
]


def die_everywhere(name, place):
    """Returns the number of calls of a whole save, and the checkpoint that is chosen after a kill at each."""
    arrange = next(each for each in SAVES if each.__name__ == name)
    chosen = []
    for at in range(1, 200):
        folder = Path(place) / str(at)
        folder.mkdir()
        save, olds, new = arrange(folder)

        def until_killed(save=save, at=at):
            with FaultyDisk(at, dies).active():
                save()

        code = forked(until_killed, Path(place) / "log").code
        chosen.append(choose_checkpoint(folder).path.name)
        require_safe(folder, olds, new, finished=code == 0, later_too=at % 4 == 1)
        if code == 0:
            return [at - 1, chosen]
        assert code == -9
        shutil.rmtree(folder)
    raise AssertionError("the save never ended")


def require_safe(folder, olds, new, *, finished, later_too):
    choice = choose_checkpoint(folder)
    assert choice.path.name in ({new} if finished else {*olds, new})
    assert choice.damaged == []
    for path in folder.glob("*.pth"):  # whatever has its final name is whole
        assert check_file(path) is None
    assert torch.load(choice.path, weights_only=True)["state_dict"]["weight"][0] == choice.meta["iter"]
    best = list(folder.glob("best_*.pth"))
    assert bool(best) == ("best" in "".join(os.listdir(folder)))
    choice.settle()
    assert Path((folder / POINTER).read_text()) == choice.path.resolve()
    if not (finished or later_too):
        return
    # What a later save leaves: nothing of the killed one, and never fewer than two to go on from.
    later = choice.meta["epoch"] + 1
    saving.save_epoch(folder, later)
    saving.save_epoch(folder, later + 1)
    saving.save_best(folder, later + 1, 0.9)
    left = {path.name for path in folder.iterdir()}
    kept = [f"epoch_{later}.pth", f"epoch_{later + 1}.pth", f"best_accuracy_epoch_{later + 1}.pth"]
    assert left == {POINTER, *kept, *(f"{name}{DIGEST}" for name in kept)}


@pytest.mark.parametrize("name", [each.__name__ for each in SAVES])
def test_whatever_the_moment_a_whole_checkpoint_is_found(drill, tmp_path, name):
    outcome = drill.call("die_everywhere", name, str(tmp_path))
    assert outcome.code == 0, outcome.text
    calls, chosen = outcome.value
    assert calls > 20
    assert (
        len(set(chosen)) == 2 or name == "best_and_the_same_epoch_again"
    )  # the old one first, then the new one
    assert chosen == sorted(chosen, key=chosen.index)  # and once it is the new one, it stays


def test_removing_may_be_killed(tmp_path):
    """A digest whose file is gone is no checkpoint, and the next save removes it."""
    saving.save_epoch(tmp_path, 1)
    saving.save_epoch(tmp_path, 2)
    beside = tmp_path / f"epoch_1.pth{DIGEST}"
    text = beside.read_text()
    remove_checkpoint(tmp_path / "epoch_1.pth")
    beside.write_text(text)
    assert choose_checkpoint(tmp_path).path.name == "epoch_2.pth"
    saving.save_epoch(tmp_path, 3)
    assert not beside.exists()
