"""Preparing from archives: safe, atomic, repeatable. No network; miniature archives in the published layouts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import cv2
import filelock
import numpy as np
import pytest

from sosr_det.data.prepare import Archive, OfficialSplit, catalogue, dataset_entry, prepare_dataset
from sosr_det.data.prepare.unpack import unpack
from sosr_det.errors import ConfigError, DataError


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def tgz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(
        buffer.getvalue(), mtime=0
    )  # without the time, so that the same files give the same bytes


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def cub_files() -> dict[str, bytes]:
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    paths = [f"{name}/{name[4:]}_{number:04d}.jpg" for name in names for number in range(4)]
    files = {f"CUB_200_2011/images/{path}": jpeg(i) for i, path in enumerate(paths)}
    lists = {
        "images.txt": [f"{i} {path}" for i, path in enumerate(paths, 1)],
        "image_class_labels.txt": [f"{i} {path[2]}" for i, path in enumerate(paths, 1)],
        "train_test_split.txt": [f"{i} {i % 2}" for i, _ in enumerate(paths, 1)],
        "classes.txt": [f"{i} {name}" for i, name in enumerate(names, 1)],
    }
    files |= {f"CUB_200_2011/{name}": "\n".join(lines).encode() + b"\n" for name, lines in lists.items()}
    return files | {
        "attributes.txt": b"1 has_bill_shape::curved\n"
    }  # beside the folder, as in the real archive


def offer(monkeypatch, name: str, archives: dict[str, bytes], **changes) -> catalogue.DatasetEntry:
    """Replace a catalogue entry by one for miniature archives; the URL cannot be reached."""
    entry = dataclasses.replace(
        dataset_entry(name),
        archives=tuple(
            Archive(file, hashlib.md5(content).hexdigest(), len(content), f"http://127.0.0.1:9/{file}")
            for file, content in archives.items()
        ),
        unpacked_bytes=100_000,
        **changes,
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, name: entry})
    return entry


@pytest.fixture
def cub(monkeypatch, tmp_path) -> Path:
    """A data root in which a miniature CUB archive of 2 classes lies."""
    content = tgz(cub_files())
    splits = {"train": OfficialSplit(4), "test": OfficialSplit(4)}
    offer(monkeypatch, "cub200", {"CUB_200_2011.tgz": content}, splits=splits, classes=2)
    root = tmp_path / "data"
    root.mkdir()
    (root / "CUB_200_2011.tgz").write_bytes(content)
    return root


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith((".partial", ".part"))]


def test_a_placed_archive_is_unpacked_as_the_data_set_reads_it(cub):
    from sosr_det.data.classification import CUB200  # the reader, as an independent check of the layout

    prepared = prepare_dataset("cub200", cub)
    assert prepared.folder == cub / "CUB_200_2011"
    assert (prepared.images, prepared.classes) == ({"train": 4, "test": 4}, 2)
    assert visible(cub) == ["CUB_200_2011", "CUB_200_2011.tgz"]
    assert leftovers(cub) == []
    for split in ("train", "test"):
        assert len(CUB200(str(prepared.folder), split, [])) == 4
    for name, content in cub_files().items():
        if name.startswith("CUB_200_2011/"):
            assert (cub / name).read_bytes() == content


def test_the_second_call_changes_nothing(cub):
    folder = prepare_dataset("cub200", cub).folder
    (cub / "CUB_200_2011.tgz").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = prepare_dataset("cub200", cub)
    assert again.already_there
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_root_may_be_the_data_set_itself(cub):
    prepared = prepare_dataset("cub200", cub / "CUB_200_2011")
    assert prepared.folder == cub / "CUB_200_2011"
    assert (cub / "CUB_200_2011" / "images.txt").is_file()


def test_an_archive_from_elsewhere_stays_and_those_in_the_root_go_on_request(cub, tmp_path):
    elsewhere = tmp_path / "renamed copy.bin"
    (cub / "CUB_200_2011.tgz").rename(elsewhere)
    prepared = prepare_dataset("cub200", cub, archives=[elsewhere], remove_archives=True)
    assert prepared.images["train"] == 4
    assert elsewhere.exists()
    elsewhere.rename(cub / "CUB_200_2011.tgz")
    assert prepare_dataset("cub200", cub, remove_archives=True).archives == ()
    assert visible(cub) == ["CUB_200_2011"]


def test_a_wrong_archive_is_named_and_left_alone(cub):
    path = cub / "CUB_200_2011.tgz"
    right = hashlib.md5(path.read_bytes()).hexdigest()
    damaged = path.read_bytes()[:-100]
    path.write_bytes(damaged)
    with pytest.raises(DataError) as error:
        prepare_dataset("cub200", cub)
    assert right in str(error.value)
    assert hashlib.md5(damaged).hexdigest() in str(error.value)
    assert "cut off" in str(error.value)
    assert path.read_bytes() == damaged
    assert visible(cub) == ["CUB_200_2011.tgz"]


def test_archive_options_that_cannot_be_meant(cub, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        prepare_dataset("cub200", cub, archives=[tmp_path / "nothing"])
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of the names .* VOCtest_06-Nov-2007\.tar"):
        prepare_dataset("voc", cub, archives=[tmp_path / "x.tar"])
    with pytest.raises(ConfigError, match=r"unknown data set 'cub'; known are cifar10, "):
        prepare_dataset("cub", cub)


def failing_extract(monkeypatch, at: int, error: BaseException) -> None:
    original, calls = tarfile.TarFile.extract, []

    def extract(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(tarfile.TarFile, "extract", extract)


def test_an_interruption_leaves_nothing_under_the_name_and_can_be_mended(cub):
    with pytest.MonkeyPatch.context() as patch:
        failing_extract(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset("cub200", cub)
    assert visible(cub) == ["CUB_200_2011.tgz"]
    assert leftovers(cub) == []
    assert prepare_dataset("cub200", cub).images == {"train": 4, "test": 4}


def test_an_interruption_before_the_last_step_leaves_nothing_under_the_name(cub):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sosr_det.data.prepare.staging.os.rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset("cub200", cub)
    assert visible(cub) == ["CUB_200_2011.tgz"]
    assert prepare_dataset("cub200", cub).images == {"train": 4, "test": 4}


def test_what_a_killed_run_left_is_not_mixed_in(cub):
    stale = cub / ".CUB_200_2011.partial" / "CUB_200_2011" / "images" / "003.Stale"
    stale.mkdir(parents=True)
    (stale / "old.jpg").write_bytes(b"old")
    folder = prepare_dataset("cub200", cub).folder
    assert not (folder / "images" / "003.Stale").exists()
    assert leftovers(cub) == []


def test_a_disk_that_fills_up_is_told_as_such(cub):
    with pytest.MonkeyPatch.context() as patch:
        failing_extract(patch, 5, OSError(errno.ENOSPC, "No space left on device", "images/x.jpg"))
        with pytest.raises(DataError, match=r"images/x\.jpg: No space left .* GB free\); make room"):
            prepare_dataset("cub200", cub)
    assert visible(cub) == ["CUB_200_2011.tgz"]
    assert leftovers(cub) == []
    assert prepare_dataset("cub200", cub).images == {"train": 4, "test": 4}


def test_a_root_that_cannot_be_written_to_is_told_as_such(cub, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot prepare data in .*file/data"):
        prepare_dataset("cub200", tmp_path / "file" / "data")


def test_an_incomplete_data_set_in_the_way_is_left_alone(cub):
    folder = prepare_dataset("cub200", cub).folder
    gone = next((folder / "images").rglob("*0002.jpg"))
    gone.unlink()
    with pytest.raises(
        DataError, match=r"in the way.*\n  images/.*0002\.jpg: not found, but images\.txt lists it"
    ) as error:
        prepare_dataset("cub200", cub)
    assert "found 3 of 4 images" in str(error.value)
    assert not gone.exists()


def test_an_empty_folder_is_not_in_the_way(cub):
    (cub / "CUB_200_2011").mkdir()
    assert prepare_dataset("cub200", cub).images == {"train": 4, "test": 4}


def test_an_archive_without_all_files_is_not_kept(monkeypatch, cub):
    files = cub_files()
    del files["CUB_200_2011/images/002.Laysan_Albatross/Laysan_Albatross_0003.jpg"]
    content = tgz(files)
    offer(monkeypatch, "cub200", {"CUB_200_2011.tgz": content})
    (cub / "CUB_200_2011.tgz").write_bytes(content)
    with pytest.raises(DataError, match=r"not complete, and was not kept:\n.*Laysan_Albatross_0003\.jpg"):
        prepare_dataset("cub200", cub)
    assert visible(cub) == ["CUB_200_2011.tgz"]


def test_two_at_once_are_kept_apart(cub):
    with (
        filelock.FileLock(cub / ".cub200.prepare.lock"),
        pytest.raises(DataError, match="another `sosr-det data prepare cub200` is at work"),
    ):
        prepare_dataset("cub200", cub)
    assert prepare_dataset("cub200", cub).images == {"train": 4, "test": 4}


def test_the_lock_file_is_removed_while_it_is_held(cub, monkeypatch):
    """Later it could be another's already."""
    unlink, held = os.unlink, []

    def unlink_and_look(path, **options):
        if str(path).endswith(".prepare.lock"):
            with open(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held.append(path)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", unlink_and_look)
    prepare_dataset("cub200", cub)
    assert held == [str(cub / ".cub200.prepare.lock")]
    assert sorted(path.name for path in cub.iterdir()) == ["CUB_200_2011", "CUB_200_2011.tgz"]


def test_who_opened_a_removed_lock_file_does_not_hold_the_lock(tmp_path, monkeypatch):
    """Else two could be at work at once: one with the file that has no name any more, one with its successor."""
    from sosr_det.data.prepare.staging import only_one

    flock, first, late = fcntl.flock, only_one(tmp_path, "x"), []

    def first_one_ends_just_before(descriptor, operation):
        if not late:
            late.append(descriptor)
            first.__exit__(None, None, None)
            assert os.fstat(descriptor).st_nlink == 0
        return flock(descriptor, operation)

    first.__enter__()
    monkeypatch.setattr(fcntl, "flock", first_one_ends_just_before)
    held = False
    with contextlib.suppress(DataError), only_one(tmp_path, "x"):  # to wait is no fault
        held = True
        with pytest.raises(DataError, match="at work"), only_one(tmp_path, "x"):
            pass
    assert late
    assert held or not (tmp_path / ".x.prepare.lock").exists()
    with only_one(tmp_path, "x"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", ["nowhere", "a/b/c", "a/CUB_200_2011"])
def test_failing_before_any_work_leaves_no_folder(cub, tmp_path, start):
    """No archive, and none to be had: the URL cannot be reached."""
    (cub / "CUB_200_2011.tgz").unlink()
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="not a file"):
        prepare_dataset("cub200", tmp_path / start, archives=[tmp_path / "missing.tgz"])
    assert set(tmp_path.rglob("*")) == before
    with pytest.raises(DataError, match="cannot reach"):
        prepare_dataset("cub200", tmp_path / start)
    assert set(tmp_path.rglob("*")) == before


def test_folders_that_were_there_or_hold_something_stay(cub, tmp_path, monkeypatch):
    (cub / "CUB_200_2011.tgz").unlink()
    (tmp_path / "mine" / "CUB_200_2011").mkdir(parents=True)
    for root in (tmp_path / "mine", tmp_path / "mine" / "CUB_200_2011", cub):
        with pytest.raises(DataError, match="cannot reach"):
            prepare_dataset("cub200", root)
        assert root.is_dir()
    assert list((tmp_path / "mine").iterdir()) == [tmp_path / "mine" / "CUB_200_2011"]

    def breaks_off(archive, target, **_):
        target.with_name(f"{target.name}.part").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("sosr_det.data.prepare.prepare.download_archive", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset("cub200", tmp_path / "new" / "data")
    assert [path.name for path in (tmp_path / "new" / "data").iterdir()] == ["CUB_200_2011.tgz.part"]


def test_imagenet_without_its_archives_leaves_no_folder(tmp_path):
    with pytest.raises(DataError, match="registered users"):
        prepare_dataset("imagenet", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data").mkdir()
    for archive in dataset_entry("imagenet").archives:
        (tmp_path / "data" / archive.filename).write_bytes(b"wrong")
    with pytest.raises(DataError, match="is not the published ILSVRC2012_devkit_t12"):
        prepare_dataset("imagenet", tmp_path / "data")
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == sorted(
        archive.filename for archive in dataset_entry("imagenet").archives
    )


def test_whose_checksum_it_is(tmp_path):
    """Stanford publishes none for Tiny ImageNet; the others are the publishers' own."""
    archive = tmp_path / "tiny-imagenet-200.zip"
    archive.write_bytes(b"x")
    for prepare in ({"archives": [archive]}, {}):
        root = tmp_path if prepare == {} else tmp_path / "data"
        with pytest.raises(
            DataError, match=r"expected md5 90528d7c.*; the expected checksum is not Stanford's"
        ):
            prepare_dataset("tiny-imagenet", root, **prepare)
    assert [n for n, entry in catalogue.CATALOGUE.items() if any(a.md5_source for a in entry.archives)] == [
        "tiny-imagenet"
    ]
    from sosr_det.data.prepare.places import Places, how_to_place

    for name in ("tiny-imagenet", "cub200"):
        entry = dataset_entry(name)
        text = how_to_place(entry, entry.archives, Places.of(entry, tmp_path))
        assert ("not Stanford's" in text) == (name == "tiny-imagenet")


def test_cifar_goes_where_the_configs_look(monkeypatch, tmp_path):
    import pickle

    def batch(first: int) -> bytes:
        labels = [(first + i) % 10 for i in range(10)]
        return pickle.dumps({"data": np.zeros((10, 3072), np.uint8), "labels": labels}, protocol=2)

    folder = "cifar-10-batches-py"
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {f"{folder}/{name}": batch(number) for number, name in enumerate(names)}
    files[f"{folder}/batches.meta"] = pickle.dumps({"label_names": [str(i) for i in range(10)]}, protocol=2)
    md5s = {name.rpartition("/")[2]: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setitem(
        __import__("sosr_det.data.prepare.layout_cifar", fromlist=["x"]).PUBLISHED_MD5, "cifar10", md5s
    )
    content = tgz(files)
    splits = {"train": OfficialSplit(50, 5), "test": OfficialSplit(10, 1)}
    offer(monkeypatch, "cifar10", {"cifar-10-python.tar.gz": content}, splits=splits)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    prepared = prepare_dataset("cifar10", tmp_path)
    assert prepared.folder == tmp_path / "cifar10"
    assert (prepared.images, prepared.classes) == ({"train": 50, "test": 10}, 10)
    assert (tmp_path / "cifar10" / folder / "test_batch").read_bytes() == files[f"{folder}/test_batch"]
    # The same data set, named by its own folder.
    assert prepare_dataset("cifar10", tmp_path / "cifar10").already_there


def test_voc_is_joined_from_three_archives(monkeypatch, tmp_path):
    def part(year: str, split: str, identity: str) -> bytes:
        base = f"VOCdevkit/{year}"
        return tgz(
            {
                f"{base}/ImageSets/Main/{split}.txt": f"{identity}\n".encode(),
                f"{base}/JPEGImages/{identity}.jpg": jpeg(1),
                f"{base}/Annotations/{identity}.xml": b"<annotation/>",
            }
        )

    parts = {
        "a.tar": part("VOC2007", "trainval", "000001"),
        "b.tar": part("VOC2007", "test", "000002"),
        "c.tar": part("VOC2012", "trainval", "2008_000001"),
    }
    entry = dataset_entry("voc")
    offer(monkeypatch, "voc", parts, splits={name: OfficialSplit(1) for name in entry.splits})
    for name, content in list(parts.items())[:2]:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:  # only the missing one is asked for
        prepare_dataset("voc", tmp_path)
    assert str(tmp_path / "c.tar") in str(error.value)
    assert str(tmp_path / "b.tar") not in str(error.value)
    (tmp_path / "c.tar").write_bytes(parts["c.tar"])
    assert prepare_dataset("voc", tmp_path).images == {
        "VOC2007/trainval": 1,
        "VOC2007/test": 1,
        "VOC2012/trainval": 1,
    }


# ---- hostile and damaged archives ----


def tar_with(member: tarfile.TarInfo, content: bytes = b"evil") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        if member.isreg():
            member.size = len(content)
        tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue()


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def link_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
        archive.writestr("link/evil", b"evil")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        tar_with(named("../evil")),
        tar_with(named("good/../../evil")),
        tar_with(named("link", tarfile.SYMTYPE, "../..")),
        tar_with(named("link", tarfile.SYMTYPE, "/etc")),
        tar_with(named("device", tarfile.CHRTYPE)),
        zipped({"../evil": b"evil"}),
        zipped({"good/../../evil": b"evil"}),
        zipped({"..\\evil": b"evil"}),
        zipped({"/evil": b"evil"}),
        zipped({"C:/evil": b"evil"}),
    ],
)
def test_members_that_lead_out_are_refused(tmp_path, content):
    into = tmp_path / "a" / "into"
    into.mkdir(parents=True)
    archive = tmp_path / "hostile"
    archive.write_bytes(content)
    with pytest.raises(DataError, match="does not belong into a data set"):
        unpack(archive, into)
    assert list(into.iterdir()) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "hostile", "into"]


def test_a_link_in_a_zip_is_no_way_out(tmp_path):
    (tmp_path / "into").mkdir()
    (tmp_path / "hostile").write_bytes(link_zip())
    with pytest.raises((DataError, OSError)):
        unpack(tmp_path / "hostile", tmp_path / "into")
    assert not os.path.exists("/etc/evil")
    assert not (tmp_path / "into" / "link").is_symlink()


@pytest.mark.parametrize(
    "content",
    [
        tgz({"a/b": os.urandom(50_000)})[:30_000],
        zipped({"a/b": b"1" * 5000})[:-30],
        b"PK\x03\x04 no zip",
        b"neither",
        b"",
    ],
    ids=["cut tar", "cut zip", "no zip", "neither", "empty"],  # an archive holds the time, and names must not
)
def test_damaged_archives_are_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "into").mkdir()
    (tmp_path / "damaged.tgz").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.tgz cannot be unpacked"):
        unpack(tmp_path / "damaged.tgz", tmp_path / "into")


def test_a_hostile_archive_leaves_nothing_behind(monkeypatch, cub):
    files = cub_files() | {"CUB_200_2011/../../evil": b"evil"}
    content = tgz(files)
    offer(monkeypatch, "cub200", {"CUB_200_2011.tgz": content})
    (cub / "CUB_200_2011.tgz").write_bytes(content)
    with pytest.raises(DataError, match="does not belong into a data set"):
        prepare_dataset("cub200", cub)
    assert visible(cub) == ["CUB_200_2011.tgz"]
    assert leftovers(cub) == []
    assert not (cub.parent / "evil").exists()


# ---- the catalogue ----


def test_the_catalogue_agrees_with_torchvision():
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.imagenet import ARCHIVE_META
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    from sosr_det.data.prepare.layout_cifar import PUBLISHED_MD5

    for name, peer in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        entry = dataset_entry(name)
        (archive,) = entry.archives
        assert (archive.url, archive.filename, archive.md5) == (peer.url, peer.filename, peer.tgz_md5)
        assert entry.archive_top == peer.base_folder
        published = dict([*peer.train_list, *peer.test_list, (peer.meta["filename"], peer.meta["md5"])])
        assert PUBLISHED_MD5[name] == published
    imagenet = [(archive.filename, archive.md5) for archive in dataset_entry("imagenet").archives]
    assert imagenet == [ARCHIVE_META[part] for part in ("train", "val", "devkit")]
    voc = {(archive.filename, archive.md5, archive.url) for archive in dataset_entry("voc").archives}
    keys = ("filename", "md5", "url")
    assert voc == {tuple(DATASET_YEAR_DICT[y][k] for k in keys) for y in ("2007", "2007-test", "2012")}


def test_the_catalogue_agrees_with_the_configs():
    from sosr_det.engine.configs import config_names, config_roots

    roots = {
        Path(root).name
        for path in (config_roots()[0] / "_base_").rglob("*.py")
        for root in re.findall(r'^data_root = "(data/[^"]+)"', path.read_text(), flags=re.MULTILINE)
    }
    assert len(roots) >= 4
    for entry in catalogue.CATALOGUE.values():
        if any(name.rpartition("_")[2] == entry.config_tag for name in config_names()):
            assert entry.folder in roots, entry.name
    assert any(name.endswith("_" + catalogue.CATALOGUE["imagenet"].config_tag) for name in config_names())


def test_suffixes_are_those_of_the_data_sets():
    from sosr_det.data.classification import IMAGE_SUFFIXES as READ
    from sosr_det.data.prepare.inspection import IMAGE_SUFFIXES

    assert frozenset(READ) == IMAGE_SUFFIXES
