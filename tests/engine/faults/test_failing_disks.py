"""A disk that is full, fails, writes little by little, or does not give back what was written."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch

from sosr_det.analysis.bench_faults.disk import FaultyDisk, fails, in_saves, lies, short
from sosr_det.analysis.bench_faults.drill import differences, forked
from sosr_det.engine.checkpoints.atomic_file import DIGEST, check_file
from sosr_det.engine.checkpoints.choice import choose_checkpoint
from sosr_det.engine.checkpoints.names import POINTER
from sosr_det.errors import CheckpointError

sys.path.insert(0, str(Path(__file__).parent))
import saving

sys.path.pop(0)


def require_intact(folder, newest, iteration):
    choice = choose_checkpoint(folder)
    assert (choice.path.name, choice.damaged) == (newest, [])
    assert torch.load(choice.path, weights_only=True)["state_dict"]["weight"][0] == iteration
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_whichever_call_fails_nothing_is_lost_and_it_is_said(tmp_path, number):
    said, whole = [], []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        saving.save_epoch(folder, 1)
        saving.save_epoch(folder, 2)
        disk = FaultyDisk(at, fails(number), ("open", "write", "fsync", "replace", "read"))
        try:
            with disk.active():
                saving.save_epoch(folder, 3)
        except CheckpointError as error:
            said.append(str(error))
            assert str(folder) in said[-1]
            assert "--resume" in said[-1]
        else:
            whole.append(at)
        found = choose_checkpoint(folder)
        require_intact(folder, *(("epoch_3.pth", 30) if found.meta["epoch"] == 3 else ("epoch_2.pth", 20)))
        if at > len(disk.calls):
            break
        assert said or whole
    assert whole == [at]  # every failing call was told, and the last round had none
    assert len(said) > 15
    words = "disk or your quota is full" if number == errno.ENOSPC else "check the disk and its mount"
    assert sum(words in each for each in said) > 10
    assert "epoch_3.pth" in said[0]


def test_files_that_cannot_be_removed_do_not_stop_the_training(tmp_path, caplog):
    for epoch in (1, 2, 3):
        saving.save_epoch(tmp_path, epoch)
    with FaultyDisk(1, fails(errno.EIO), ("unlink",), stays=True).active():
        saving.save_epoch(tmp_path, 4)
    require_intact(tmp_path, "epoch_4.pth", 40)
    assert "epoch_2.pth cannot be removed" in caplog.text
    saving.save_epoch(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["epoch_4.pth", "epoch_5.pth"]


def test_the_old_file_of_the_same_name_survives(tmp_path):
    """As when an epoch's checkpoint is written again after its validation."""
    saving.save_epoch(tmp_path, 1)
    before = (tmp_path / "epoch_1.pth").read_bytes()
    made = saving.StandIn(tmp_path, 1, 77)
    for fault, only in ((fails(errno.ENOSPC), ("write",)), (lies, ("read",))):
        with FaultyDisk(1, fault, only).active(), pytest.raises(CheckpointError, match=r"epoch_1\.pth"):
            saving.hook(tmp_path).save_epoch_end(made)
        assert (tmp_path / "epoch_1.pth").read_bytes() == before
        require_intact(tmp_path, "epoch_1.pth", 10)


def test_a_lying_disk_is_found_out(tmp_path):
    saving.save_epoch(tmp_path, 1)
    with (
        FaultyDisk(1, lies, ("read",)).active(),
        pytest.raises(CheckpointError, match="read back is not what was written"),
    ):
        saving.save_epoch(tmp_path, 2)
    require_intact(tmp_path, "epoch_1.pth", 10)


def test_short_writes_are_gone_on_with(tmp_path):
    with FaultyDisk(1, short, ("write",), stays=True).active():
        saving.save_epoch(tmp_path, 1)
    assert check_file(tmp_path / "epoch_1.pth") is None
    assert (tmp_path / f"epoch_1.pth{DIGEST}").read_text().endswith("  epoch_1.pth\n")
    require_intact(tmp_path, "epoch_1.pth", 10)


def test_what_only_a_pickle_could_hold_is_refused(tmp_path):
    from sosr_det.engine.checkpoints.atomic_file import write_checkpoint

    with pytest.raises(CheckpointError, match="only unrestricted unpickling can read"):
        write_checkpoint(tmp_path / "epoch_1.pth", {**saving.content(1, 10), "hook": saving.StandIn})
    assert list(tmp_path.iterdir()) == []


FAULTS = {
    "full": (fails(errno.ENOSPC), "write"),
    "broken": (fails(errno.EIO), "fsync"),
    "lying": (lies, "read"),
}


def fail_in_save(kind, save):
    fault, name = FAULTS[kind]
    in_saves(FaultyDisk(1, fault, (name,), stays=True), first=save)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("full", "disk or your quota is full"),
        ("broken", "check the disk"),
        ("lying", "is not what was written"),
    ],
)
def test_the_command_says_it_and_the_run_goes_on_exactly(drill, undisturbed, kind, words):
    name = drill.new("disk")
    failed, done = drill.until_done(name, faults=[("fail_in_save", kind, 3)])
    assert failed.code == 1
    assert failed.last_line.startswith(f"error: cannot write the checkpoint {drill.folder / name / 'epoch_'}")
    assert words in failed.last_line
    assert "--resume" in failed.last_line
    assert done.code == 0
    assert differences(undisturbed / "epoch_4.pth", drill.folder / name / "epoch_4.pth") == []


def two_ranks(folder, what):
    """Rank 0 cannot write; returns what each rank raised."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = Path(folder)

    def rank(number):
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=number, world_size=2
        )
        if number == 0:
            names = ("replace",) if what == "pointer" else ("write",)
            # The pointer's own replacing comes after the file's and the digest's.
            disk = FaultyDisk(3 if what == "pointer" else 1, fails(errno.ENOSPC), names).active()
            disk.__enter__()
        made = saving.RankStandIn(folder, 1, 10)
        try:
            saving.hook(folder).save_epoch_end(made)
        except CheckpointError as error:
            return str(error)

    results = {}
    threads = [
        threading.Thread(
            target=lambda n=n: results.__setitem__(n, forked(lambda: rank(n), logs / f"rank{n}.log", 30))
        )
        for n in (0, 1)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [[results[n].code, results[n].value, results[n].text[-500:]] for n in (0, 1)]


@pytest.mark.parametrize("what", ["file", "pointer"])
def test_all_ranks_end_with_the_error(drill, tmp_path, what):
    outcome = drill.call("two_ranks", str(tmp_path), what)
    assert outcome.code == 0, outcome.text
    (code, said, _), (other_code, other_said, text) = outcome.value
    assert (code, other_code) == (0, 0), text
    assert said == other_said
    assert ("last_checkpoint" if what == "pointer" else "epoch_1.pth") in said
    assert (tmp_path / "epoch_1.pth").exists() == (what == "pointer")
    assert not (tmp_path / POINTER).exists()
