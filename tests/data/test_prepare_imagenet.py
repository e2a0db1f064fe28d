"""ImageNet from miniature archives in the real formats: a tar of tars, a flat tar, and the development kit."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sosr_det.data.prepare import OfficialSplit, catalogue, dataset_entry, imagenet, prepare_dataset
from sosr_det.errors import DataError

WNIDS = ("n01440764", "n01443537", "n01484850")
IDS = {
    "n01440764": 3,
    "n01443537": 1,
    "n01484850": 2,
}  # not in the order of the WordNet ids, as in the real kit
TRAIN_PER_CLASS = 4
VAL_IDS = [2, 3, 1, 1, 2, 3]  # class of ILSVRC2012_val_00000001.JPEG and so on


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@functools.cache  # both formats hold the time, so making it twice may give other bytes
def devkit() -> bytes:
    from scipy.io import savemat

    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "images",
    )
    rows = [(IDS[wnid], wnid, f"name of {wnid}, other name", "", 0, 0, 0, 0) for wnid in WNIDS]
    rows.append((4, "n00001740", "entity", "", 3, 0, 9, 0))  # an inner node of WordNet, which is no class
    synsets = np.array(rows, dtype=[(field, object) for field in fields])
    mat = io.BytesIO()
    savemat(mat, {"synsets": synsets.reshape(-1, 1)})
    folder = "ILSVRC2012_devkit_t12/data"
    truth = "".join(f"{number}\n" for number in VAL_IDS).encode()
    files = {f"{folder}/meta.mat": mat.getvalue(), f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth}
    return tar(files, "w:gz")


def content_of(name: str) -> bytes:
    return f"the image {name} ".encode() * 300


def train_files(wnid: str) -> dict[str, bytes]:
    return {f"{wnid}_{number}.JPEG": content_of(f"{wnid}_{number}") for number in range(TRAIN_PER_CLASS)}


def val_files() -> dict[str, bytes]:
    names = [
        f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(len(VAL_IDS), 0, -1)
    ]  # any order in the tar
    return {name: content_of(name) for name in names}


def archives() -> dict[str, bytes]:
    return {
        "ILSVRC2012_img_train.tar": tar({f"{wnid}.tar": tar(train_files(wnid)) for wnid in WNIDS}),
        "ILSVRC2012_img_val.tar": tar(val_files()),
        "ILSVRC2012_devkit_t12.tar.gz": devkit(),
    }


def accept(monkeypatch, contents: dict[str, bytes]) -> None:
    """Make these archives the official ones, for us and for torchvision."""
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    entry = dataset_entry("imagenet")
    entry = dataclasses.replace(
        entry,
        archives=tuple(
            dataclasses.replace(archive, md5=md5s[archive.filename], size=len(contents[archive.filename]))
            for archive in entry.archives
        ),
        splits={
            "train": OfficialSplit(TRAIN_PER_CLASS * len(WNIDS)),
            "val": OfficialSplit(len(VAL_IDS), len(VAL_IDS) // len(WNIDS)),
        },
        classes=len(WNIDS),
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, "imagenet": entry})
    meta = dict(zip(("train", "val", "devkit"), md5s.items(), strict=True))
    monkeypatch.setattr("torchvision.datasets.imagenet.ARCHIVE_META", meta)


@pytest.fixture
def root(monkeypatch, tmp_path) -> Path:
    contents = archives()
    accept(monkeypatch, contents)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def expected_tree() -> dict[str, bytes]:
    wnid_of = {number: wnid for wnid, number in IDS.items()}
    files = {f"train/{w}/{name}": content for w in WNIDS for name, content in train_files(w).items()}
    for number, identity in enumerate(VAL_IDS, start=1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        files[f"val/{wnid_of[identity]}/{name}"] = content_of(name)
    return files


def test_both_splits_are_sorted_into_classes(root):
    prepared = prepare_dataset("imagenet", root)
    assert prepared.images == {"train": 12, "val": 6}
    assert prepared.classes == 3
    assert tree(root / "imagenet") == expected_tree()
    assert prepare_dataset("imagenet", root).already_there


def test_torchvision_makes_the_same_folders(root, tmp_path):
    from torchvision.datasets.imagenet import parse_devkit_archive, parse_train_archive, parse_val_archive

    peer = tmp_path / "peer"
    peer.mkdir()
    for name in archives():
        os.link(root / name, peer / name)
    parse_devkit_archive(peer)
    parse_train_archive(peer)
    parse_val_archive(peer)
    prepare_dataset("imagenet", root)
    for split in ("train", "val"):
        assert tree(root / "imagenet" / split) == tree(peer / split)


def test_archives_may_lie_in_the_data_sets_folder_or_be_named(root):
    home = root / "imagenet"
    home.mkdir()
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (root / name).rename(home / name)
    kit = root / "elsewhere" / "ILSVRC2012_devkit_t12.tar.gz"
    kit.parent.mkdir()
    (root / kit.name).rename(kit)
    prepare_dataset("imagenet", home, archives=[kit])
    assert {name: c for name, c in tree(home).items() if "/" in name} == expected_tree()


def test_missing_archives_are_listed_with_their_checksums(root):
    (root / "ILSVRC2012_img_train.tar").unlink()
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(DataError) as error:
        prepare_dataset("imagenet", root)
    message = str(error.value)
    train, val, kit = dataset_entry("imagenet").archives
    for archive in (train, kit):
        assert archive.md5 in message
        assert str(root / archive.filename) in message
    assert val.md5 not in message
    assert "image-net.org" in message
    assert "registered" in message
    assert f"sosr-det data prepare imagenet --root {root}" in message
    assert not (root / "imagenet").exists()


def test_only_what_a_missing_split_needs_is_asked_for(root):
    prepare_dataset("imagenet", root)
    (root / "imagenet" / "train").rename(root / "set aside")
    (root / "ILSVRC2012_img_val.tar").unlink()
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    prepare_dataset("imagenet", root)
    assert tree(root / "imagenet") == expected_tree()


@pytest.mark.parametrize("name", list(archives()))
def test_a_wrong_archive_is_refused(root, name):
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[:-1] + b"!")
    with pytest.raises(
        DataError, match=rf"{name} is not the published {name}: expected md5 \w+ .* got md5 \w+"
    ):
        prepare_dataset("imagenet", root)
    split = "train" if "train" in name else "val"
    assert not (root / "imagenet" / split).exists()


def stop_after(patch, number: int) -> list[str]:
    """Interrupt before the file after the ``number``-th is written; returns the names that are written."""
    original, written = tarfile.TarFile.extract, []

    def extract(self, member, *args, **kwargs):
        if len(written) == number:
            raise KeyboardInterrupt
        written.append(member.name)
        return original(self, member, *args, **kwargs)

    patch.setattr(tarfile.TarFile, "extract", extract)
    return written


def test_an_interrupted_run_goes_on_where_it_stopped(root):
    with pytest.MonkeyPatch.context() as patch:
        before = stop_after(patch, 6 + 7)  # all of val, then 7 of 12 training images
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset("imagenet", root)
    home = root / "imagenet"
    assert len(before) == 13
    assert sorted(path.name for path in home.iterdir()) == [".train.partial", "val"]
    torn = home / ".train.partial" / "tree" / before[-1]
    torn.write_bytes(torn.read_bytes()[:10])  # what a power cut may leave

    with pytest.MonkeyPatch.context() as patch:
        checked = []
        patch.setattr(imagenet, "check_archive", lambda archive, *_: checked.append(archive.filename))
        after = stop_after(patch, 99)
        prepare_dataset("imagenet", root)
    assert checked == []  # 150 GB are not read twice for the checksum
    assert sorted(after) == sorted({*expected_tree_of_train()} - {*before[:-1]})
    assert tree(home) == expected_tree()
    assert sorted(path.name for path in home.iterdir()) == ["train", "val"]


def expected_tree_of_train() -> set[str]:
    return {name.removeprefix("train/") for name in expected_tree() if name.startswith("train/")}


def test_a_replaced_archive_starts_again(root):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 6 + 7)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset("imagenet", root)
    stray = root / "imagenet" / ".train.partial" / "tree" / "n01440764" / "stray.JPEG"
    stray.write_bytes(b"of another archive")
    archive = root / "ILSVRC2012_img_train.tar"
    os.utime(archive, ns=(0, 0))
    prepare_dataset("imagenet", root)
    assert tree(root / "imagenet") == expected_tree()


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [
        ("ILSVRC2012_img_train.tar", {"../n01440764.tar": tar({})}, "n01234567.tar"),
        ("ILSVRC2012_img_train.tar", {"n01440764.tar": tar({}), "x.JPEG": b""}, "n01234567.tar"),
        ("ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000007.JPEG": b"x"}, "to 00000006"),
        ("ILSVRC2012_img_val.tar", {"../../evil.JPEG": b"x"}, "to 00000006"),
        ("ILSVRC2012_img_val.tar", dict(list(val_files().items())[:5]), "holds 5 images, but .* 6"),
    ],
)
def test_archives_of_another_content_are_refused(root, monkeypatch, name, files, reason):
    contents = archives() | {name: tar(files)}
    accept(monkeypatch, contents)
    (root / name).write_bytes(contents[name])
    with pytest.raises(DataError, match=reason):
        prepare_dataset("imagenet", root)
    assert not (root / "imagenet" / ("train" if "train" in name else "val")).exists()
    assert not list(root.rglob("evil*"))


def test_a_leading_path_in_a_class_archive_does_not_lead_out(root, monkeypatch):
    contents = archives()
    inner = tar({"../../../evil.JPEG": b"x"})
    contents["ILSVRC2012_img_train.tar"] = tar({"n01440764.tar": inner})
    accept(monkeypatch, contents)
    (root / "ILSVRC2012_img_train.tar").write_bytes(contents["ILSVRC2012_img_train.tar"])
    with pytest.raises(DataError):  # the counts are wrong, too
        prepare_dataset("imagenet", root)
    assert {path.parent.name for path in root.rglob("evil.JPEG")} <= {"n01440764"}


def test_the_disk_space_is_checked_before_unpacking(root, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("sosr_det.data.prepare.staging.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"unpacking ILSVRC2012_img_val\.tar needs about"):
        prepare_dataset("imagenet", root)
    assert not (root / "imagenet" / "val").exists()
