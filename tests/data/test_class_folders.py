"""ImageNet folders, Tiny ImageNet's own layout and CUB-200-2011: what is read, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import sosr_det.register  # noqa: F401
from sosr_det.data.classification import CUB200, ImageNetFolder, read_rgb_image
from sosr_det.errors import DataError

RESIZE = [{"type": "torchvision/Resize", "size": (16, 16)}]


def picture(path, colour=(200, 30, 60), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 24), colour).convert(mode).save(path)


@pytest.fixture
def folders(tmp_path):
    for split in ("train", "val"):
        for number, name in enumerate(("n02", "n01", "n10")):
            for image in range(2):
                picture(tmp_path / split / name / f"{name}_{image}.JPEG", (80 * number, 10, 10))
    return tmp_path


def test_labels_are_the_sorted_folder_names(folders):
    data = ImageNetFolder(str(folders), "train", RESIZE)
    assert data.metainfo == {"classes": ("n01", "n02", "n10")}
    assert [data[i]["labels"] for i in range(len(data))] == [0, 0, 1, 1, 2, 2]
    assert data[0]["inputs"].shape == (3, 16, 16)
    assert str(data[0]["inputs"].dtype) == "torch.uint8"


def test_fingerprint_names_the_selection(folders):
    first = ImageNetFolder(str(folders), "train", RESIZE).fingerprint()
    assert ImageNetFolder(str(folders), "train", []).fingerprint() == first
    (folders / "train" / "n01" / "n01_0.JPEG").rename(folders / "train" / "n01" / "other.JPEG")
    assert ImageNetFolder(str(folders), "train", RESIZE).fingerprint() != first


def test_tiny_imagenets_own_layout(tmp_path):
    for name in ("n01", "n02"):
        picture(tmp_path / "train" / name / "images" / f"{name}_0.JPEG")
    for image in ("val_0.JPEG", "val_1.JPEG"):
        picture(tmp_path / "val" / "images" / image)
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n")
    assert len(ImageNetFolder(str(tmp_path), "train", RESIZE)) == 2
    data = ImageNetFolder(str(tmp_path), "val", RESIZE)
    assert [data[i]["labels"] for i in range(2)] == [1, 0]
    annotations.write_text("val_0.JPEG\tn02\t0\t0\t9\t9\nval_9.JPEG\tn01\t0\t0\t9\t9\n")
    with pytest.raises(DataError, match=r"val_9\.JPEG"):
        ImageNetFolder(str(tmp_path), "val", RESIZE)
    annotations.write_text("val_0.JPEG\tn07\t0\t0\t9\t9\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt:1.*n07"):
        ImageNetFolder(str(tmp_path), "val", RESIZE)


def test_missing_folders_are_named(tmp_path, folders):
    with pytest.raises(DataError, match="does not exist"):
        ImageNetFolder(str(tmp_path / "nowhere"), "train", RESIZE)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        ImageNetFolder(str(tmp_path / "file"), "train", RESIZE)
    (folders / "val").rename(folders / "validation")
    with pytest.raises(DataError, match="validation images not found"):
        ImageNetFolder(str(folders), "val", RESIZE)


def test_flat_validation_folder_is_explained(folders):
    for path in list((folders / "val").rglob("*.JPEG")):
        path.rename(folders / "val" / path.name)
    for path in (folders / "val").iterdir():
        if path.is_dir():
            path.rmdir()
    with pytest.raises(DataError, match="valprep"):
        ImageNetFolder(str(folders), "val", RESIZE)


def test_empty_and_unknown_classes(folders):
    (folders / "train" / "n11").mkdir()
    with pytest.raises(DataError, match=r"1 of 4 classes .* have no image: n11"):
        ImageNetFolder(str(folders), "train", RESIZE)
    (folders / "train" / "n11").rmdir()
    picture(folders / "val" / "n99" / "x.JPEG")
    with pytest.raises(DataError, match="n99"):
        ImageNetFolder(str(folders), "val", RESIZE)


def test_unusual_but_readable_files(tmp_path):
    picture(tmp_path / "gray.jpg", mode="L")
    picture(tmp_path / "cmyk.jpg", mode="CMYK")
    picture(tmp_path / "palette.png", mode="P")
    for path in tmp_path.iterdir():
        assert read_rgb_image(path).shape == (3, 24, 20), path
    Image.new("RGB", (20, 24), (200, 30, 60)).save(
        tmp_path / "png_inside.jpg", format="PNG"
    )  # ImageNet has one
    np.testing.assert_array_equal(read_rgb_image(tmp_path / "png_inside.jpg")[:, 0, 0], [200, 30, 60])


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_damaged_image_is_named(tmp_path, content):
    path = tmp_path / "broken.JPEG"
    picture(path)
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(DataError, match=r"broken\.JPEG .*cannot be decoded"):
        read_rgb_image(path)
    with pytest.raises(DataError, match="is missing"):
        read_rgb_image(tmp_path / "gone.JPEG")


@pytest.fixture
def cub(tmp_path):
    names = ["001.A/a1.jpg", "001.A/a2.jpg", "002.B/b1.jpg", "002.B/b2.jpg"]
    for name in names:
        picture(tmp_path / "images" / name)
    (tmp_path / "images.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(names, 1)))
    (tmp_path / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 2\n")
    (tmp_path / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 0\n")
    (tmp_path / "classes.txt").write_text("1 001.A\n2 002.B\n")
    return tmp_path


def test_cub_splits_and_labels(cub):
    train, test = CUB200(str(cub), "train", RESIZE), CUB200(str(cub), "test", RESIZE)
    assert [train[i]["labels"] for i in range(2)] == [0, 1]
    assert train.classes == test.classes == ["001.A", "002.B"]
    assert train.fingerprint() != test.fingerprint()


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("train_test_split.txt", "1 1\n2 0\n3 1\n", "different image ids"),
        ("image_class_labels.txt", "1 1\n2 x\n3 2\n4 2\n", "label 'x'"),
        ("images.txt", "1 001.A/a1.jpg\n1 001.A/a2.jpg\n", r"images\.txt:2"),
        ("images.txt", "", "is empty"),
        ("images.txt", None, r"images\.txt is missing"),
        ("classes.txt", "2 002.B\n1 001.A\n", "in order"),
        ("train_test_split.txt", "1 1\n2 1\n3 0\n4 0\n", "have no image"),
    ],
)
def test_bad_cub_lists_are_named(cub, file, content, named):
    (cub / file).unlink()
    if content is not None:
        (cub / file).write_text(content)
    with pytest.raises(DataError, match=named):
        CUB200(str(cub), "train", RESIZE)


def test_cub_missing_image(cub):
    (cub / "images" / "002.B" / "b1.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 train images .*b1\.jpg"):
        CUB200(str(cub), "train", RESIZE)
