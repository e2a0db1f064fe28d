"""Reading annotations in bulk: the table, the cache that knows changed files, and the scan for classes."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sosr_det.cache_root import cache_root
from sosr_det.data.voc_annotations import (
    AnnotationTable,
    MissingAnnotationError,
    find_voc_folders,
    read_annotations,
    scan_classes,
)
from sosr_det.data.voc_annotations import cache as kept
from sosr_det.data.voc_annotations.files import open_folder
from sosr_det.data.voc_annotations.table import TableBuilder
from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.errors import DataError

AGE = 100  # seconds: older than any doubt about the clock


def xml(*objects, size=(80, 60)):
    parts = [
        f"<object><name>{name}</name><truncated>{int(truncated)}</truncated><difficult>{int(difficult)}</difficult>"
        f"<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, truncated, difficult, b in objects
    ]
    size_xml = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{size_xml}{''.join(parts)}</annotation>"


@pytest.fixture
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "voc-annotations"


@pytest.fixture
def any_age(monkeypatch):
    """Files written just now are kept, too."""
    monkeypatch.setattr(kept, "RACY_SECONDS", -AGE)


@pytest.fixture
def folder(tmp_path, own_cache_folder):
    folder = tmp_path / "VOC2007" / "Annotations"
    folder.mkdir(parents=True)
    (folder / "a.xml").write_text(xml(("dog", 1, 0, (1, 2, 30, 40.5)), ("cat", 0, 1, (3, 3, 9, 9))))
    (folder / "b.xml").write_text(xml())
    (folder / "c.xml").write_text(xml(("cat", 0, 0, (5, 6, 7, 8)), size=None))
    return folder


def read(folder, names="abc", **options):
    return read_annotations([folder / f"{name}.xml" for name in names], **options)


def objects_of(table, image):
    """Slow reference: ``(class, box, difficult, truncated)`` of an image."""
    rows = [row for row in range(len(table.boxes)) if table.image_index[row] == image]
    return [
        (
            table.class_names[table.class_index[r]],
            tuple(table.boxes[r].tolist()),
            bool(table.difficult[r]),
            bool(table.truncated[r]) if table.truncated_known[r] else None,
        )
        for r in rows
    ]


def as_parsed(paths):
    """The same from the strict parser, file by file."""
    annotations = [parse_voc_xml(Path(path).read_bytes(), str(path)) for path in paths]
    return [
        (a.size or (0, 0), [(o.name, o.box, o.difficult, o.truncated) for o in a.objects])
        for a in annotations
    ]


def as_read(table):
    return [(tuple(table.sizes[i].tolist()), objects_of(table, i)) for i in range(len(table))]


# --- the table


def test_table(folder):
    table = read(folder).table
    assert table.class_names == ("cat", "dog")
    assert table.sizes.tolist() == [[80, 60], [80, 60], [0, 0]]
    assert table.offsets.tolist() == [0, 2, 2, 3]
    assert table.image_index.tolist() == [0, 0, 2]
    assert table.class_index.tolist() == [1, 0, 0]
    assert table.boxes.tolist() == [[1, 2, 30, 40.5], [3, 3, 9, 9], [5, 6, 7, 8]]
    assert table.difficult.tolist() == [False, True, False]
    assert table.truncated.tolist() == [True, False, False]
    assert table.class_counts == {"cat": 2, "dog": 1}


def test_order_of_paths_and_repeated_ones(folder, tmp_path):
    other = tmp_path / "VOC2012" / "Annotations"
    shutil.copytree(folder, other)
    (other / "a.xml").write_text(xml(("ant", 0, 0, (1, 1, 2, 2))))
    paths = [folder / "c.xml", other / "a.xml", folder / "a.xml", other / "b.xml", folder / "c.xml"]
    for _ in range(2):
        table = read_annotations(paths).table
        assert as_read(table) == as_parsed(paths)
        assert table.class_names == ("ant", "cat", "dog")


def test_nothing_to_read(own_cache_folder):
    table = read_annotations([]).table
    assert len(table) == 0
    assert table.boxes.shape == (0, 4)
    assert table.class_counts == {}


_OBJECTS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from([None, True, False]), st.booleans(), *[st.floats(0, 9)] * 4),
    max_size=3,
)  # fmt: skip
_TABLES = st.lists(_OBJECTS, max_size=4)


@settings(max_examples=100, deadline=None)
@given(st.lists(_TABLES, max_size=3), st.data())
def test_take_and_concatenate_as_lists(tables, data):
    def build(images):
        builder = TableBuilder()
        for number, objects in enumerate(images):
            builder.add((number + 1, 7), objects)
        return builder.build()

    joined = AnnotationTable.concatenate([build(images) for images in tables])
    images = [image for table in tables for image in table]
    assert as_read(joined) == [row for table in tables for row in as_read(build(table))]
    chosen = data.draw(st.lists(st.integers(0, len(images) - 1), max_size=6) if images else st.just([]))
    taken = joined.take(np.array(chosen, np.int64))
    assert as_read(taken) == [as_read(joined)[i] for i in chosen]
    assert set(taken.class_names) == {o[0] for i in chosen for o in images[i]}
    assert list(taken.class_names) == sorted(taken.class_names)


# --- problems


def test_problems_name_the_file(folder):
    (folder / "b.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"b\.xml: not a readable XML file: no element found: line 1"):
        read(folder)
    with pytest.raises(MissingAnnotationError, match=r"d\.xml: no such file"):
        read(folder, "ad")
    (folder / "e.xml").mkdir()
    with pytest.raises(
        DataError, match=r"3 of 4 annotation files cannot be used:(?s:.*)b\.xml.*\n.*d\.xml.*\n.*e\.xml"
    ):
        read(folder, "abde")
    found = read(folder, "abdec", on_problem="collect")
    assert list(found.problems) == [1, 2, 3]
    assert isinstance(found.problems[2], MissingAnnotationError)
    assert "cannot be read" in str(found.problems[3])
    assert found.table.offsets.tolist() == [0, 2, 2, 2, 2, 3]
    missing = read(folder.parent / "nowhere", "ab", on_problem="collect")
    assert [type(error) for error in missing.problems.values()] == [MissingAnnotationError] * 2
    with pytest.raises(ValueError, match="on_problem"):
        read(folder, on_problem="skip")


def test_problems_are_never_kept(folder, any_age):
    (folder / "b.xml").write_text("<annotation>")
    for _ in range(2):
        found = read(folder, on_problem="collect")
        assert list(found.problems) == [1]
    assert found.num_parsed == 1


def test_as_many_files_as_may_be_open(folder):
    """Files are opened ahead, but never so many that there are none left."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "from sosr_det.data.voc_annotations import read_annotations\n"
        "paths = [sys.argv[1]] * 300 + [sys.argv[1] + 'x']\n"
        "found = read_annotations(paths, on_problem='collect')\n"
        "assert list(found.problems) == [300] and len(found.table.boxes) == 600, len(found.problems)\n"
        "assert not {'torch', 'mmengine', 'mmdet'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder / "a.xml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_stays_open(folder):
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    if before is None:
        pytest.skip("this system does not list open files")
    read(folder, "abcx" * 100, on_problem="collect")
    assert len(os.listdir("/proc/self/fd")) == before
    with open_folder(str(folder)) as opened:
        reading = opened.read(["a.xml", "b.xml", "x.xml"] * 10)
        next(reading)
        assert len(os.listdir("/proc/self/fd")) > before + 10  # those ahead
        reading.close()  # as an interruption does
    assert len(os.listdir("/proc/self/fd")) == before


# --- the cache


def test_unchanged_files_come_from_the_cache(folder, any_age):
    first, second = read(folder), read(folder)
    assert (first.num_parsed, second.num_parsed) == (3, 0)
    assert as_read(second.table) == as_read(first.table) == as_parsed(folder / f"{n}.xml" for n in "abc")
    assert second.table.class_names == ("cat", "dog")
    # Other lists of the folder share it, in any order.
    assert read(folder, "ca").num_parsed == 0
    assert as_read(read(folder, "ca").table) == as_parsed([folder / "c.xml", folder / "a.xml"])
    assert read(folder, "b").table.class_names == ()


def change_text(path):
    text = path.read_text()
    path.write_text(text.replace("cat", "cow"))  # of the same length


def change_and_set_the_time_back(path):
    before = path.stat()
    change_text(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_with_the_same_time(path):
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_text(path.read_text().replace("cat", "cow"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def point_a_link_elsewhere(path):
    other = path.with_suffix(".other")
    other.write_text(path.read_text().replace("cat", "cow"))
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize(
    "change", [change_text, change_and_set_the_time_back, replace_with_the_same_time, point_a_link_elsewhere]
)
def test_a_changed_file_is_read_again(folder, any_age, change):
    read(folder)
    change(folder / "c.xml")
    found = read(folder)
    assert found.num_parsed == 1
    assert objects_of(found.table, 2)[0][0] == "cow"
    assert read(folder).num_parsed == 0
    (folder / "c.xml").unlink()
    with pytest.raises(MissingAnnotationError):
        read(folder)
    assert read(folder, "ab").num_parsed == 0


def test_a_linked_file_that_changes(folder, any_age, tmp_path):
    target = tmp_path / "target.xml"
    (folder / "c.xml").replace(target)
    (folder / "c.xml").symlink_to(target)
    read(folder)
    change_text(target)
    found = read(folder)
    assert (found.num_parsed, objects_of(found.table, 2)[0][0]) == (1, "cow")


def test_files_that_might_still_change_are_not_kept(folder, own_cache_folder):
    """A file as old as one tick of the clock could change again without looking any different."""
    assert [read(folder).num_parsed for _ in range(2)] == [3, 3]
    assert not list(own_cache_folder.glob("*"))


def test_trusted_at_both_sides_of_the_limit():
    started = 1_000_000.5
    limit = int((started - kept.RACY_SECONDS) * 1e9)
    rows = [(1, 1, 1, limit, limit), (1, 1, 1, limit + 1, 0), (1, 1, 1, 0, limit + 1), (1, 1, 1, limit, 5)]
    assert kept.trusted(np.array(rows, np.int64), started).tolist() == [True, False, False, True]


def test_a_slow_change_between_looking_and_reading(folder, any_age, monkeypatch):
    """What is kept is a file's state from before it was read."""
    from sosr_det.data.voc_annotations import files

    def fstat_then_change(descriptor, _fstat=os.fstat):
        status = _fstat(descriptor)
        if status.st_ino == (folder / "c.xml").stat().st_ino:
            time.sleep(0.02)
            change_text(folder / "c.xml")
        return status

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fstat", fstat_then_change)
        assert objects_of(read(folder).table, 2)[0][0] == "cow"
    (folder / "c.xml").write_text((folder / "c.xml").read_text().replace("cow", "owl"))
    assert objects_of(read(folder).table, 2)[0][0] == "owl"


def test_the_cache_can_be_turned_off(folder, any_age, own_cache_folder, monkeypatch):
    assert [read(folder, cache=False).num_parsed for _ in range(2)] == [3, 3]
    monkeypatch.setenv("SOSR_ANNOTATION_CACHE", "0")
    assert [read(folder).num_parsed for _ in range(2)] == [3, 3]
    assert not own_cache_folder.exists()
    monkeypatch.setenv("SOSR_ANNOTATION_CACHE", "1")
    assert [read(folder).num_parsed for _ in range(2)] == [3, 0]


def flip(content, position):
    return content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :]


def test_a_damaged_cache_is_ignored_and_made_anew(folder, any_age, own_cache_folder, caplog):
    expected = as_read(read(folder).table)
    (file,) = own_cache_folder.iterdir()
    good = file.read_bytes()
    damaged = [b"", b"PK", good[:200], good[:-30], good + b"x" * 9, os.urandom(5000)]
    damaged += [flip(good, position) for position in range(0, len(good), len(good) // 60)]
    noticed = 0
    for content in damaged:
        file.write_bytes(content)
        caplog.clear()
        found = read(folder)
        assert as_read(found.table) == expected
        noticed += found.num_parsed == 3
        if found.num_parsed == 3:
            warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
            assert len(warnings) == 1
            assert "ignored and made anew" in warnings[0].getMessage()
        assert read(folder).num_parsed == 0
    assert noticed > len(damaged) / 2  # the rest hit bytes that mean nothing, such as padding


@pytest.mark.parametrize(
    "change",
    [
        {"format": np.array(2)},
        {"folder": np.frombuffer(b"/elsewhere\0", np.uint8)},
        {"offsets": np.array([0, 2, 1, 3])},
        {"offsets": np.array([0, 2, 2, 2])},
        {"class_index": np.array([0, 0, 2])},
        {"class_index": np.array([0, 0, -1])},
        {"boxes": np.zeros((3, 4), np.float32)},
        {"boxes": np.zeros((2, 4))},
        {"identities": np.zeros((2, 5), np.int64)},
        {"names": np.frombuffer(b"a.xml\0b.xml\0a.xml\0", np.uint8)},
        {"difficult": None},
        {"boxes": np.array([[object()] * 4] * 3)},
    ],
)
def test_an_inconsistent_cache_is_ignored(folder, any_age, own_cache_folder, caplog, change):
    expected = as_read(read(folder).table)
    (file,) = own_cache_folder.iterdir()
    with np.load(file, allow_pickle=False) as arrays:
        content = {name: arrays[name] for name in arrays.files} | change
    with open(file, "wb") as out:
        np.savez(out, **{name: value for name, value in content.items() if value is not None})
    found = read(folder)
    assert found.num_parsed == 3
    assert as_read(found.table) == expected
    assert "ignored and made anew" in caplog.text


def test_a_cache_that_others_can_write_is_ignored(folder, any_age, own_cache_folder, caplog):
    read(folder)
    (file,) = own_cache_folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o666)
    assert read(folder).num_parsed == 3
    assert "others can write it" in caplog.text


def test_who_can_write_a_cache_is_asked_of_the_open_file(
    folder, any_age, own_cache_folder, caplog, monkeypatch
):
    """Not of the path, which may have led to another file before it was opened."""
    read(folder)
    (file,) = own_cache_folder.iterdir()
    private = file.lstat()
    file.chmod(0o666)
    lstat = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda self: private if self == file else lstat(self))
    assert read(folder).num_parsed == 3
    assert "others can write it" in caplog.text


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_cache_that_is_no_file_is_ignored(kind, folder, any_age, own_cache_folder, tmp_path, caplog):
    read(folder)
    (file,) = own_cache_folder.iterdir()
    file.rename(tmp_path / "elsewhere")
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(file, 0o600)
    else:
        file.mkdir(0o700)
    assert read(folder).num_parsed == 3
    assert "ignored and made anew" in caplog.text


def test_what_killed_writers_left_is_removed_after_a_day(folder, any_age, own_cache_folder):
    own_cache_folder.mkdir(parents=True)
    for name, age_seconds in (("old.part", 25 * 3600), ("new.part", 23 * 3600), ("old.npz", 25 * 3600)):
        (own_cache_folder / name).touch()
        then = time.time() - age_seconds
        os.utime(own_cache_folder / name, (then, then))
    (own_cache_folder / "folder.part").mkdir()  # cannot be unlinked: left alone
    os.utime(own_cache_folder / "folder.part", (0, 0))
    read(folder)
    left = {path.name for path in own_cache_folder.iterdir()}
    assert {"new.part", "old.npz", "folder.part"} < left
    assert "old.part" not in left
    assert len(left) == 4
    assert read(folder).num_parsed == 0


def test_no_place_for_a_cache(folder, any_age, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "file"))
    assert [read(folder).num_parsed for _ in range(2)] == [3, 3]
    assert as_read(read(folder).table) == as_parsed(folder / f"{n}.xml" for n in "abc")


def test_what_no_longer_exists_is_dropped(folder, any_age, own_cache_folder):
    read(folder)
    (folder / "a.xml").unlink()
    change_text(folder / "c.xml")
    read(folder, "bc")
    assert sorted(kept.load(str(folder)).rows) == ["b.xml", "c.xml"]


def test_odd_names(folder, any_age):
    names = ["with space", "Käfer", "new\nline", "sub/x", os.fsdecode(b"bad\xff")]
    (folder / "sub").mkdir()
    paths = [folder / f"{name}.xml" for name in names]
    for path in paths:
        path.write_text(xml(("a bug", 0, 0, (1, 1, 2, 2))))
    assert [read(folder, names).num_parsed for _ in range(2)] == [5, 0]
    assert as_read(read(folder, names).table) == as_parsed(paths)


def test_relative_paths_share_the_cache(folder, any_age, monkeypatch):
    read(folder)
    monkeypatch.chdir(folder)
    assert read_annotations(["a.xml", "b.xml"]).num_parsed == 0
    monkeypatch.chdir(folder.parent)
    assert read_annotations(["Annotations/a.xml"]).num_parsed == 0


def _read_many(arguments):
    paths, rounds = arguments
    kept.RACY_SECONDS = -AGE
    return [as_read(read_annotations(paths).table) for _ in range(rounds)]


def test_processes_at_the_same_time(folder, own_cache_folder):
    for number in range(40):
        (folder / f"{number}.xml").write_text(xml(("cat", 0, 0, (1, 1, number + 2, 9))))
    lists = [[str(folder / f"{n}.xml") for n in range(start, 40, 2)] for start in (0, 1)] * 2
    with ProcessPoolExecutor(4) as pool:
        results = list(pool.map(_read_many, [(paths, 15) for paths in lists]))
    for paths, rounds in zip(lists, results, strict=True):
        assert rounds == [as_parsed(paths)] * 15
    assert [path.suffix for path in own_cache_folder.iterdir()] == [".npz"]


def test_real_annotations_twice(unpacked, own_cache_folder):
    """All of VOC2007, from the files and from the cache; unpacking has left them old enough by now, or nearly."""
    folder = unpacked("voc0712-annotations") / "VOCdevkit" / "VOC2007" / "Annotations"
    paths = sorted(folder.iterdir())
    time.sleep(max(0, kept.RACY_SECONDS + 0.1 - (time.time() - max(p.stat().st_ctime for p in paths))))
    first, second = read_annotations(paths), read_annotations(paths)
    assert (first.num_parsed, second.num_parsed) == (9963, 0)
    for name in ("sizes", "offsets", "class_index", "boxes", "difficult", "truncated", "truncated_known"):
        np.testing.assert_array_equal(getattr(first.table, name), getattr(second.table, name))
    assert first.table.class_names == second.table.class_names
    assert len(first.table.boxes) == 30638
    assert str(cache_root()) in str(own_cache_folder)


# --- classes


@pytest.fixture
def lists(folder):
    main = folder.parent / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("a\n\nb \n")
    (main / "empty.txt").write_text("b\n")
    return main


def test_scan(folder, lists, tmp_path):
    root = tmp_path
    assert find_voc_folders(root) == find_voc_folders(root / "VOC2007") == [root / "VOC2007"]
    assert list(scan_classes(root).items()) == [("cat", 2), ("dog", 1)]
    assert scan_classes(root / "VOC2007", split="train") == {"cat": 1, "dog": 1}
    assert scan_classes(root, ann_files=["VOC2007/ImageSets/Main/train.txt"]) == {"cat": 1, "dog": 1}
    other = root / "VOC2012" / "Annotations"
    other.mkdir(parents=True)
    (other / "x.xml").write_text(xml(("Ant", 0, 0, (1, 1, 2, 2)), ("ant", 0, 0, (1, 1, 2, 2))))
    assert list(scan_classes(root)) == ["Ant", "ant", "cat", "dog"]
    (root / "kit").mkdir()
    (root / "VOC2012").rename(root / "kit" / "VOCdevkit")
    (root / "kit" / "VOCdevkit").rename(root / "kit" / "inner")
    assert scan_classes(root / "kit", cache=False) == {"Ant": 1, "ant": 1}


def test_scan_in_a_devkit_folder(folder, tmp_path):
    outer = tmp_path / "data"
    (outer / "VOCdevkit").mkdir(parents=True)
    folder.parent.rename(outer / "VOCdevkit" / "VOC2007")
    assert scan_classes(outer) == {"cat": 2, "dog": 1}


def test_scan_problems(folder, lists, tmp_path):
    with pytest.raises(DataError, match=r"no VOC-format data there; expected a folder with Annotations/"):
        scan_classes(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no list 'val'; looked for .*Main/val\.txt"):
        scan_classes(tmp_path, split="val")
    with pytest.raises(DataError, match=r"no object in 1 annotations"):
        scan_classes(tmp_path, split="empty")
    with pytest.raises(DataError, match=r"val\.txt: this list of images cannot be read"):
        scan_classes(tmp_path, ann_files=["VOC2007/ImageSets/Main/val.txt"])
    (tmp_path / "list.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"list\.txt: no folder above it has Annotations/"):
        scan_classes(tmp_path, ann_files=["list.txt"])
    (folder / "a.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"a\.xml: not a readable XML file"):
        scan_classes(tmp_path)
    with pytest.raises(ValueError, match="not both"):
        scan_classes(tmp_path, split="train", ann_files=["x"])


def test_scan_of_real_data(unpacked):
    root = unpacked("bccd")
    assert scan_classes(root, split="trainval") == {"Platelets": 292, "RBC": 3350, "WBC": 301}
