"""Detections that others made: pickles, JSON, text files and archives for ``sosr-det eval-voc``."""

from __future__ import annotations

import json
import pickle
import re
import resource
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from sosr_det.cli.main import main
from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.formats.coco_results import read_coco_results
from sosr_det.evaluation.formats.devkit import read_detection_file
from sosr_det.evaluation.formats.image_names import ImageNames
from sosr_det.evaluation.formats.mmdet_pickle import read_mmdet_pickle
from sosr_det.evaluation.formats.recognise import recognise
from sosr_det.evaluation.saved_detections import write_detections
from sosr_det.pickle_memo import check_memo
from sosr_det.plain_pickle import load_plain
from sosr_det.tensor_pickle import load_with_tensors

NAMES = ImageNames(["000001"])


class Storage:
    """A tensor whose storage is read from ``content``, which torch's own reader unpickles freely."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        arguments = (_Bytes(self.content), 0, (1,), (1,), False, None)
        return (torch._utils._rebuild_tensor_v2, arguments)


class _Bytes:
    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return (torch.storage._load_from_bytes, (self.content,))


def entry(**found):
    return [{"img_id": "000001", "pred_instances": found}]


def test_hostile_results_do_not_run(canary, tmp_path):
    path = tmp_path / "r.pkl"
    nested = Storage(pickle.dumps(canary.bomb()))
    array = np.array([canary.bomb()], dtype=object)
    for content in (
        canary.bomb(),
        [canary.bomb()],
        entry(bboxes=canary.bomb()),
        entry(bboxes=nested),
        entry(bboxes=array),
    ):
        for protocol in range(2, 6):
            path.write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(DataError, match=r"mkdir|number type|plain numbers"):
                read_mmdet_pickle(path, NAMES, ["a"])
    assert not canary.touched
    path.write_bytes(pickle.dumps(entry(bboxes=nested)))
    with pytest.raises(Exception):  # noqa: B017, PT011  # what torch makes of the mark that it has made
        pickle.loads(path.read_bytes())  # the negative control: Python's own reader, and torch's inside
    assert canary.touched


@pytest.mark.parametrize(
    "name",
    [
        "torch\nload",
        "torch._utils\n_rebuild_tensor",
        "torch.storage\nTypedStorage",
        "os\nsystem",
        "builtins\ngetattr",
    ],
)
def test_names_are_refused_before_they_are_imported(name):
    with pytest.raises(pickle.UnpicklingError, match=name.replace("\n", r"\.")):
        load_with_tensors(b"c" + name.encode() + b"\n.")


@pytest.mark.parametrize(
    "name", ["torch._utils\n_rebuild_tensor_v2", "torch.storage\n_load_from_bytes", "torch\nSize"]
)
def test_a_pickle_cannot_alter_its_reader(name):
    for state in (b"}\x8c\x01xK\x01s", b"N}\x8c\x08__code__K\x01s\x86"):
        with pytest.raises(Exception, match=r"state|attribute|argument"):
            load_with_tensors(b"\x80\x04c" + name.encode() + b"\n" + state + b"b.")


def storage_of(tensor):
    """The bytes in a tensor's pickle that torch reads as a file of its own."""
    return tensor._typed_storage().__reduce__()[1][0]


def test_forged_storages_are_refused(canary):
    good = storage_of(torch.arange(4.0))
    assert load_with_tensors(pickle.dumps(Storage(good))).tolist() == [0.0]
    forged = {
        "length": good.replace(b"\x04\0\0\0\0\0\0\0", b"\x05\0\0\0\0\0\0\0"),
        "truncated": good[:-1],
        "longer": good + b"\0\0\0\0",
        "type": good.replace(b"FloatStorage", b"DoubleStorage"),
        "no storage": good.replace(b"ctorch\nFloatStorage", b"cos\nsystem"),
        "magic": good.replace(b"\x8a\nl\xfc", b"\x8a\nl\xfd"),
        "empty": b"",
        "bomb": pickle.dumps(canary.bomb()),
    }
    for name, content in forged.items():
        with pytest.raises(Exception) as caught:  # noqa: PT011
            load_with_tensors(pickle.dumps(Storage(content)))
        assert isinstance(caught.value, (pickle.UnpicklingError, EOFError)), (name, caught.value)
    assert not canary.touched


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (3, (2,), (1,)),
        (0, (5,), (1,)),
        (0, (2,), (4,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (10**12,), (0,)),
        (0, (1, 5), (9, 1)),
    ],
)
def test_a_tensor_cannot_reach_beyond_its_storage(offset, size, stride):
    class Forged(Storage):
        def __reduce__(self):
            return (
                torch._utils._rebuild_tensor_v2,
                (_Bytes(self.content), offset, size, stride, False, None),
            )

    with pytest.raises(pickle.UnpicklingError, match=r"beyond its storage|unexpected shape"):
        load_with_tensors(pickle.dumps(Forged(storage_of(torch.arange(4.0)))))


# ---- memory


@pytest.mark.parametrize("load", [load_plain, load_with_tensors])
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x0f.",
        b"Np99999999\n.",
        b"Np" + b"9" * 30 + b"\n.",
        b"N0" * 2000 + b"Nr\xff\xff\xff\xff.",
    ],
)
def test_a_few_bytes_cannot_fill_the_memory(load, content):
    """Python's reader would take gigabytes for a table up to this number."""
    with pytest.raises(pickle.UnpicklingError, match="made to fill the memory"):
        load(content)


def deep_tuple(levels=60, width=10):
    """A few hundred bytes in a pickle; hashing takes width ** levels steps, in one call that nothing interrupts."""
    value = (0,) * width
    for _ in range(levels):
        value = (value,) * width
    return value


_KEY = pickle.dumps(deep_tuple(), 4)[2:-1]  # without protocol and stop
_FRAMELESS = _KEY[9:] if _KEY[:1] == b"\x95" else _KEY
BY_OPCODE = {
    "SETITEM": b"}" + _FRAMELESS + b"K\x01s.",
    "SETITEMS": b"}(" + _FRAMELESS + b"K\x01u.",
    "second of SETITEMS": b"}(K\x01K\x01" + _FRAMELESS + b"K\x01u.",
    "DICT": b"(" + _FRAMELESS + b"K\x01d.",
    "ADDITEMS": b"\x8f(" + _FRAMELESS + b"\x90.",
    "FROZENSET": b"(" + _FRAMELESS + b"\x91.",
    "set": b"cbuiltins\nset\n](" + _FRAMELESS + b"e\x85R.",
    "frozenset": b"cbuiltins\nfrozenset\n](" + _FRAMELESS + b"e\x85R.",
    "set of Python 2": b"c__builtin__\nset\n](" + _FRAMELESS + b"e\x85R.",
    "NEWOBJ": b"cbuiltins\nfrozenset\n](" + _FRAMELESS + b"e\x85\x81.",
    "OBJ": b"(cbuiltins\nset\n](" + _FRAMELESS + b"eo.",
    "INST": b"(](" + _FRAMELESS + b"eibuiltins\nset\n.",
    "BUILD": b"cbuiltins\nset\n)R}" + _FRAMELESS + b"K\x01sb.",
}


@pytest.mark.parametrize(
    "load", ["sosr_det.plain_pickle.load_plain", "sosr_det.tensor_pickle.load_with_tensors"]
)
def test_a_key_cannot_hang_its_reader(load):
    """In a process of its own, which can be ended: Python's own reader would hash for ages."""
    module, name = load.rsplit(".", 1)
    code = (
        f"import sys, pickle\nfrom {module} import {name}\n"
        "for name, content in pickle.load(sys.stdin.buffer).items():\n"
        f"    try:\n        {name}(content)\n"
        "    except Exception as error:\n"
        "        assert 'key' in str(error) or 'set' in str(error) or 'type' in str(error), (name, error)\n"
        "    else:\n        raise SystemExit(name)\n"
    )
    everything = {**BY_OPCODE, **{f"framed {name}": b"\x80\x04" + each for name, each in BY_OPCODE.items()}}
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(everything), timeout=20, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_storage_cannot_hang_its_reader():
    code = (
        "import sys, pickle\nfrom sosr_det.tensor_pickle import _load_from_bytes\n"
        "for content in pickle.load(sys.stdin.buffer):\n"
        "    try:\n        _load_from_bytes(content)\n"
        "    except pickle.UnpicklingError:\n        pass\n    else:\n        raise SystemExit(1)\n"
    )
    good = storage_of(torch.arange(4.0))
    key = re.search(rb"X.\0\0\0\d+q\x02", good)[0]
    keys = good[good.rindex(b"]q\x00") :]
    tail = keys[keys.index(b"a.") :]
    by_key = good.replace(keys, b"]" + _FRAMELESS + tail).replace(key, _FRAMELESS + b"q\x02")
    in_dict = good.replace(b"}q\x00(X\x10", b"}q\x00(" + _FRAMELESS + b"K\x01X\x10")
    assert in_dict != good
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps([by_key, in_dict]), timeout=20, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_usual_keys_are_read():
    values = [
        {"a": 1, 2: "b", 2.5: None, None: 1, b"x": [()], True: 2, (1, "a"): 3, ("b", (1, 2), None): 4},
        {1, "a", (1, 2)},
        frozenset(["a", 2.5]),
        bytearray(b"xy"),
        bytearray(),
        1j,
        {np.int64(3): np.float32(4)},
        {-(2**63): 2**64},
        set(),
        frozenset(),
    ]
    for load in (load_plain, load_with_tensors):
        for protocol in range(6):
            assert load(pickle.dumps(values, protocol)) == values
        assert load(b"\x80\x02cbuiltins\nbytearray\n)R.") == bytearray()


@pytest.mark.parametrize("load", [load_plain, load_with_tensors])
@pytest.mark.parametrize("content", [b"cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R.", b"\x96\0\0\0\0\x08\0\0\0."])
def test_zeros_cannot_fill_the_memory(load, content):
    tracemalloc.start()
    with pytest.raises(pickle.UnpicklingError):
        load(b"\x80\x05" + content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_names_of_classes_and_files_cannot_steer_the_terminal(tmp_path, capsys):
    """Of both commands, in what they print."""
    name = "\x1b]0;pwn\x07\x1b[31mcat"
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9]]
    data = EvaluationSet(
        [name, "\x1b[2Jdog"],
        ["\x1b[1mimage"],
        {name: GroundTruth([0, 0], boxes, [0, 0]), "\x1b[2Jdog": GroundTruth.empty()},
        {name: Detections([0], boxes[:1], [0.5]), "\x1b[2Jdog": Detections([0], boxes[1:], [0.5])},
    )
    path = write_detections(tmp_path / "\x1b[5mtest" / "detections.npz", data)
    for arguments in (["eval-voc", "--detections", path], ["analyze-errors", path, "--max-pictures", 0]):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments), "--json", str(tmp_path / "o\x1b[7m.json")])
        assert not stop.value.code
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert "\N{REPLACEMENT CHARACTER}" in captured.out


def test_the_look_through_a_pickle_follows_every_opcode():
    values = [
        None,
        True,
        7,
        300,
        2**40,
        -(10**300),
        1.5,
        "text\n.",
        "x" * 300,
        "\u20ac" * 70_000,
        b"",
        b".r\xff" * 200,
    ]
    values += [
        (),
        (1,),
        (1, 2, 3, 4),
        [1] * 2000,
        {"a": {"b": [()]}},
        {1, 2},
        frozenset("ab"),
        bytearray(b"x"),
        1j,
    ]
    values += [np.arange(5), np.float64(2), torch.arange(3)]
    for protocol in range(6):
        for value in (*values, values):
            content = pickle.dumps(value, protocol)
            assert check_memo(content) == len(content)
            assert check_memo(content + content) == len(content)
            assert check_memo(b"....." + content, 5) == len(content) + 5
            for length in (len(content) // 2, len(content) - 1):
                assert check_memo(content[:length]) <= length + (
                    1 << 40
                )  # cut off: ends, and leaves it to the reader


def test_a_small_pickle_cannot_repeat_its_boxes_without_end(tmp_path):
    table = np.zeros((1000, 5), np.float32)
    path = tmp_path / "r.pkl"
    path.write_bytes(pickle.dumps([[table]] * 20_000))
    names = ImageNames([str(number) for number in range(20_000)])
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(DataError, match="more boxes than the file has room for"):
        read_mmdet_pickle(path, names, ["a"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "content", [b"[" * 1_000_000, b'[{"a":' * 200_000, b'[{"image_id": 1, "x": ' + b"[" * 100_000]
)
def test_deep_json_is_refused(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(DataError, match="nested too deeply"):
        read_coco_results(tmp_path / "r.json", NAMES)


def test_json_results_take_the_memory_of_their_numbers(tmp_path):
    result = {
        "image_id": "000001",
        "category_id": 1,
        "bbox": [1, 2, 3, 4],
        "score": 0.5,
        "more": ["x" * 9] * 20,
    }
    text = json.dumps([result] * 20_000)
    (tmp_path / "r.json").write_text(text)
    tracemalloc.start()
    read_coco_results(tmp_path / "r.json", NAMES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * len(
        text
    )  # the file's bytes, its text and the numbers; all objects at once would be ten times it


@pytest.mark.parametrize(
    "content", [b"9" * (8 << 20), b" " * (8 << 20) + b"x", b"000001 0.5 1 1 2 " + b"2" * (8 << 20)]
)
def test_a_huge_line_is_refused_in_little_memory(tmp_path, content):
    (tmp_path / "c.txt").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"c\.txt:1: ") as caught:
        read_detection_file(tmp_path / "c.txt", {b"000001": 0})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert len(str(caught.value)) < 1000


def test_an_archive_that_grows_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "detections.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("format.npy", b"x")
        with archive.open("box.npy", "w") as member:
            for _ in range(200):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for each in (path, tmp_path):
        with pytest.raises(DataError, match=r"would unpack to 209715\d+; it is made to exhaust memory"):
            recognise(each)
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 64 << 20


def test_arrays_with_pickles_in_archives_are_refused(canary, tmp_path):
    from sosr_det.evaluation.formats.reading import Reading, read_detection_files

    path = tmp_path / "detections.npz"
    np.savez(
        path, format=np.array("sosr-det detections 1"), class_names=np.array([canary.bomb()], dtype=object)
    )
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_detection_files(path, Reading())
    assert not canary.touched
    np.load(path, allow_pickle=True)["class_names"]  # the negative control
    assert canary.touched


def test_what_a_file_says_is_quoted_shortly(tmp_path):
    (tmp_path / "r.json").write_text(
        json.dumps([{"image_id": "x" * 100_000, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}])
    )
    with pytest.raises(DataError) as caught:
        read_coco_results(tmp_path / "r.json", NAMES)
    assert len(str(caught.value)) < 1000
