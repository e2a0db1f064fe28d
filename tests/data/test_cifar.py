"""CIFAR from the published files and from class folders: same labels, and nothing unverified is opened."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

import sosr_det.register  # noqa: F401
from sosr_det.data.cifar import CIFAR
from sosr_det.errors import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))
    return path.name, hashlib.md5(path.read_bytes()).hexdigest()


def write_published(root, published, monkeypatch, classes, label_key):
    """Small files in the published format, whose md5 sums torchvision is told to expect."""
    folder = root / published.base_folder
    folder.mkdir(parents=True)
    number, lists = 0, []
    for files in (published.train_list, published.test_list):
        sums = []
        for file, _ in files:
            labels = list(range(len(classes)))[::-1]
            data = np.stack([pixels(number + i).reshape(-1) for i in range(len(labels))])
            number += len(labels)
            sums.append(write_pickle(folder / file, {"data": data, label_key: labels}))
        lists.append(sums)
    meta = write_pickle(folder / published.meta["filename"], {published.meta["key"]: classes})
    monkeypatch.setattr(published, "train_list", lists[0])
    monkeypatch.setattr(published, "test_list", lists[1])
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": meta[1]})
    return folder


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    return write_published(tmp_path, CIFAR10, monkeypatch, CLASSES, "labels")


def test_the_published_files(cifar10):
    root = str(cifar10.parent)
    train = DATASETS.build({"type": "CIFAR", "data_root": root, "name": "cifar10", "split": "train"})
    val = DATASETS.build({"type": "CIFAR", "data_root": root, "name": "cifar10", "split": "val"})
    assert (len(train), len(val)) == (50, 10)
    assert train.metainfo == val.metainfo == {"classes": tuple(CLASSES)}
    # The pixels in the file's order: channels, rows, columns.
    for index in (0, 13, 49):
        sample = train[index]
        assert torch.equal(sample["inputs"], torch.from_numpy(pixels(index)))
        assert sample["labels"] == 9 - index % 10
    assert torch.equal(val[3]["inputs"], torch.from_numpy(pixels(53)))
    test = CIFAR(root, "cifar10", "test")
    assert torch.equal(test[3]["inputs"], val[3]["inputs"])
    assert test.fingerprint() == val.fingerprint() != train.fingerprint()
    assert train.sample_name(13).endswith("cifar-10-batches-py/train[13]")


def test_a_transform_in_place_does_not_change_the_stored_image(cifar10):
    data = CIFAR(str(cifar10.parent), "cifar10", "train")
    data.transform = lambda image: image.zero_()
    assert data[0]["inputs"].sum() == 0
    assert data.read_image(0).sum() > 0


def test_cifar100_has_its_fine_labels(tmp_path, monkeypatch):
    names = [f"class {number:02d}" for number in range(100)]
    write_published(tmp_path, CIFAR100, monkeypatch, names, "fine_labels")
    data = CIFAR(str(tmp_path), "cifar100", "train")
    assert data.classes == names
    assert data[1]["labels"] == 98
    with pytest.raises(DataError, match=r"cifar10 not found in .*, which holds cifar-100-python"):
        CIFAR(str(tmp_path), "cifar10", "train")


class Payload:
    """Runs on unpickling."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_changed_files_are_never_opened(cifar10, tmp_path, file):
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload works
    mark.unlink()
    (cifar10 / file).write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(DataError, match=rf"{file} is not the published file .* It was not opened"):
        CIFAR(str(cifar10.parent), "cifar10", "train")
    assert not mark.exists()


def test_cut_off_and_missing_files_are_named(cifar10):
    path = cifar10 / "data_batch_5"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_5 is not the published file"):
        CIFAR(str(cifar10.parent), "cifar10", "val")
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_5 is missing.*cifar-10-python\.tar\.gz"):
        CIFAR(str(cifar10.parent), "cifar10", "train")


def test_real_files_have_the_sums_that_torchvision_knows(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file, _ in (*CIFAR10.train_list, *CIFAR10.test_list, ("batches.meta", "")):
        write_pickle(folder / file, {"data": np.zeros((1, 3072), np.uint8), "labels": [0]})
    with pytest.raises(DataError, match=r"data_batch_1 .*md5 sum is not c99cafc152244af753f735de768cd75f"):
        CIFAR(str(tmp_path), "cifar10", "train")


@pytest.fixture
def folders(tmp_path):
    number = 0
    for part, count in (("train", 3), ("test", 2)):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for image in range(count):
                array = pixels(number).transpose(1, 2, 0)
                Image.fromarray(array).save(tmp_path / part / name / f"{image:04d}.png")
                number += 1
    return tmp_path


def test_class_folders(folders):
    train, val = (CIFAR(str(folders), "cifar10", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (30, 20)
    assert train.classes == val.classes == CLASSES
    assert train[4]["labels"] == 1
    assert torch.equal(train[4]["inputs"], torch.from_numpy(pixels(4)))
    assert torch.equal(val[0]["inputs"], torch.from_numpy(pixels(30)))


def test_both_layouts_give_the_same_labels(folders, monkeypatch):
    (folders / "train" / "frog" / "note.txt").write_text("not an image")
    from_folders = CIFAR(str(folders), "cifar10", "train").classes
    write_published(folders, CIFAR10, monkeypatch, CLASSES, "labels")
    published = CIFAR(str(folders), "cifar10", "train")
    assert len(published) == 50  # the verified files come first
    assert published.classes == from_folders


def test_pipeline_is_applied(folders):
    steps = [{"type": "torchvision/Resize", "size": 16}]
    assert CIFAR(str(folders), "cifar10", "train", steps)[0]["inputs"].shape == (3, 16, 16)


def test_bad_folders_are_named(folders):
    with pytest.raises(DataError, match=r"10 class folders, cifar100 has 100 classes"):
        CIFAR(str(folders), "cifar100", "train")
    (folders / "train" / "zebra").mkdir()
    with pytest.raises(DataError, match=r"11 class folders, cifar10 has 10 classes.*ImageNetFolder"):
        CIFAR(str(folders), "cifar10", "train")
    (folders / "train" / "zebra").rmdir()
    for path in (folders / "train" / "cat").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"1 of 10 classes .* have no image: cat"):
        CIFAR(str(folders), "cifar10", "train")
    (folders / "test").rename(folders / "validation")
    with pytest.raises(DataError, match=r"cifar10's test images not found"):
        CIFAR(str(folders), "cifar10", "val")


def test_absent_data_says_what_to_place_where(tmp_path):
    (tmp_path / "notes").mkdir()
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            DataError, match=r"cifar-10-batches-py/ .*https://.*data prepare cifar10 --root DIR"
        ):
            CIFAR(str(root), "cifar10", "train")
    with pytest.raises(DataError, match=r"which holds notes\. "):
        CIFAR(str(tmp_path), "cifar10", "train")


@pytest.mark.parametrize(
    ("name", "split", "named"), [("cifar20", "train", "'cifar20'"), ("cifar10", "valid", "'valid'")]
)
def test_bad_names_are_told(tmp_path, name, split, named):
    with pytest.raises(DataError, match=named):
        CIFAR(str(tmp_path), name, split)


def test_the_real_sample(unpacked):
    root = str(unpacked("cifar10"))
    train, val = CIFAR(root, "cifar10", "train"), CIFAR(root, "cifar10", "val")
    assert (len(train), len(val), train.classes) == (5000, 1000, CLASSES)
    assert np.bincount(val.labels).tolist() == [100] * 10
    assert train[777]["inputs"].shape == (3, 32, 32)
