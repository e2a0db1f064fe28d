"""The one reader that every entry ends in, and the proof that the hostile files of these tests are live."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import tarfile

import pytest
import torch

from sosr_det.errors import CheckpointError
from sosr_det.registry.safe_load import load_state_file

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


def test_without_protection_each_of_these_files_runs_its_code(hostile, canary, tmp_path, form):
    """The negative control: a test that sees the canary untouched could otherwise be one that cannot fail."""
    path = hostile(form, tmp_path / "files")
    with contextlib.suppress(Exception):  # what is left after the code has run is often no checkpoint
        if form == "tar":
            with tarfile.open(path) as tar:
                pickle.load(tar.extractfile("pickle"))
        elif form in ("whole pickle", "pickle .pkl"):
            pickle.loads(path.read_bytes())
        else:
            torch.load(io.BytesIO(path.read_bytes()), weights_only=False)  # torch minds the suffix of a name
    assert canary.touched


def test_no_form_of_a_hostile_file_runs(hostile, canary, tmp_path, form):
    path = hostile(form, tmp_path / "files")
    with pytest.raises(CheckpointError, match=rf"{path.name}"):
        load_state_file(path)
    assert not canary.touched
    assert [each.name for each in tmp_path.rglob("*")] == ["files", path.name]


def test_a_script_module_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        load_state_file(tmp_path / "a.pth")


class Copy:
    """Copies itself over the canary; torch's blocked modules do not hold this function."""

    def __init__(self, source, mark):
        self.arguments = (str(source), str(mark))

    def __reduce__(self):
        return (shutil.copyfile, self.arguments)


def test_classes_that_torch_was_told_to_trust_are_not_trusted_here(canary, tmp_path):
    """Other code in the process may have widened torch's allow-list; a checkpoint must not profit from it."""
    path = tmp_path / "a.pth"
    torch.save({"a": Copy(path, canary.mark)}, path)
    with torch.serialization.safe_globals([shutil.copyfile]):
        with pytest.raises(CheckpointError, match="copyfile"):
            load_state_file(path)
        assert not canary.touched
        torch.load(path, weights_only=True)
        assert canary.touched  # torch itself runs it
