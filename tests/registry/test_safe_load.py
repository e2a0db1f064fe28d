"""Checkpoint files from anywhere: nothing is executed, and what cannot be read is explained."""

import collections
import io
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sosr_det.errors import CheckpointError
from sosr_det.registry.safe_load import extract_state_dict, load_state_file


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class Getattr:
    """A chain as an attacker would build it from what mmengine's own allow-list admits."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (getattr, (np.ndarray, "tofile"))


class Globals:
    """Reads through a class that MMEngine admits to code that it does not."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        from mmengine.logging import HistoryBuffer

        return (getattr, (HistoryBuffer.__init__, "__globals__"))


class OtherClass:
    pass


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.fixture
def tensors():
    return {"conv1.weight": torch.randn(2, 3), "bn.num_batches_tracked": torch.tensor(3)}


@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_torch_files_are_read_exactly(tmp_path, tensors, save):
    content = {
        "state_dict": collections.OrderedDict(tensors),
        "meta": {"epoch": 3, "name": "x", "t": (1, None)},
    }
    save(content, tmp_path / "a.pth")
    loaded = load_state_file(tmp_path / "a.pth")
    assert loaded["meta"] == content["meta"]
    for name, tensor in extract_state_dict(loaded).items():
        assert tensor.equal(tensors[name])


def test_safetensors_files_are_read_with_any_suffix(tmp_path, tensors):
    for name in ("a.safetensors", "a.bin"):
        save_file(tensors, tmp_path / name, metadata={"format": "pt"})
        loaded = load_state_file(str(tmp_path / name), None)
        assert all(loaded[key].equal(tensors[key]) for key in tensors)


def test_the_home_folder_is_expanded(tmp_path, tensors, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(tensors, tmp_path / "a.pth")
    assert load_state_file("~/a.pth").keys() == tensors.keys()


@pytest.mark.parametrize("save", [torch.save, save_legacy, save_pickle])
@pytest.mark.parametrize("hostile", [Touch, Shell, Getattr, Globals])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, tensors, save, hostile):
    target = tmp_path / "touched"
    for content in (hostile(target), {"state_dict": tensors, "meta": hostile(target)}):
        save(content, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=r"a\.pth") as caught:
            load_state_file(tmp_path / "a.pth")
        assert not target.exists()
        assert "run code" in str(caught.value) or save is save_pickle


def test_unknown_classes_are_refused_by_name(tmp_path):
    torch.save({"x": OtherClass()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="OtherClass"):
        load_state_file(tmp_path / "a.pth")


def test_numbers_of_numpy_are_admitted(tmp_path):
    content = {
        "float": np.float64(1.5),
        "flag": np.bool_(True),
        "big-endian": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.empty((0, 2), np.float32),
        "complex": np.array([1 + 2j]),
        "dtype": np.dtype("float32"),
        "nested": [(np.arange(2),), {"a": np.uint8(3)}],
    }
    torch.save(content, tmp_path / "a.pth")
    loaded = load_state_file(tmp_path / "a.pth")
    for key in ("float", "flag", "big-endian", "fortran", "empty", "complex"):
        assert type(loaded[key]) is type(content[key])
        np.testing.assert_array_equal(loaded[key], content[key])
    assert loaded["dtype"] == np.dtype("float32")
    assert loaded["nested"][0][0].tolist() == [0, 1]
    assert loaded["nested"][1]["a"] == 3


@pytest.mark.parametrize(
    "value",
    [
        np.array([OtherClass], dtype=object),
        np.array(["text"]),
        np.zeros(1, dtype=[("a", "f8")]),
        np.array(["2026-11-22"], dtype="datetime64[D]"),
        np.dtype([("a", "O")]),
    ],
)
def test_other_numpy_types_are_refused(tmp_path, value):
    torch.save({"x": value}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        load_state_file(tmp_path / "a.pth")


def numpy_pickle_with(state):
    """A pickle that gives numpy's dtype or array an invented state, as its own writer never would."""

    class Crafted:
        def __reduce__(self):
            return state

    return {"x": Crafted()}


@pytest.mark.parametrize(
    "state",
    [
        (np.dtype, ("f8", False, True), (3, "<", (np.dtype("f8"), (9,)), None, None, 8, 8, 0)),
        (np.dtype, ("f8", False, True), (3, "<", None, ("a",), {"a": 1}, 8, 8, 0)),
        (np.dtype, ("O8", False, True)),
        (np.dtype, ("V16", False, True)),
        (np.ndarray, ((1 << 40,), "f8")),
        (np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")),
        (
            np._core.multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (9,), np.dtype("f8"), False, b"12345678"),
        ),
        (np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (-1,), np.dtype("f8"), False, b"")),
        (np._core.multiarray.scalar, (np.dtype("f8"), b"1234")),
    ],
)
def test_invented_numpy_states_are_refused(tmp_path, state):
    torch.save(numpy_pickle_with(state), tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        load_state_file(tmp_path / "a.pth")


def test_deeply_nested_and_shared_data_neither_hang_nor_crash(tmp_path):
    shared = ()
    for _ in range(60):
        shared = (shared, shared)
    torch.save({"x": shared}, tmp_path / "a.pth")
    assert load_state_file(tmp_path / "a.pth")["x"]
    looped = []
    looped.append(looped)
    torch.save({"x": looped}, tmp_path / "a.pth")
    loaded = load_state_file(tmp_path / "a.pth")["x"]
    assert loaded[0] is loaded


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_explained(tmp_path, kind, share):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    save = {"zip": torch.save, "legacy": save_legacy, "safetensors": save_file}[kind]
    save({"a": torch.randn(50, 50)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"empty|truncated|no checkpoint"):
        load_state_file(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello, this is text", "text"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (bytes(range(128)), "starts with 0001020304050607"),
        (b"\x80\x04.", "a.pth"),
        (b"PK\x03\x04" + b"x" * 100, "a.pth"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_other_files_are_explained(tmp_path, content, said):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_state_file(tmp_path / "a.pth")


def test_missing_files_folders_pipes_and_other_archives(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_state_file(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_state_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe"):
        load_state_file(tmp_path / "pipe")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_state_file(tmp_path / "a.zip")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, expected a dict"):
        load_state_file(tmp_path / "list.pth")


def test_the_allow_list_is_only_ours_and_only_during_the_call(tmp_path):
    torch.save({"x": np.float64(1)}, tmp_path / "a.pth")
    torch.save({"x": OtherClass()}, tmp_path / "b.pth")
    with torch.serialization.safe_globals([OtherClass, np.dtype, np.ndarray, np._core.multiarray.scalar]):
        before = set(torch.serialization.get_safe_globals())
        assert load_state_file(tmp_path / "a.pth") == {"x": 1.0}
        with pytest.raises(CheckpointError, match="OtherClass"):
            load_state_file(tmp_path / "b.pth")
        assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)


def test_plain_files_need_no_mmengine(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.pth")
    code = (
        "import sys; from sosr_det.registry import load_state_file; load_state_file(sys.argv[1]); "
        "assert 'mmengine' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.pth")], check=True)


def test_state_dicts_are_extracted_only_when_unambiguous(tensors):
    other = {"running.mean": torch.zeros(2)}
    assert extract_state_dict(tensors).keys() == tensors.keys()
    assert (
        extract_state_dict({"state_dict": tensors, "rng": {"cpu": torch.zeros(3)}}).keys() == tensors.keys()
    )
    assert extract_state_dict({"state_dict": tensors, "step": torch.tensor(3)}).keys() == tensors.keys()
    assert extract_state_dict({"model": other}, key="model").keys() == other.keys()
    ema = {"state_dict": tensors, "ema_state_dict": {f"module.{name}": t for name, t in tensors.items()}}
    with pytest.raises(CheckpointError, match=r"ambiguous.*'ema_state_dict'"):
        extract_state_dict(ema)
    assert "module.conv1.weight" in extract_state_dict(ema, key="ema_state_dict")
    with pytest.raises(CheckpointError, match=r"ambiguous.*top level"):
        extract_state_dict({"state_dict": tensors, **tensors})
    for content, said in (
        ({"model": other}, "found under: 'model'"),
        ({}, "its keys are none"),
        ({"a": 1}, "its keys are 'a'"),
        ({"state_dict": {}}, "no state dict"),
        ({"state_dict": {"a": torch.zeros(1), "b": 1}}, r"1 of 2 .*'b' \(int\)"),
        ({"a": torch.zeros(1), "b": 1}, r"1 of 2 .*'b' \(int\)"),
        ([tensors], "found a list"),
    ):
        with pytest.raises(CheckpointError, match=said):
            extract_state_dict(content)
    with pytest.raises(CheckpointError, match="no tensors by name under 'x'"):
        extract_state_dict({"state_dict": tensors}, key="x")


def test_parameters_become_plain_tensors():
    loaded = extract_state_dict({"a": torch.nn.Parameter(torch.ones(2))})
    assert not loaded["a"].requires_grad


def test_reading_a_pickle_does_not_depend_on_its_name(tmp_path, tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    (tmp_path / "a.safetensors").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="no sound safetensors file"):
        load_state_file(tmp_path / "a.safetensors")
