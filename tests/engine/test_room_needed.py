"""The room that a run's checkpoints are to find."""

from sosr_det.engine.train import room_needed


def test_the_room_of_checkpoints_that_are_there_is_not_asked_for_again(tmp_path):
    assert room_needed(tmp_path / "new", 100) == 700
    (tmp_path / "epoch_1.pth").write_bytes(b"x" * 200)
    (tmp_path / "other.pth").write_bytes(b"x" * 1000)  # nothing that the run replaces
    assert room_needed(tmp_path, 100) == 500
    (tmp_path / "epoch_2.pth").write_bytes(b"x" * 200)
    (tmp_path / "best_accuracy_top1_epoch_2.pth").write_bytes(b"x" * 100)
    assert room_needed(tmp_path, 100) == 300  # the one being written and the best weights
