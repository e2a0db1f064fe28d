"""Data that others made: pickled and YAML annotations, CIFAR's pickles, XML, archives."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import mmengine
import numpy as np
import pytest
from mmengine.fileio.handlers.pickle_handler import PickleHandler
from mmengine.fileio.handlers.yaml_handler import YamlHandler

import sosr_det.register  # noqa: F401
from sosr_det.data.prepare.layout_cifar import read_cifar
from sosr_det.data.prepare.unpack import unpack
from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.engine.safe_files import refuse_pickled_arrays
from sosr_det.errors import DataError
from sosr_det.plain_pickle import load_plain

# ---- pickles and YAML that MMEngine reads by their suffix ----------------------------------------------------------


def plain_data():
    return {
        "boxes": np.arange(8, dtype=np.float32).reshape(2, 4),
        "scores": np.array([0.5, 0.25]),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i2"),
        "empty": np.zeros((0, 4)),
        "one": np.float64(1.5),
        "rest": [1, 2.5, None, True, "text", b"bytes", (1, (2,)), {3}, {"a": []}],
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", ["pkl", "pickle"])
def test_plain_pickles_are_read_exactly(tmp_path, protocol, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(pickle.dumps(plain_data(), protocol))
    loaded = mmengine.load(str(path))
    for key, value in plain_data().items():
        assert type(loaded[key]) is type(value)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(loaded[key], value)
            assert loaded[key].shape == value.shape
        else:
            assert loaded[key] == value


def test_what_mmengine_writes_it_reads_again(tmp_path):
    for name in ("a.pkl", "a.yaml"):
        mmengine.dump({"a": [1, "x", 2.5]}, str(tmp_path / name))
        assert mmengine.load(str(tmp_path / name)) == {"a": [1, "x", 2.5]}


def test_hostile_pickles_of_data_do_not_run(canary, tmp_path):
    from mmengine.structures import InstanceData

    for content in (canary.bomb(), {"a": [canary.bomb()]}, {"a": np.array([canary.bomb()], dtype=object)}):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"mkdir|number type"):
            mmengine.load(str(tmp_path / "a.pkl"))
        with (tmp_path / "a.pkl").open("rb") as file, pytest.raises(DataError, match=r"a\.pkl"):
            mmengine.load(file, file_format="pkl")
    assert not canary.touched
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(InstanceData()))
    with pytest.raises(DataError, match="InstanceData"):
        mmengine.load(str(tmp_path / "a.pkl"))
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle.dump(canary.bomb(), file)
    with (tmp_path / "a.pkl").open("rb") as file:
        PickleHandler().load_from_fileobj(file)  # the negative control: MMEngine's own reader
    assert canary.touched


def test_hostile_yaml_does_not_run(canary, tmp_path):
    text = f"a: !!python/object/apply:os.mkdir [{str(canary.mark)!r}]\n"
    for name in ("a.yaml", "a.yml"):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="python/object"):
            mmengine.load(str(tmp_path / name))
    assert not canary.touched
    YamlHandler().load_from_fileobj(io.StringIO(text))  # the negative control: MMEngine's own reader
    assert canary.touched


def test_a_pickled_label_tree_is_refused_before_the_data_set_reads_it(canary, tmp_path):
    """MMDetection's reader of it cannot be exchanged."""
    from mmengine.config import Config

    from sosr_det.engine.setup import build_runner

    dataset = {"type": "OpenImagesChallengeDataset", "data_root": str(tmp_path), "hierarchy_file": "tree.np"}
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        cfg = Config({section: {"dataset": {"type": "RepeatDataset", "dataset": dataset}}})
        with (tmp_path / "tree.np").open("wb") as file:
            np.save(file, np.array([canary.bomb()], dtype=object))
        for _ in range(2):
            with pytest.raises(DataError, match=r"tree\.np cannot be used"):
                build_runner(cfg, for_training=True)
            (tmp_path / "tree.np").write_bytes(pickle.dumps(canary.bomb()))
        with (tmp_path / "tree.np").open("wb") as file:
            np.save(file, np.eye(3))
        refuse_pickled_arrays(cfg)
    assert not canary.touched
    (tmp_path / "tree.np").write_bytes(pickle.dumps(canary.bomb()))
    np.load(tmp_path / "tree.np", allow_pickle=True)  # the negative control: how MMDetection reads it
    assert canary.touched


def test_a_pickle_cannot_alter_its_reader():
    """Opcode by opcode: BUILD with attributes for the stand-in of a function, which a real function would take."""
    name = b"numpy._core.multiarray\n_reconstruct\n"
    for state in (b"}\x8c\x01xK\x01s", b"N}\x8c\x08__code__K\x01s\x86"):
        with pytest.raises(Exception, match=r"state|attribute"):
            load_plain(b"\x80\x04c" + name + state + b"b.")
    assert load_plain(pickle.dumps(np.arange(2))).tolist() == [0, 1]


@pytest.mark.parametrize(
    "name",
    ["builtins\neval", "os\nsystem", "numpy\nload", "numpy\nndarray.tofile", "copyreg\n_reconstructor"],
)
def test_names_are_refused_before_they_are_imported(name):
    with pytest.raises(pickle.UnpicklingError, match=name.replace("\n", r"\.")):
        load_plain(b"c" + name.encode() + b"\n.")


# ---- CIFAR ---------------------------------------------------------------------------------------------------------


class PointerDtype:
    """A dtype with an object inside that claims to have none: its array takes plain bytes for pointers."""

    def __reduce__(self):
        state = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
        return (np.dtype, ("V8", False, True), state)


class PointerArray:
    def __reduce__(self):
        state = (1, (1,), PointerDtype(), False, b"\x10" + b"\0" * 7)
        return (np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state)


def test_numpy_itself_would_make_pointers_of_bytes():
    """The negative control. Reading an element would end this process."""
    array = pickle.loads(pickle.dumps(PointerArray()))
    assert array.dtype["a"] == np.dtype("O")


def test_a_cifar_file_can_neither_run_code_nor_forge_pointers(canary, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    good = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(good, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": PointerArray(), "labels": [0]}))
    (folder / "test_batch").write_bytes(pickle.dumps(canary.bomb()))
    found = read_cifar(tmp_path, "cifar10")
    problems = {problem.path: problem.reason for problem in found.problems if problem.kind == "undecodable"}
    assert len(problems) == 2
    assert "plain number type" in problems[f"{folder.name}/data_batch_1"]
    assert "mkdir" in problems[f"{folder.name}/test_batch"]
    assert not canary.touched
    assert found.splits["train"].images == 8


# ---- XML -----------------------------------------------------------------------------------------------------------


def test_xml_that_grows_is_refused_in_little_memory():
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    laughs = f'<!DOCTYPE a [<!ENTITY e0 "{"x" * 100}">{levels}]><a>&e9;</a>'
    blowup = f'<!DOCTYPE a [<!ENTITY e "{"x" * 100_000}">]><a>{"&e;" * 20_000}</a>'
    for text in (laughs, blowup):
        tracemalloc.start()
        with pytest.raises(DataError, match=r"a\.xml"):
            parse_voc_xml(text.encode(), "a.xml")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


def test_xml_cannot_read_other_files(tmp_path):
    (tmp_path / "secret").write_text("secret words")
    for entity in (f'SYSTEM "file://{tmp_path}/secret"', f'SYSTEM "{tmp_path}/secret"'):
        text = f"<!DOCTYPE a [<!ENTITY e {entity}>]><a><object><name>&e;</name></object></a>"
        with pytest.raises(DataError) as caught:
            parse_voc_xml(text.encode(), "a.xml")
        assert "secret words" not in str(caught.value)


def test_numbers_in_xml_have_a_length():
    text = f"<a><size><width>{'9' * 1_000_000}</width><height>1</height></size></a>"
    with pytest.raises(DataError, match="whole number") as caught:
        parse_voc_xml(text.encode(), "a.xml")
    assert len(str(caught.value)) < 2_000


# ---- archives ------------------------------------------------------------------------------------------------------


def add(tar, name, kind=tarfile.REGTYPE, link="", content=b"evil"):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    tar.addfile(member, io.BytesIO(content) if member.size else None)


def long_links(tar):
    """CVE-2025-4517: links whose real path is longer than the system resolves, so that a check of it gives up."""
    folder, path = "d" * 247, ""
    for step in "abcdefghijklmnop":
        add(tar, os.path.join(path, folder), tarfile.DIRTYPE)
        add(tar, os.path.join(path, step), tarfile.SYMTYPE, folder)
        path = os.path.join(path, folder)
    chain = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    add(tar, chain, tarfile.SYMTYPE, "../" * 16)
    add(tar, "escape", tarfile.SYMTYPE, f"{chain}/../..")
    add(tar, "escape/evil")


def link_then_write(tar):
    add(tar, "link", tarfile.SYMTYPE, ".")
    add(tar, "link/evil")


def hard_link(tar):
    add(tar, "a")
    add(tar, "b", tarfile.LNKTYPE, "a")


def hard_link_out(tar):
    add(tar, "b", tarfile.LNKTYPE, "../../victim")
    add(tar, "b", content=b"overwritten")


def absolute(tar):
    add(tar, "/" + "evil")


def fifo(tar):
    add(tar, "evil", tarfile.FIFOTYPE)


@pytest.mark.parametrize(
    "build", [long_links, link_then_write, hard_link, hard_link_out, fifo], ids=lambda build: build.__name__
)
def test_archives_with_links_and_devices_are_refused(tmp_path, build):
    into = tmp_path / "a" / "b" / "into"
    into.mkdir(parents=True)
    (tmp_path / "victim").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        build(tar)
    with pytest.raises(DataError, match="does not belong into a data set"):
        unpack(tmp_path / "x.tar", into)
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(into)]
    assert {path.name for path in outside} == {"a", "b", "x.tar", "victim"}
    assert (tmp_path / "victim").read_text() == "x"
    assert not any(path.is_symlink() for path in into.rglob("*"))


def test_the_mode_of_an_unpacked_file_gives_nobody_more_rights(tmp_path):
    (tmp_path / "into").mkdir()
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("a")
        member.mode, member.size = 0o6777, 1
        tar.addfile(member, io.BytesIO(b"x"))
    unpack(tmp_path / "x.tar", tmp_path / "into")
    mode = (tmp_path / "into" / "a").stat().st_mode
    assert not mode & 0o6022  # no set-uid or set-gid, and nobody else may write


def test_a_zip_whose_entry_lies_about_its_name_stays_inside(tmp_path):
    """The name in the local header is another than in the directory at the end, which is the one that counts."""
    (tmp_path / "a" / "into").mkdir(parents=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("good", b"evil")
    data = bytearray(buffer.getvalue())
    data[30:34] = b"../x"
    assert struct.unpack("<H", data[26:28]) == (4,)
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DataError):
        unpack(tmp_path / "x.zip", tmp_path / "a" / "into")
    assert list((tmp_path / "a").rglob("*")) == [tmp_path / "a" / "into"]
