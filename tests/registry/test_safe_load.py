"""Checkpoint files from anywhere: nothing is executed, and what cannot be read is explained."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sosr_det.errors import CheckpointError
from sosr_det.registry.safe_load import extract_state_dict, load_state_file, safetensors_metadata


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


class Names:
    """Stands for ``__import__("os")`` and then an attribute of it, as an attacker would chain them."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (eval, (f"__import__('os').system('touch {self.path}')",))


class Importer:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (__import__, ("os",))


class InState:
    """A Namespace whose state is made by a call, not given as a dict."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (argparse.Namespace, (), {"lr": 0.1, "hook": Names(self.path)})


class ForgedNamespace:
    """A Namespace with a state that would replace its attribute look-up by something else."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (argparse.Namespace, (), [("__class__", self.path)])


class PathOfCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (pathlib.PurePosixPath, (Names(self.path),))


def test_command_lines_paths_and_configs_come_back_as_plain_data(tmp_path):
    from mmengine.config import Config

    arguments = argparse.Namespace(
        lr=0.1, output=pathlib.Path("out") / "x", windows=pathlib.PureWindowsPath("C:/x"), device=torch.device("cpu"),
        betas=(0.9, np.float64(0.999)), inner=argparse.Namespace(_get_kwargs=3),
    )  # fmt: skip
    arguments.inner.__dict__["__class__"] = "text"
    arguments.itself = arguments
    config = Config({"model": {"type": "ResNet", "stages": [{"depth": 3}]}})
    torch.save({"args": arguments, "cfg": config, "part": config.model}, tmp_path / "a.pth")
    loaded = load_state_file(tmp_path / "a.pth")
    args = loaded["args"]
    assert isinstance(args, dict)
    assert args["lr"] == 0.1
    assert args["output"] == pathlib.PurePosixPath("out/x")
    assert args["windows"] == pathlib.PureWindowsPath("C:/x")
    assert args["betas"] == (0.9, 0.999)
    assert args["inner"] == {"_get_kwargs": 3, "__class__": "text"}
    assert args["itself"] is args
    assert loaded["cfg"] == {"model": {"type": "ResNet", "stages": [{"depth": 3}]}}
    assert loaded["part"] == {"type": "ResNet", "stages": [{"depth": 3}]}
    kinds = {type(each).__module__ for each in (args, loaded["cfg"], loaded["part"], loaded["cfg"]["model"])}
    assert not any(kind.startswith(("argparse", "mmengine")) for kind in kinds)


@pytest.mark.parametrize("save", [torch.save, save_legacy])
@pytest.mark.parametrize("hostile", [Shell, Names, Importer, InState, ForgedNamespace, PathOfCode])
def test_nothing_runs_from_inside_a_command_line(tmp_path, tensors, save, hostile):
    target = tmp_path / "touched"
    nested = {"args": argparse.Namespace(lr=0.1, inner=[argparse.Namespace(hook=hostile(target))])}
    for content in (nested, {"state_dict": tensors, "args": hostile(target)}, hostile(target)):
        save(content, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=r"could run code, so it was not loaded \((?!Weights)"):
            load_state_file(tmp_path / "a.pth")
        assert not target.exists()


def test_a_module_that_torch_blocks_is_named_too(tmp_path):
    torch.save({"x": Shell(tmp_path / "touched")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"unsupported GLOBAL {os.name}\.system"):
        load_state_file(tmp_path / "a.pth")


def test_configs_of_other_libraries_are_refused_with_what_to_do(tmp_path):
    """A class that only the file's writer has; written as its pickle would be."""
    for module, said in (("omegaconf.dictconfig", "OmegaConf.to_container"), ("addict.addict", r"cfg\.to_dict")):
        pickled = b"\x80\x02}X\x03\x00\x00\x00cfgc" + module.encode() + b"\nDict\n)Rs."
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("a/data.pkl", pickled)
            archive.writestr("a/version", "3\n")
            archive.writestr("a/byteorder", "little")
        with pytest.raises(CheckpointError, match=said):
            load_state_file(tmp_path / "a.pth")


def bomb(path):
    """A zip archive of 300 KB whose one storage unpacks to 300 MiB."""
    torch.save({"a": torch.zeros(10)}, path)
    with zipfile.ZipFile(path) as small:
        members = {name: small.read(name) for name in small.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, b"\0" * (300 << 20) if name.endswith("data/0") else content)


def boastful_storage(path):
    """A legacy file that says that a storage has 2^30 elements, where 10 follow."""
    save_legacy({"a": torch.zeros(10)}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"K\n", b"J" + (1 << 30).to_bytes(4, "little")))
    assert path.read_bytes() != content


def header_of(length):
    def write(path):
        with path.open("wb") as file:
            file.write(length.to_bytes(8, "little") + b"{")
            file.truncate(8 + min(length, 80 << 20))

    return write


def test_files_made_to_exhaust_memory_are_refused_without_it(tmp_path):
    files = {
        "bomb.pth": (bomb, "would unpack to 3145"),
        "storage.pth": (boastful_storage, "cannot be read"),
        "16MiB.safetensors": (header_of((16 << 20) + 1), "header has 16777217 bytes"),
        "80MiB.safetensors": (header_of(80 << 20), "header has 83886080 bytes"),
        "2^62.safetensors": (header_of(1 << 62), "no sound safetensors"),
        "2^64.safetensors": (header_of((1 << 64) - 1), "no sound safetensors"),
    }
    for name, (write, _) in files.items():
        write(tmp_path / name)
    assert (tmp_path / "bomb.pth").stat().st_size < 1 << 20
    code = (
        "import resource, sys, torch; from sosr_det.registry import load_state_file\n"
        "import safetensors.torch\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for file in sys.argv[1:]:\n"
        "    try: load_state_file(file); print('loaded')\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / name) for name in files)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *said, megabytes = result.stdout.splitlines()
    for line, (_, words) in zip(said, files.values(), strict=True):
        assert line.startswith("CheckpointError")
        assert words in line
    assert int(megabytes) < 100


def test_archives_that_were_packed_again_a_little_are_read(tmp_path, tensors):
    """Negative control: compression alone is no reason to refuse."""
    torch.save(tensors, tmp_path / "small.pth")
    with zipfile.ZipFile(tmp_path / "small.pth") as small, zipfile.ZipFile(
        tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED
    ) as packed:
        for name in small.namelist():
            packed.writestr(name, small.read(name))
    loaded = load_state_file(tmp_path / "packed.pth")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_the_texts_of_a_safetensors_file(tmp_path, tensors):
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt", "x": "y"})
    assert safetensors_metadata(tmp_path / "a.safetensors") == {"format": "pt", "x": "y"}
    save_file(tensors, tmp_path / "b.safetensors")
    assert safetensors_metadata(tmp_path / "b.safetensors") == {}
    torch.save(tensors, tmp_path / "a.pth")
    assert safetensors_metadata(tmp_path / "a.pth") == {}
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:40])
    with pytest.raises(CheckpointError, match="no sound safetensors file"):
        safetensors_metadata(tmp_path / "c.safetensors")
