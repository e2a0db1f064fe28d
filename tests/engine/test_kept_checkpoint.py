"""Which file a run without a chosen epoch is represented by."""

from __future__ import annotations

import pytest

from sosr_det.engine.run_record import kept_checkpoint
from sosr_det.errors import CheckpointError


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["epoch_2.pth", "epoch_10.pth", "mid_epoch_11_iter_105.pth"], "epoch_10.pth"),
        (["iter_90.pth", "iter_100.pth"], "iter_100.pth"),
    ],
)
def test_the_last_whole_one(tmp_path, names, kept):
    for name in names:
        (tmp_path / name).touch()
    assert kept_checkpoint(tmp_path, {}).name == kept


def test_a_run_that_was_stopped_in_its_first_epoch(tmp_path):
    with pytest.raises(CheckpointError, match="stopped before its first"):
        kept_checkpoint(tmp_path, {})
    (tmp_path / "mid_epoch_1_iter_11.pth").touch()
    with pytest.raises(CheckpointError, match=r"in its first epoch: .* mid_epoch_1_iter_11\.pth"):
        kept_checkpoint(tmp_path, {})
