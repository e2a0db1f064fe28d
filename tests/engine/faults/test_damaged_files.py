"""Pointers that point nowhere, checkpoints with wrong bits, and files that would run code."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from sosr_det.analysis.bench_faults.drill import _equal, _flat, differences
from sosr_det.engine.checkpoints.atomic_file import DIGEST, check_file
from sosr_det.engine.checkpoints.choice import _look, choose_checkpoint
from sosr_det.engine.checkpoints.names import POINTER
from sosr_det.errors import CheckpointError

sys.path.insert(0, str(Path(__file__).parent))
import saving

sys.path.pop(0)


@pytest.fixture
def run(tmp_path):
    """A run's folder with the checkpoints of two epochs."""
    folder = tmp_path / "run"
    folder.mkdir()
    saving.save_epoch(folder, 1)
    saving.save_epoch(folder, 2)
    return folder


def other_run(folder):
    other = folder.parent / "other"
    other.mkdir()
    saving.save_epoch(other, 9)
    return str(other / "epoch_9.pth")


POINTERS = {
    "empty": (b"", "is empty"),
    "spaces": (b" \n ", "is empty"),
    "binary": (os.urandom(300) + b"\0", "holds no path"),
    "long": (b"x" * 100_000, "holds no path"),
    "deep": (b"a/" * 2040, "is not there"),
    "dangling": (b"/nowhere/at/all/epoch_7.pth", "which is not there"),
    "folder": (b"..", "which is not there"),
    "root": (b"/", "which is not there"),
    "weights": (b"best.pth", "weights only"),
}


@pytest.mark.parametrize("kind", POINTERS)
def test_a_wrong_pointer_is_passed_over(run, kind):
    data, words = POINTERS[kind]
    (run / POINTER).write_bytes(data)
    torch.save(saving.content(2, 20, optimizer=False), run / "best.pth")
    choice = choose_checkpoint(run)
    assert (choice.path.name, choice.damaged) == ("epoch_2.pth", [])
    assert words in " ".join(choice.notes)
    choice.settle()
    assert Path((run / POINTER).read_text()) == run / "epoch_2.pth"
    assert choose_checkpoint(run).notes == []


def test_a_pointer_that_is_a_folder_or_absent(run):
    (run / POINTER).unlink()
    assert "no last_checkpoint" in choose_checkpoint(run).notes[0]
    (run / POINTER).mkdir()
    assert choose_checkpoint(run).path.name == "epoch_2.pth"


def test_a_pointer_to_another_run(run):
    (run / POINTER).write_text(other_run(run))
    choice = choose_checkpoint(run)
    assert choice.path == run / "epoch_2.pth"
    assert "not in this folder" in choice.notes[0]
    for path in run.glob("*.pth"):
        path.unlink()
    assert choose_checkpoint(run).path.name == "epoch_9.pth"  # a run that saves elsewhere points there


def test_the_pointer_of_a_moved_run(run):
    moved = run.with_name("moved")
    run.rename(moved)
    choice = choose_checkpoint(moved)
    assert (choice.path, choice.notes) == (moved / "epoch_2.pth", [])


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a bit": lambda path: flip(path, path.stat().st_size // 2),
    "text": lambda path: path.write_text("<html>404</html>"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("with_digest", [True, False])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(run, kind, with_digest):
    DAMAGES[kind](run / "epoch_2.pth")
    if not with_digest:
        (run / f"epoch_2.pth{DIGEST}").unlink()
    if (
        kind == "longer" and not with_digest
    ):  # a zip archive may be followed by something: nothing of it is read
        assert choose_checkpoint(run).path.name in ("epoch_1.pth", "epoch_2.pth")
        return
    choice = choose_checkpoint(run)
    assert choice.path.name == "epoch_1.pth"
    (note,) = choice.notes
    assert note.startswith("epoch_2.pth is ")
    choice.settle()
    assert {path.name for path in run.iterdir()} >= {"epoch_1.pth", "epoch_2.pth.damaged"}
    assert not (run / "epoch_2.pth").exists()
    assert choose_checkpoint(run).notes == []


@pytest.mark.parametrize(
    ("text", "taken"),
    [("0" * 64 + "  epoch_2.pth\n", 1), ("", 2), ("garbage", 2), ("\0\1\2", 2), ("0" * 63, 2), (" \n", 2)],
)
def test_the_digest_beside(run, text, taken):
    """A wrong digest damns the file. One that is no digest at all says nothing, and the file's own checksums count."""
    (run / f"epoch_2.pth{DIGEST}").write_text(text)
    assert choose_checkpoint(run).path.name == f"epoch_{taken}.pth"


def test_all_damaged(run):
    for path in run.glob("*.pth"):
        flip(path, 700)
    with pytest.raises(CheckpointError) as error:
        choose_checkpoint(run)
    assert all(word in str(error.value) for word in ("epoch_1.pth is", "epoch_2.pth is", "--fresh"))


def test_a_bit_anywhere_is_found_with_the_digest(undisturbed, tmp_path):
    path = tmp_path / "epoch_4.pth"
    data = (undisturbed / "epoch_4.pth").read_bytes()
    shutil.copy(undisturbed / f"epoch_4.pth{DIGEST}", tmp_path)
    chance = random.Random(50)
    for place in chance.sample(range(len(data)), 50):
        path.write_bytes(data)
        flip(path, place, chance.randrange(8))
        assert "SHA-256" in check_file(path)
    path.write_bytes(data)
    assert check_file(path) is None  # the negative control


def test_a_bit_anywhere_is_found_without_the_digest_or_changes_nothing(tmp_path):
    """Every byte of a file, its archive's headers and directory included; the undamaged content is the reference."""
    path = tmp_path / "epoch_1.pth"
    torch.save(saving.content(1, 10), path)
    data = path.read_bytes()
    true = _flat(torch.load(path, weights_only=True))
    with zipfile.ZipFile(path) as archive:
        inside = [place for part in archive.infolist() for place in content_places(data, part)]
        directory = archive.start_dir
    chance = random.Random(1)
    outside = sorted(set(range(len(data))) - set(inside))
    flips = [(place, chance.randrange(8)) for place in [*outside, *chance.sample(inside, 100)]]
    one = data.index(b"PK\1\2", data.index(b"epoch_1/data/0", directory) - 50)  # all bits of a part's entry
    flips += [(place, bit) for place in range(one, one + 60) for bit in range(8)]
    missed = []
    for place, bit in flips:
        path.write_bytes(data)
        flip(path, place, bit)
        if _look(path)[0] is None:
            missed.append(place)
            found = _flat(torch.load(path, weights_only=True))
            assert [name for name in true if name not in found or not _equal(found[name], true[name])] == []
    assert not set(inside) & set(missed)
    assert set(missed) <= set(outside)  # padding, times, attributes, checksums of its own that nobody reads


def content_places(data, part):
    """The bytes of a part of a zip archive itself, behind its header."""
    start = part.header_offset + 30
    for field in (26, 28):  # lengths of its name and of what else there is
        start += int.from_bytes(data[part.header_offset + field : part.header_offset + field + 2], "little")
    return range(start, start + part.file_size)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_file_that_would_run_code_never_does(drill, undisturbed, tmp_path):
    evil, mark = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({**saving.content(9, 90), "surprise": Evil(mark)}, evil)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Evil(mark)))
    name = drill.new("evil")
    run = drill.folder / name
    shutil.copytree(undisturbed, run)
    shutil.copy(evil, run / "epoch_9.pth")
    shutil.copy(plain, run / "epoch_8.pth")
    (run / POINTER).write_text(str(evil))
    outcome = drill.train(name, "--resume")
    assert outcome.code == 0, outcome.text
    assert not mark.exists()
    assert "epoch_9.pth cannot be read" in outcome.text
    assert "resuming from epoch_4.pth" in outcome.text
    torch.load(evil, weights_only=False)
    assert mark.exists()  # the negative control: it would have


def test_the_command_takes_the_one_before_and_loses_one_epoch(drill, undisturbed):
    name = drill.new("damaged")
    run = drill.folder / name
    shutil.copytree(undisturbed, run)
    flip(run / "epoch_4.pth", 5000)
    outcome = drill.train(name, "--resume")
    assert outcome.code == 0, outcome.text
    assert "epoch_4.pth is damaged: its SHA-256" in outcome.text
    assert "resuming from epoch_3.pth: 3 epochs, 18 steps" in outcome.text
    assert (run / "epoch_4.pth.damaged").exists()
    assert differences(undisturbed / "epoch_4.pth", run / "epoch_4.pth") == []


def test_the_command_with_nothing_whole(drill, undisturbed):
    name = drill.new("all-damaged")
    run = drill.folder / name
    shutil.copytree(undisturbed, run)
    for path in run.glob("epoch_*.pth"):
        flip(path, 5000)
    for option in ("--resume", "--auto-resume"):
        refused = drill.train(name, option)
        assert refused.code == 1
        assert all(word in refused.last_line for word in ("epoch_3.pth", "epoch_4.pth", "--fresh"))
    began = drill.train(name, "--resume", "--fresh")
    assert began.code == 0, began.text
    assert "beginning anew" in began.text
    kept = {path.name for path in run.glob("*.damaged")}
    assert {"epoch_3.pth.damaged", "epoch_4.pth.damaged"} <= kept
    assert differences(undisturbed / "epoch_4.pth", run / "epoch_4.pth") == []
