"""An image in the middle of an epoch that cannot be decoded: an error with its path, or skipped, also over a kill."""

from __future__ import annotations

import shutil

import pytest

from sosr_det.analysis.bench_faults.arrange import die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import differences, losses
from sosr_det.engine.run_record import read_run_record


@pytest.fixture(scope="module")
def corrupt(zygote):
    """The drill's images, of which one is cut off."""
    folder = zygote.folder / "corrupt"
    shutil.copytree(zygote.folder / "images", folder)
    path = folder / "train" / "class2" / "3.png"
    path.write_bytes(path.read_bytes()[:200])
    return folder, path


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_it_ends_the_run_and_is_named(drill, corrupt, workers):
    folder, path = corrupt
    name = drill.new("corrupt")
    outcome = drill.train(name, "--data-root", str(folder), workers=workers)
    assert outcome.code == 1
    assert str(path) in outcome.last_line
    assert outcome.last_line.startswith("error: ")


def test_skipped_and_counted_and_the_same_over_a_kill(drill, corrupt):
    folder, path = corrupt
    options = ["--data-root", str(folder), "--on-bad-image", "skip", "--max-bad-images", "1"]
    whole = drill.new("skipping")
    outcome = drill.train(whole, *options)
    assert outcome.code == 0, outcome.text
    name = drill.new("skipping-killed")
    first, second = drill.until_done(name, *options, faults=[["die_at_step", 16, "inside", 2]], workers=2)
    assert (first.code, second.code) == (-9, 0), second.text
    assert differences(drill.folder / whole / "epoch_4.pth", drill.folder / name / "epoch_4.pth") == []
    assert losses(drill.folder / name) == losses(drill.folder / whole)
    for run in (whole, name):
        assert read_run_record(drill.folder / run)["unreadable_images"]["paths"] == [str(path)]


def test_more_than_allowed(drill, corrupt):
    folder, path = corrupt
    outcome = drill.train(
        drill.new("too-many"), "--data-root", str(folder), "--on-bad-image", "skip", "--max-bad-images", "0"
    )
    assert outcome.code == 1
    assert str(path) in outcome.text
    assert "--max-bad-images" in outcome.text
