"""Verifying: every planted fault is found and named, and sound data (the negative control) passes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sosr_det.data.prepare import OfficialSplit, catalogue, dataset_entry, verify_dataset
from sosr_det.data.prepare.layout_cifar import PUBLISHED_MD5
from sosr_det.errors import ConfigError, DataError

WNIDS = ("n01440764", "n01443537", "n01484850")


def image(seed: int, suffix: str = ".jpg") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def expect(monkeypatch, name: str, **changes) -> None:
    """Change the published counts."""
    entry = dataclasses.replace(dataset_entry(name), **changes)
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, name: entry})


@pytest.fixture
def imagenet(monkeypatch, tmp_path) -> Path:
    """Three classes with four training and two validation images."""
    expect(
        monkeypatch, "imagenet", classes=3, splits={"train": OfficialSplit(12), "val": OfficialSplit(6, 2)}
    )
    seeds = iter(range(99))
    files = {f"train/{w}/{w}_{i}.JPEG": image(next(seeds)) for w in WNIDS for i in range(4)}
    files |= {
        f"val/{w}/ILSVRC2012_val_{next(seeds):08d}.JPEG": image(next(seeds)) for w in WNIDS for _ in range(2)
    }
    return write(tmp_path / "imagenet", files)


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> Path:
    splits = {"train": OfficialSplit(6, 2), "val": OfficialSplit(6, 2)}
    expect(monkeypatch, "tiny-imagenet", classes=3, splits=splits)
    files = {f"train/{w}/images/{w}_{i}.JPEG": image(i) for w in WNIDS for i in range(2)}
    files |= {f"train/{w}/{w}_boxes.txt": b"boxes" for w in WNIDS}
    files |= {f"val/images/val_{i}.JPEG": image(50 + i) for i in range(6)}
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t9\t9" for i in range(6)]
    files["val/val_annotations.txt"] = "\n".join(lines).encode()
    files["wnids.txt"] = "\n".join(WNIDS).encode()
    return write(tmp_path / "tiny-imagenet-200", files)


@pytest.fixture
def cub(monkeypatch, tmp_path) -> Path:
    expect(monkeypatch, "cub200", classes=2, splits={"train": OfficialSplit(4), "test": OfficialSplit(4)})
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    paths = [f"{name}/{name[4:]}_{number:04d}.jpg" for name in names for number in range(4)]
    lists = {
        "images.txt": [f"{i} {path}" for i, path in enumerate(paths, 1)],
        "image_class_labels.txt": [f"{i} {path[2]}" for i, path in enumerate(paths, 1)],
        "train_test_split.txt": [f"{i} {i % 2}" for i, _ in enumerate(paths, 1)],
        "classes.txt": [f"{i} {name}" for i, name in enumerate(names, 1)],
    }
    files = {f"images/{path}": image(200 + i) for i, path in enumerate(paths)}
    files |= {name: "\n".join(lines).encode() for name, lines in lists.items()}
    return write(tmp_path / "CUB_200_2011", files)


def problems(name: str, root: Path, **options) -> list[tuple[str, str]]:
    report = verify_dataset(name, root, workers=2, **options)
    assert report.ok == (not report.problems)
    return sorted((problem.kind, problem.path) for problem in report.problems)


# ---- the negative control: sound data sets have no problem ----


def test_a_sound_imagenet_passes(imagenet):
    report = verify_dataset("imagenet", imagenet.parent)
    assert report.problems == []
    assert report.notes == []
    assert report.decoded == 18
    assert {name: split.images for name, split in report.found.splits.items()} == {"train": 12, "val": 6}
    assert problems("imagenet", imagenet) == []  # named by its own folder


def test_a_sound_tiny_imagenet_passes(tiny):
    report = verify_dataset("tiny-imagenet", tiny)
    assert (report.problems, report.notes, report.decoded) == ([], [], 12)
    assert "original" in report.layout


def test_a_sound_cub_passes(cub):
    report = verify_dataset("cub200", cub)
    assert (report.problems, report.notes, report.decoded) == ([], [], 8)
    assert report.imagenet is None


def test_sorted_tiny_imagenet_passes(tiny):
    for i, wnid in enumerate(WNIDS * 2):
        (tiny / "val" / wnid).mkdir(exist_ok=True)
        (tiny / f"val/images/val_{i}.JPEG").rename(tiny / f"val/{wnid}/val_{i}.JPEG")
    (tiny / "val" / "val_annotations.txt").unlink()
    (tiny / "val" / "images").rmdir()
    assert problems("tiny-imagenet", tiny) == []


# ---- planted faults: exactly these problems, no others ----


def truncate(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


FIRST = "train/n01440764/n01440764_0.JPEG"


def animated_gif() -> bytes:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def png_16_bit() -> bytes:
    return cv2.imencode(".png", np.arange(64, dtype=np.uint16).reshape(8, 8) * 900)[1].tobytes()


IMAGENET_FAULTS = {
    "truncated": (lambda r: truncate(r / FIRST, 0.5), [("undecodable", FIRST)]),
    "last byte lost": (lambda r: truncate(r / FIRST, 0.999), [("undecodable", FIRST)]),
    "no image": (lambda r: (r / FIRST).write_bytes(b"<html>"), [("undecodable", FIRST)]),
    "a BMP inside": (lambda r: (r / FIRST).write_bytes(image(0, ".bmp")), [("undecodable", FIRST)]),
    "animated": (lambda r: (r / FIRST).write_bytes(animated_gif()), [("undecodable", FIRST)]),
    "16 bits": (lambda r: (r / FIRST).write_bytes(png_16_bit()), [("undecodable", FIRST)]),
    "empty file": (lambda r: (r / FIRST).write_bytes(b""), [("empty", FIRST)]),
    "dangling link": (lambda r: ((r / FIRST).unlink(), (r / FIRST).symlink_to("gone")), [("missing", FIRST)]),
    "image lost": (lambda r: (r / FIRST).unlink(), [("count", "train")]),
    "image too many": (
        lambda r: shutil.copy(r / FIRST, r / "train/n01440764/n01440764_9.JPEG"),
        [("count", "train")],
    ),
    "validation image lost": (
        lambda r: next((r / "val/n01440764").iterdir()).unlink(),
        [("count", "val"), ("count", "val")],  # of the split, and of the class
    ),
    "in the wrong class": (
        lambda r: (r / FIRST).rename(r / "train/n01443537/n01440764_0.JPEG"),
        [("misplaced", "train/n01443537/n01440764_0.JPEG")],
    ),
    "outside of the classes": (
        lambda r: shutil.copy(r / FIRST, r / "train/stray.JPEG"),
        [("misplaced", "train/stray.JPEG")],
    ),
    "another extension": (
        lambda r: (r / FIRST).rename((r / FIRST).with_suffix(".jfif")),
        [("count", "train"), ("extension", FIRST.replace(".JPEG", ".jfif"))],
    ),
    "AppleDouble": (
        lambda r: (r / "train/n01440764/._n01440764_0.JPEG").write_bytes(b"\0\5\x16\7"),
        [("count", "train"), ("undecodable", "train/n01440764/._n01440764_0.JPEG")],
    ),
    "extra class in val": (
        lambda r: write(r, {"val/n99999999/a.JPEG": image(1)}),
        [("classes", "train"), ("classes", "val"), ("count", "val"), ("count", "val"), ("count", "val")],
    ),
    "class lost in val": (
        lambda r: shutil.rmtree(r / "val/n01484850"),
        [("classes", "val"), ("count", "val"), ("count", "val")],
    ),
    "empty class": (
        lambda r: (r / "train/n00000000").mkdir(),
        [("classes", "train/n00000000")],
    ),
    "renamed class": (
        lambda r: [(r / s / "n01484850").rename(r / s / "sharks") for s in ("train", "val")],
        [("classes", "train"), ("classes", "val")],
    ),
    "no validation split": (
        lambda r: shutil.rmtree(r / "val"),
        [("count", "val"), ("count", "val"), ("missing", "val")],
    ),
}


@pytest.mark.parametrize("fault", IMAGENET_FAULTS)
def test_faults_of_class_folders_are_found(imagenet, fault):
    plant, expected = IMAGENET_FAULTS[fault]
    plant(imagenet)
    assert problems("imagenet", imagenet) == expected


def val_line(old: str, new: str):
    def plant(root: Path) -> None:
        path = root / "val" / "val_annotations.txt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return plant


TINY_FAULTS = {
    "listed twice": (
        val_line("val_1.JPEG\t", "val_0.JPEG\t"),
        [("count", "val"), ("count", "val"), ("repeated", "val/images/val_0.JPEG"),
         ("unlisted", "val/images/val_1.JPEG")],
    ),
    "listed, not there": (
        lambda r: (r / "val/images/val_2.JPEG").unlink(),
        [("count", "val"), ("count", "val"), ("missing", "val/images/val_2.JPEG")],
    ),
    "unknown class": (
        val_line("n01440764", "n77777777"),
        [("classes", "train"), ("count", "val"), ("count", "val")],
    ),
    "malformed line": (
        val_line("val_0.JPEG\t", "val_0.JPEG "),
        [("count", "val")] * 3 + [("malformed", "val/val_annotations.txt"), ("unlisted", "val/images/val_0.JPEG")],
    ),
    "not in wnids.txt": (
        lambda r: (r / "wnids.txt").write_text("\n".join([*WNIDS[:2], "n11111111"])),
        [("classes", "wnids.txt"), ("classes", "wnids.txt")],
    ),
    "truncated": (
        lambda r: truncate(r / "val/images/val_5.JPEG", 0.7),
        [("undecodable", "val/images/val_5.JPEG")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", TINY_FAULTS)
def test_faults_of_tiny_imagenet_are_found(tiny, fault):
    plant, expected = TINY_FAULTS[fault]
    if fault == "malformed line":  # its other fields are separated by tabs, too
        path = tiny / "val" / "val_annotations.txt"
        path.write_text("val_0.JPEG n01440764 0 0 9 9\n" + path.read_text().split("\n", 1)[1])
        expected = [e for e in expected if e != ("count", "val")] + [("count", "val")] * 2
        assert problems("tiny-imagenet", tiny) == sorted(expected)
        return
    plant(tiny)
    assert problems("tiny-imagenet", tiny) == expected


def cub_line(file: str, old: str, new: str):
    def plant(root: Path) -> None:
        lines = (root / file).read_text().split("\n")
        lines[lines.index(old)] = new
        (root / file).write_text("\n".join(lines))

    return plant


BIRD = "001.Black_footed_Albatross/Black_footed_Albatross"
CUB_FAULTS = {
    "image lost": (
        lambda r: (r / f"images/{BIRD}_0001.jpg").unlink(),
        [("count", "test"), ("missing", f"images/{BIRD}_0001.jpg")],
    ),
    "image unlisted": (
        lambda r: write(r, {"images/new.jpg": image(1)}),
        [("unlisted", "images/new.jpg")],
    ),
    "listed twice": (
        cub_line("images.txt", f"1 {BIRD}_0000.jpg", f"1 {BIRD}_0001.jpg"),
        [("count", "test"), ("repeated", f"images/{BIRD}_0001.jpg"), ("unlisted", f"images/{BIRD}_0000.jpg")],
    ),
    "wrong label": (
        cub_line("image_class_labels.txt", "1 1", "1 2"),
        [("misplaced", f"images/{BIRD}_0000.jpg")],
    ),
    "wrong split": (
        cub_line("train_test_split.txt", "1 1", "1 0"),
        [("count", "test"), ("count", "train")],
    ),
    "split flag of no meaning": (
        cub_line("train_test_split.txt", "1 1", "1 7"),
        [("count", "train"), ("malformed", "train_test_split.txt")],
    ),
    "list lost": (
        lambda r: (r / "train_test_split.txt").unlink(),
        [("classes", "classes.txt"), ("count", "test"), ("count", "test"), ("count", "train"), ("count", "train"),
         ("malformed", "train_test_split.txt"), ("missing", "train_test_split.txt")],
    ),
    "no image": (
        lambda r: (r / f"images/{BIRD}_0003.jpg").write_bytes(b"x"),
        [("undecodable", f"images/{BIRD}_0003.jpg")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", CUB_FAULTS)
def test_faults_of_cub_are_found(cub, fault):
    plant, expected = CUB_FAULTS[fault]
    plant(cub)
    assert problems("cub200", cub) == expected


def test_a_png_named_jpeg_is_a_note(imagenet):
    """ImageNet's own n02105855_2933.JPEG is a PNG; training decodes it."""
    (imagenet / FIRST).write_bytes(image(0, ".png"))
    report = verify_dataset("imagenet", imagenet)
    assert report.ok
    assert report.notes == [f"{FIRST} is a PNG file"]


def test_what_verify_accepts_the_data_set_reads_and_the_other_way_round(imagenet):
    """One judgement with the reader, image by image."""
    from sosr_det.data.classification import read_rgb_image

    contents = [
        image(0),
        image(0, ".png"),
        image(0, ".webp"),
        image(0, ".bmp"),
        image(0)[:-1],
        image(0, ".png")[:-30],
    ]
    for content in contents:
        (imagenet / FIRST).write_bytes(content)
        try:
            read_rgb_image(imagenet / FIRST)
            readable = True
        except DataError:
            readable = False
        assert verify_dataset("imagenet", imagenet).ok == readable


# ---- subsets ----


def test_a_subset_passes_only_on_request(imagenet, monkeypatch):
    expect(
        monkeypatch,
        "imagenet",
        classes=1000,
        splits={"train": OfficialSplit(1_281_167), "val": OfficialSplit(50_000, 50)},
    )
    report = verify_dataset("imagenet", imagenet)
    assert not report.ok
    assert {problem.kind for problem in report.problems} == {"count"}
    assert report.shortfalls == len(report.problems)
    assert "found 3 of 1,000 classes" in [problem.reason for problem in report.problems]
    report = verify_dataset("imagenet", imagenet, subset_ok=True)
    assert report.ok
    assert "train: found 3 of 1,000 classes" in report.notes
    assert "val: found 6 of 50,000 images" in report.notes


def test_a_subset_may_not_have_more_or_broken_images(imagenet):
    shutil.copy(imagenet / FIRST, imagenet / "train/n01440764/n01440764_9.JPEG")
    truncate(imagenet / FIRST, 0.5)
    assert problems("imagenet", imagenet, subset_ok=True) == [("count", "train"), ("undecodable", FIRST)]


def test_classes_that_imagenet_does_not_have_pass_only_as_a_subset(imagenet):
    for split in ("train", "val"):
        (imagenet / split / "n01484850").rename(imagenet / split / "sharks")
    assert problems("imagenet", imagenet, subset_ok=True) == []


# ---- images that CUB and ImageNet share ----


def test_identical_images_of_cub_and_imagenet_are_reported(cub, imagenet):
    names = sorted(path.relative_to(cub).as_posix() for path in (cub / "images").rglob("*.jpg"))
    flags = dict(line.split() for line in (cub / "train_test_split.txt").read_text().splitlines())
    test = [name for i, name in enumerate(names, 1) if flags[str(i)] == "0"]
    train = [name for name in names if name not in test]
    content = (cub / test[0]).read_bytes()
    shared = sorted(
        [(test[0], "train/n01443537/n01443537_9.JPEG"), (test[0], "val/n01440764/copy.JPEG"),
         (test[2], "train/n01440764/n01440764_8.JPEG")]
    )  # fmt: skip
    for ours, theirs in shared:
        shutil.copy(cub / ours, imagenet / theirs)
    shutil.copy(cub / train[0], imagenet / "train/n01440764/n01440764_7.JPEG")  # training images do not count
    same_size = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    (imagenet / "train/n01440764/n01440764_6.JPEG").write_bytes(same_size)

    report = verify_dataset("cub200", cub)  # finds ImageNet beside it
    assert report.imagenet == imagenet
    assert report.identical == shared
    assert report.ok  # a property of the published data, not a fault of this copy

    elsewhere = cub.parent / "elsewhere"
    imagenet.rename(elsewhere)
    assert verify_dataset("cub200", cub).imagenet is None
    assert verify_dataset("cub200", cub, imagenet=elsewhere).identical == shared


def test_imagenet_without_shared_images_reports_none(cub, imagenet):
    report = verify_dataset("cub200", cub)
    assert (report.imagenet, report.identical) == (imagenet, [])


def test_imagenet_that_was_named_must_be_there(cub, tmp_path):
    with pytest.raises(DataError, match="no ImageNet-1k"):
        verify_dataset("cub200", cub, imagenet=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="--imagenet is for cub200"):
        verify_dataset("tiny-imagenet", cub, imagenet=tmp_path)


# ---- CIFAR ----


def pickled(value: object) -> bytes:
    # Protocol 2 and NumPy's old module name, as the authors' files have them.
    return pickle.dumps(value, protocol=2).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


@pytest.fixture
def cifar(monkeypatch, tmp_path) -> Path:
    splits = {"train": OfficialSplit(40, 4), "test": OfficialSplit(20, 2)}
    expect(monkeypatch, "cifar100", classes=10, splits=splits)

    def batch(count: int) -> bytes:
        labels = [i % 10 for i in range(count)]
        return pickled(
            {"data": np.zeros((count, 3072), np.uint8), "fine_labels": labels, "coarse_labels": labels}
        )

    files = {"train": batch(40), "test": batch(20), "meta": pickled({"fine_label_names": list("abcdefghij")})}
    monkeypatch.setitem(PUBLISHED_MD5, "cifar100", {n: hashlib.md5(c).hexdigest() for n, c in files.items()})
    return write(
        tmp_path / "cifar100", {f"cifar-100-python/{name}": content for name, content in files.items()}
    )


def test_sound_cifar_files_pass(cifar):
    report = verify_dataset("cifar100", cifar.parent)
    assert (report.problems, report.notes, report.decoded) == ([], [], 60)
    assert "Python files" in report.layout


def broken_batch(**changes) -> bytes:
    labels = [i % 10 for i in range(20)]
    return pickled({"data": np.zeros((20, 3072), np.uint8), "fine_labels": labels} | changes)


CHECKSUM, COUNTS = ("checksum", "cifar-100-python/test"), [("count", "test")] * 2
CIFAR_FAULTS = {
    "other pixels": (broken_batch(data=np.ones((20, 3072), np.uint8)), []),
    "cut off": (broken_batch()[:-500], [*COUNTS, ("undecodable", "cifar-100-python/test")]),
    "wrong shape": (
        broken_batch(data=np.zeros((20, 3000), np.uint8)),
        [*COUNTS, ("undecodable", "cifar-100-python/test")],
    ),
    "label out of range": (
        broken_batch(fine_labels=[10] + [i % 10 for i in range(1, 20)]),
        [("count", "test"), ("count", "test"), ("malformed", "cifar-100-python/test")],
    ),
    "labels lost": (
        broken_batch(fine_labels=[0]),
        [*COUNTS, ("malformed", "cifar-100-python/test")],
    ),
    "class lost": (
        broken_batch(fine_labels=[i % 9 for i in range(20)]),
        [("count", "test"), ("count", "test")],
    ),
}


@pytest.mark.parametrize("fault", CIFAR_FAULTS)
def test_faults_of_cifar_files_are_found(cifar, fault):
    content, expected = CIFAR_FAULTS[fault]
    (cifar / "cifar-100-python" / "test").write_bytes(content)
    found = problems("cifar100", cifar)
    assert set(found) == {CHECKSUM, *expected}, found
    assert CHECKSUM in problems("cifar100", cifar, subset_ok=True)  # the data set refuses such a file


def test_a_lost_cifar_file_is_found(cifar):
    (cifar / "cifar-100-python" / "test").unlink()
    assert ("missing", "cifar-100-python/test") in problems("cifar100", cifar, subset_ok=True)


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_a_pickle_that_wants_to_run_something_does_not(cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cifar / "cifar-100-python" / "test").write_bytes(pickle.dumps(Planted(), protocol=2))
    report = verify_dataset("cifar100", cifar)
    assert not (tmp_path / "planted").exists()
    assert any("mkdir" in problem.reason for problem in report.problems)


def test_cifar_as_class_folders(monkeypatch, tmp_path):
    splits = {"train": OfficialSplit(4, 2), "test": OfficialSplit(2, 1)}
    expect(monkeypatch, "cifar10", classes=2, splits=splits)
    files = {f"train/{c}/{i}.jpg": image(i) for c in ("cat", "dog") for i in range(2)}
    files |= {f"test/{c}/0.png": image(9, ".png") for c in ("cat", "dog")}
    root = write(tmp_path / "cifar10", files)
    assert problems("cifar10", root) == []
    (root / "test/dog/0.png").unlink()
    assert problems("cifar10", root) == [
        ("classes", "test"), ("classes", "test/dog"), ("count", "test"), ("count", "test"),
    ]  # fmt: skip


# ---- VOC, and the whole ----


def test_voc_is_counted_and_decoded(monkeypatch, tmp_path):
    names = dataset_entry("voc").splits
    expect(monkeypatch, "voc", splits={name: OfficialSplit(2) for name in names})
    files = {}
    for number, name in enumerate(names):
        year, split = name.split("/")
        ids = [f"{number}{i}" for i in range(2)]
        files[f"{year}/ImageSets/Main/{split}.txt"] = "\n".join(ids).encode()
        files |= {f"{year}/JPEGImages/{i}.jpg": image(1) for i in ids}
        files |= {f"{year}/Annotations/{i}.xml": b"<annotation/>" for i in ids}
    root = write(tmp_path / "VOCdevkit", files)
    report = verify_dataset("voc", tmp_path)
    assert (report.problems, report.decoded) == ([], 6)
    (root / "VOC2007/Annotations/11.xml").unlink()
    (root / "VOC2012/JPEGImages/20.jpg").unlink()
    truncate(root / "VOC2007/JPEGImages/00.jpg", 0.5)
    assert problems("voc", tmp_path) == [
        ("count", "VOC2012/trainval"),
        ("missing", "VOC2007/Annotations/11.xml"),
        ("missing", "VOC2012/JPEGImages/20.jpg"),
        ("undecodable", "VOC2007/JPEGImages/00.jpg"),
    ]


@pytest.mark.parametrize("name", list(catalogue.CATALOGUE))
def test_a_data_set_that_is_not_there_is_an_error_with_the_way_to_get_it(name, tmp_path):
    with pytest.raises(DataError, match=rf"sosr-det data prepare {name} --root {tmp_path}"):
        verify_dataset(name, tmp_path)


def test_the_report_as_json_counts_all_and_shows_some(imagenet):
    for path in sorted((imagenet / "train/n01440764").iterdir())[:3]:
        path.write_bytes(b"")
    report = verify_dataset("imagenet", imagenet)
    shown = report.as_dict(max_problems=2)
    assert (shown["ok"], shown["problem_count"], len(shown["problems"])) == (False, 3, 2)
    assert shown["problem_kinds"] == {"empty": 3}
    assert shown["problems"][0] == {"kind": "empty", "path": FIRST, "reason": "has 0 bytes"}
    assert shown["splits"]["val"] == {"images": 6, "official_images": 6, "classes": 3, "official_classes": 3}
    assert shown["decoded_images"] == 15


def test_the_number_of_workers_changes_nothing(imagenet):
    truncate(imagenet / FIRST, 0.5)
    assert (
        verify_dataset("imagenet", imagenet, workers=1).problems
        == verify_dataset("imagenet", imagenet, workers=5).problems
    )
    with pytest.raises(ConfigError, match="at least 1"):
        verify_dataset("imagenet", imagenet, workers=0)


def test_the_real_sample_of_tiny_imagenet(unpacked):
    root = unpacked("tiny-imagenet-200")
    report = verify_dataset("tiny-imagenet", root)
    assert {problem.kind for problem in report.problems} == {"count"}
    assert "found 20 of 200 classes" in [problem.reason for problem in report.problems]
    assert report.shortfalls == len(report.problems)  # so that --subset-ok would accept it
    assert (report.decoded, report.notes) == (11_000, [])
