"""The kept list of a data set's images: the same as reading the folders, noticed when stale, safe when damaged."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sosr_det.data.image_dataset import IMAGE_SUFFIXES
from sosr_det.data.image_index import cache
from sosr_det.data.image_index.array_file import read_arrays, write_arrays
from sosr_det.data.image_index.cache import open_image_index, read_index_file
from sosr_det.data.image_index.index import ImageIndex
from sosr_det.data.imagenet import ImageNetFolder
from sosr_det.errors import DataError

OLD = 10**9  # seconds since the epoch: long before any test


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    """Nested folders, other files, names that sort differently as text, and one that is no UTF-8."""
    folder = tmp_path / "data"
    for name in (
        "b/2.JPEG", "b/10.JPEG", "b/notes.txt", "a/x.jpg", "a/x/1.png", "a/x-1/2.webp", "a/.jpg", "a/.hidden.gif",
        "c c/ä.jpeg", "c c/images/z.jpg",
    ):  # fmt: skip
        write(folder / "train" / name)
        write(folder / "val" / name)
    write(Path(os.fsdecode(os.fsencode(folder / "train" / "a") + b"/\xff.jpg")))
    (folder / "train" / "list.txt").write_text("")
    (folder / "train" / "a" / "loop").symlink_to(folder / "train")
    shutil.copytree(folder / "train" / "a", folder / "elsewhere", symlinks=True)
    (folder / "train" / "linked").symlink_to(folder / "elsewhere")
    (folder / "val" / "linked").symlink_to(folder / "elsewhere")
    age(folder)
    return folder


def write(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def age(folder: Path) -> None:
    """As if nothing had been changed for years: what was changed a moment ago is not kept."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def slow_reading(root: Path, split: str) -> tuple[list[str], list[int], list[str], str]:
    """As the data set read its folders before there was an index: by pathlib."""
    classes = sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir())
    paths, labels = [], []
    for name in sorted(entry.name for entry in (root / split).iterdir() if entry.is_dir()):
        for path in sorted(p for p in (root / split / name).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            paths.append(str(path.relative_to(root)))
            labels.append(classes.index(name))
    lines = sorted(f"{path}\t{label}" for path, label in zip(paths, labels, strict=True))
    text = "\n".join([*classes, "", *lines]).encode("utf-8", "surrogateescape")
    return paths, labels, classes, hashlib.sha256(text).hexdigest()


def content(index: ImageIndex) -> tuple[list[str], list[int], list[str], str]:
    paths = [index.path(number) for number in range(len(index))]
    return paths, index.labels.tolist(), list(index.classes), index.fingerprint()


@pytest.mark.parametrize("split", ["train", "val"])
def test_built_and_opened_indexes_are_what_reading_the_folders_gives(root, split):
    expected = slow_reading(root, split)
    assert len(expected[0]) > 10
    built = open_image_index(root, split)
    assert built.built_because == "there was none"
    opened = open_image_index(root, split)
    assert opened.built_because is None
    assert opened.file == built.file
    assert content(built.index) == content(opened.index) == expected
    assert [path.encode("utf-8", "surrogateescape") for path in expected[0]] == list(
        opened.index.encoded_paths()
    )


def test_the_data_set_uses_it(root):
    data = ImageNetFolder(str(root), "train", [])
    paths, labels, classes, fingerprint = slow_reading(root, "train")
    assert (data.classes, data.labels.tolist(), data.fingerprint()) == (classes, labels, fingerprint)
    assert [data.sample_name(i) for i in range(len(data))] == [str(root / path) for path in paths]


def test_places_are_checked():
    index = ImageIndex.from_samples([("a", 0), ("bc", 1)], ["x", "y"])
    assert [index.path(number) for number in (0, 1, -1, -2)] == ["a", "bc", "bc", "a"]
    for outside in (2, -3):
        with pytest.raises(IndexError):
            index.path(outside)


def add_image(root):
    write(root / "train" / "b" / "3.JPEG")


def remove_image(root):
    (root / "train" / "b" / "2.JPEG").unlink()


def rename_image(root):
    (root / "train" / "c c" / "images" / "z.jpg").rename(root / "train" / "c c" / "images" / "y.jpg")


def rename_class(root):
    (root / "train" / "b").rename(root / "train" / "bb")


def add_class(root):
    write(root / "train" / "new" / "1.jpg")


def replace_class(root):
    """By a folder of the same age."""
    shutil.move(root / "train" / "b", root / "was")
    write(root / "train" / "b" / "other.jpg")
    os.utime(root / "train" / "b", (OLD, OLD))
    os.utime(root / "train", (OLD, OLD))


@pytest.mark.parametrize(
    "change", [add_image, remove_image, rename_image, rename_class, add_class, replace_class]
)
def test_every_change_of_the_folders_is_noticed(root, change, capsys):
    open_image_index(root, "train")
    change(root)
    again = open_image_index(root, "train")
    assert again.built_because.startswith(str(root / "train"))
    assert content(again.index) == slow_reading(root, "train")


def test_a_changed_content_is_no_change_of_the_list(root):
    open_image_index(root, "train")
    (root / "train" / "b" / "2.JPEG").write_bytes(b"other")
    assert open_image_index(root, "train").built_because is None


def test_a_new_class_in_training_makes_the_index_of_validation_stale(root):
    before = open_image_index(root, "val").index
    write(root / "train" / "aa" / "1.jpg")
    after = open_image_index(root, "val").index
    assert content(after) == slow_reading(root, "val")
    assert before.labels.tolist() != after.labels.tolist()


def test_what_changed_a_moment_ago_is_not_kept(root):
    add_image(root)
    built = open_image_index(root, "train")
    assert built.file is None
    assert open_image_index(root, "train").built_because == "there was none"


def test_tiny_imagenets_validation_list(tmp_path):
    root = tmp_path / "tiny"
    for name in ("n1", "n2"):
        write(root / "train" / name / "images" / "1.JPEG")
    for number in range(3):
        write(root / "val" / "images" / f"val_{number}.JPEG")
    listed = root / "val" / "val_annotations.txt"
    listed.write_text("val_2.JPEG\tn2\t0\nval_0.JPEG\tn1\t0\nval_1.JPEG\tn2\t0\n")
    age(root)
    for _ in range(2):
        opened = open_image_index(root, "val")
        assert content(opened.index)[:2] == (
            [f"val/images/val_{number}.JPEG" for number in (2, 0, 1)],
            [1, 0, 1],
        )
        assert opened.layout == "val_annotations.txt"
    assert opened.built_because is None
    listed.write_text("val_2.JPEG\tn1\t0\nval_0.JPEG\tn1\t0\nval_1.JPEG\tn2\t0\n")
    os.utime(listed, (OLD + 1, OLD + 1))
    assert open_image_index(root, "val").index.labels.tolist() == [0, 0, 1]
    assert open_image_index(root, "train").index.path(1) == "train/n2/images/1.JPEG"


@pytest.mark.parametrize("at", [3, 12, 40, -30, -2000])
def test_a_flipped_bit_is_found_wherever_it_is(root, at):
    file = open_image_index(root, "train").file
    data = bytearray(file.read_bytes())
    place = at % len(data)
    while at < 0 and data[place] == 0:  # what fills the arrays up to their multiples has no checksum
        place -= 1
    data[place] ^= 4
    file.write_bytes(data)
    again = open_image_index(root, "train")
    assert str(file) in again.built_because
    assert content(again.index) == slow_reading(root, "train")
    assert open_image_index(root, "train").built_because is None


@pytest.mark.parametrize("keep", [0, 10, 100, 500, -1])
def test_a_cut_off_file_is_built_anew(root, keep):
    file = open_image_index(root, "train").file
    data = file.read_bytes()
    file.write_bytes(data[: keep % len(data) if keep >= 0 else -64])
    assert "cannot be used" in open_image_index(root, "train").built_because
    assert content(open_image_index(root, "train").index) == slow_reading(root, "train")


def test_an_index_of_another_version_or_open_to_others_is_not_used(root, monkeypatch):
    file = open_image_index(root, "train").file
    file.chmod(0o666)
    assert "others can write it" in open_image_index(root, "train").built_because
    assert file.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert "its format is 1, expected 2" in open_image_index(root, "train").built_because


def test_where_nothing_can_be_kept_everything_works_without(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "file"))  # root may write read-only folders
    for _ in range(2):
        assert content(open_image_index(root, "train").index) == slow_reading(root, "train")
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "unused"))
    monkeypatch.setenv("SOSR_IMAGE_INDEX", "0")
    assert open_image_index(root, "train").file is None
    assert not (tmp_path / "unused").exists()


def test_a_failed_write_leaves_the_old_index_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "x.idx"
    write_arrays(file, {"a": np.arange(3, dtype=np.int32)}, {"n": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_arrays(file, {"a": np.arange(4, dtype=np.int32)}, {"n": 2})
    assert os.listdir(tmp_path) == ["x.idx"]
    with open(file, "rb") as stream:
        arrays, about = read_arrays(stream.fileno())
    assert (arrays["a"].tolist(), about) == ([0, 1, 2], {"n": 1})
    assert not arrays["a"].flags.writeable


def _open(root: Path, results) -> None:
    opened = open_image_index(root, "train")
    results.put((opened.built_because, opened.index.fingerprint(), opened.file is not None))


def test_processes_that_start_at_once_build_it_once(root):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_open, args=(root, results)) for _ in range(6)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert Counter(reason for reason, _, _ in found) == {"there was none": 1, None: 5}
    assert {(digest, kept) for _, digest, kept in found} == {(slow_reading(root, "train")[3], True)}
    assert not list((Path(os.environ["SOSR_CACHE"]) / "image-index").glob("*.part"))


def test_another_process_gets_the_file_and_not_a_copy(root):
    index = open_image_index(root, "train").index
    sent = pickle.dumps(index)
    assert len(sent) < 500
    assert content(pickle.loads(sent)) == content(index)
    assert pickle.loads(sent).source == (read_index_file, index.source[1])
    add_image(root)
    for folder in (root / "train", root / "train" / "b"):
        os.utime(folder, (OLD + 5, OLD + 5))
    assert open_image_index(root, "train").file is not None
    with pytest.raises(DataError, match="was replaced by an index of other images"):
        pickle.loads(sent)
    in_memory = ImageIndex.from_samples([("a/b.jpg", 0)], ["a"])
    assert content(pickle.loads(pickle.dumps(in_memory))) == content(in_memory)


def test_open_takes_no_time_for_a_hundred_thousand_images(tmp_path):
    """The figure for 1.28 M images is in docs/shards.md; this one only notices if opening begins to list again."""
    count = 100_000
    index = ImageIndex.from_samples(
        ((f"train/n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG", i % 1000) for i in range(count)),
        [f"n{i:08d}" for i in range(1000)],
    )
    assert index.nbytes / count < 50  # bytes for each image
    file = tmp_path / "big.idx"
    places = np.frombuffer(b"train", np.uint8)
    arrays = {"path_bytes": index.path_bytes, "offsets": index.offsets, "labels": index.labels,
              "places": places, "stamps": np.zeros(3, np.int64)}  # fmt: skip
    about = {"format": cache.FORMAT, "layout": "class folders", "classes": list(index.classes),
             "fingerprint": index.fingerprint()}  # fmt: skip
    write_arrays(file, arrays, about)
    began = time.process_time()
    again = read_index_file(file)
    assert again.fingerprint() == index.fingerprint()
    assert time.process_time() - began < 0.5
    assert again.path(count - 1) == index.path(count - 1)
