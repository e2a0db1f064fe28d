"""Unreadable images: loud by default, with their path; skipped up to a limit, the same for any number of workers."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

import sosr_det.register  # noqa: F401
from sosr_det.data.classification import ImageNetFolder
from sosr_det.data.sample_seeds import SampleSeededDataset
from sosr_det.data.unreadable import (
    SkipUnreadable,
    check_file_end,
    file_problem,
    find_unreadable,
    is_cut_off_jpeg,
    skip_unreadable,
)
from sosr_det.errors import ConfigError, DataError, UnreadableImageError

BAD = (3, 4, 11)
CROP = [{"type": "torchvision/RandomCrop", "size": 8}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """12 images of 24 x 24 px in two classes; their order is that of their numbers."""
    root = tmp_path_factory.mktemp("whole")
    draws = np.random.default_rng(0)
    for number in range(12):
        folder = root / "train" / ("a" if number < 6 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (24, 24, 3), np.uint8)).save(folder / f"{number:02d}.jpg")
    return root


@pytest.fixture
def damaged(whole, tmp_path) -> Path:
    """Cut off, filled up with zeros, and missing once the list is made."""
    root = tmp_path / "damaged"
    shutil.copytree(whole, root)
    for number, damage in zip(
        BAD, (lambda d: d[: len(d) // 2], lambda d: d[:-60] + bytes(60), None), strict=True
    ):
        path = next(root.rglob(f"{number:02d}.jpg"))
        path.write_bytes(damage(path.read_bytes()) if damage else b"")
    return root


def folder(root: Path, pipeline=CROP) -> dict:
    return {"type": "ImageNetFolder", "data_root": str(root), "split": "train", "pipeline": pipeline}


@pytest.mark.parametrize("number", BAD)
def test_without_the_policy_the_first_one_is_an_error_with_its_path(damaged, number):
    with pytest.raises(UnreadableImageError, match=rf"{number:02d}\.jpg .*cannot be decoded"):
        DATASETS.build(folder(damaged))[number]
    loader = torch.utils.data.DataLoader(DATASETS.build(folder(damaged)), batch_size=4, num_workers=1)
    with pytest.raises(DataError, match=r"03\.jpg"):
        list(loader)


def test_missing_files_are_named(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "data")
    data = ImageNetFolder(str(tmp_path / "data"), "train", [])
    (tmp_path / "data" / "train" / "a" / "02.jpg").unlink()
    with pytest.raises(UnreadableImageError, match=r"02\.jpg is missing"):
        data[2]
    assert SkipUnreadable(data)[2]["labels"] == 0


def batches(root: Path, workers: int, context: str | None = None) -> tuple[list, list[int]]:
    data = SampleSeededDataset(skip_unreadable(folder(root), 3))
    data.set_epoch(7, 1)
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, num_workers=workers, multiprocessing_context=context, collate_fn=list
    )
    samples = [(sample["inputs"].tolist(), sample["labels"]) for batch in loader for sample in batch]
    return samples, find_unreadable(data).indices()


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (1, "spawn")])
def test_the_next_readable_image_takes_the_place_whoever_reads_it(damaged, whole, workers, context):
    samples, found = batches(damaged, workers, context)
    assert found == list(BAD)
    reference = SampleSeededDataset(ImageNetFolder(str(whole), "train", CROP))
    reference.set_epoch(7, 1)
    for index in set(range(12)) - set(BAD):
        expected = reference[index]
        assert samples[index] == (expected["inputs"].tolist(), expected["labels"])
    for index, replacement in ((3, 5), (4, 5), (11, 0)):
        plain = ImageNetFolder(str(whole), "train", [])
        assert samples[index][1] == int(plain.labels[replacement])
        patch = torch.tensor(samples[index][0])
        windows = plain[replacement]["inputs"].unfold(1, 8, 1).unfold(2, 8, 1)
        assert (windows.permute(1, 2, 0, 3, 4) == patch).all(-1).all(-1).all(-1).any()  # a crop of that image
    assert samples == batches(damaged, 0)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_over_the_limit_the_run_stops_with_the_paths(damaged, workers):
    data = SkipUnreadable(folder(damaged), most=2)
    loader = torch.utils.data.DataLoader(data, batch_size=1, num_workers=workers, collate_fn=list)
    seen = []
    named = r"3 images are unreadable, and at most 2 may be(.|\n)*03.jpg\n\S*04.jpg\n\S*11"
    with pytest.raises(DataError, match=named):
        seen.extend(loader)
    assert len(seen) == 11
    data = SkipUnreadable(folder(damaged), most=3)
    assert (
        len([data[index] for index in range(12)] + [data[3]]) == 13
    )  # each counts once, and 3 are within the limit
    assert data.unreadable.indices() == list(BAD)
    with pytest.raises(DataError, match="1 images are unreadable, and at most 0"):
        SkipUnreadable(folder(damaged), most=0)[3]


def test_other_errors_are_not_skipped(whole):
    def broken(_):
        raise ValueError("a bug in a transform")

    with pytest.raises(ValueError, match="a bug in a transform"):
        SkipUnreadable(ImageNetFolder(str(whole), "train", [broken]))[0]


def test_where_it_goes_and_what_passes_through(damaged, whole):
    plain = folder(whole)
    assert skip_unreadable(plain, 5) == {"type": "SkipUnreadable", "dataset": plain, "most": 5}
    inside = {"type": "InMemoryDataset", "dataset": folder(damaged, [])}
    config = skip_unreadable(inside, 5)
    assert config["dataset"] == {"type": "SkipUnreadable", "dataset": folder(damaged, []), "most": 5}
    assert skip_unreadable(config, 5) == config
    held = DATASETS.build(config)
    assert find_unreadable(held).indices() == list(BAD)
    assert held.labels.tolist() == [0] * 6 + [1] * 5 + [0]
    with pytest.raises(DataError, match=r"03\.jpg"):
        DATASETS.build(inside)
    data = SkipUnreadable(plain)
    assert (len(data), data.metainfo, data.unreadable.most) == (12, {"classes": ("a", "b")}, 10)
    assert data.fingerprint() == DATASETS.build(plain).fingerprint()
    assert find_unreadable(DATASETS.build(plain)) is None
    with pytest.raises(ConfigError, match="at least 0 images"):
        SkipUnreadable(plain, most=-1)
    with pytest.raises(ConfigError, match="gives whole batches"):
        SkipUnreadable(DATASETS.build({"type": "InMemoryDataset", "dataset": folder(whole, [])}))


def jpeg(size: int = 64) -> bytes:
    return cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8))[
        1
    ].tobytes()


def test_cut_off_jpegs_are_told_from_whole_ones(tmp_path):
    data = jpeg()
    preview = b"\xff\xe1" + (2 + len(data)).to_bytes(2, "big") + data  # a whole JPEG within the header
    with_preview = data[:2] + preview + data[2:]
    for whole in (
        data,
        data + bytes(100),
        data + b"trailing",
        with_preview,
        with_preview + b"x",
        b"GIF89a",
        b"",
    ):
        assert not is_cut_off_jpeg(whole)
    for cut in (data[:-1], data[:-2], data[: len(data) // 2], data[:300] + bytes(500), with_preview[:-2],
                with_preview[: len(preview) + 200], data[:3]):  # fmt: skip
        assert is_cut_off_jpeg(cut)
    file = tmp_path / "a.jpg"
    for content, fine in ((data, True), (data + b"trailing", True), (data[:-50], False), (b"PNG?", True)):
        file.write_bytes(content)
        if fine:
            check_file_end(str(file))
        else:
            with pytest.raises(UnreadableImageError, match=r"a\.jpg: the JPEG is cut off after \d+ bytes"):
                check_file_end(str(file))
    check_file_end(str(tmp_path / "missing.jpg"))  # whoever reads it says so
    problems = {b"": "the file is empty", b"PNG?": "cannot be decoded", data[:-50]: "cut off"}
    for content, problem in problems.items():
        file.write_bytes(content)
        assert problem in file_problem(str(file))
    file.write_bytes(data)
    assert file_problem(str(file)) is None
    assert "cannot be read" in file_problem(str(tmp_path / "missing.jpg"))


def test_the_check_costs_nothing_beside_decoding(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg(400))
    began = time.process_time()
    for _ in range(200):
        check_file_end(str(file))
    check = time.process_time() - began
    began = time.process_time()
    for _ in range(20):
        cv2.imread(str(file))
    assert check / 200 < 0.25 * (time.process_time() - began) / 20


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / "VOC2007" / name).mkdir(parents=True)
    for number in range(4):
        data = jpeg()
        (root / "VOC2007" / "JPEGImages" / f"{number}.jpg").write_bytes(
            data if number != 2 else data[:-400] + bytes(400)
        )
        (root / "VOC2007" / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>64</width><height>64</height><depth>3</depth>"
            "</size><object><name>cat</name><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax>"
            "<ymax>40</ymax></bndbox></object></annotation>"
        )
    (root / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").write_text("0\n1\n2\n3\n")
    return root


@pytest.mark.parametrize("kind", ["CheckedVOCDataset", "mmdet.VOCDataset"])
def test_detection(voc, kind):
    """Ours, and MMDetection's own, whose failure is looked into afterwards."""
    pytest.importorskip("mmdet.datasets")
    config = {
        "type": kind, "data_root": f"{voc}/", "ann_file": "VOC2007/ImageSets/Main/trainval.txt",
        "data_prefix": {"sub_data_root": "VOC2007/"},
        "pipeline": [{"type": "mmdet.LoadImageFromFile"}, {"type": "mmdet.PackDetInputs", "meta_keys": ("img_path",)}],
    }  # fmt: skip
    data = DATASETS.build(config)
    assert data[1]["inputs"].shape == (3, 64, 64)
    if kind == "CheckedVOCDataset":
        with pytest.raises(UnreadableImageError, match=r"2\.jpg: the JPEG is cut off"):
            data[2]
    else:  # OpenCV fills the rest up; a limit of none makes it loud
        with pytest.raises(DataError, match=r"1 images are unreadable, and at most 0 may be(.|\n)*2\.jpg"):
            SkipUnreadable(data, most=0)[2]
    skipping = SkipUnreadable(DATASETS.build(config), most=1)
    assert skipping[2]["data_samples"].img_path.endswith("/3.jpg")
    assert skipping.unreadable.indices() == [2]
    assert skipping.unreadable.name(2).endswith("/2.jpg")
    path = voc / "VOC2007" / "JPEGImages" / "0.jpg"
    path.write_bytes(b"no image")  # found by the pipeline
    with pytest.raises(DataError, match=r"2 images are unreadable, and at most 1 may be(.|\n)*0\.jpg"):
        skipping[0]
    path.write_bytes(jpeg())
    assert skipping.get_data_info(2)["img_path"].endswith("/2.jpg")
