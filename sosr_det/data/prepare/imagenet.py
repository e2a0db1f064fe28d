"""ImageNet from its three official archives, which only registered users can download."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sosr_det.data.prepare.catalogue import Archive, DatasetEntry
from sosr_det.data.prepare.checksum import check_archive
from sosr_det.data.prepare.places import Places, how_to_place
from sosr_det.data.prepare.progress import Progress
from sosr_det.data.prepare.staging import bytes_below, check_space, holds_something, publish, staging_folder
from sosr_det.data.prepare.unpack import hostile_member
from sosr_det.errors import DataError

_CLASS_ARCHIVE = re.compile(r"(n\d{8})\.tar")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
# Files fill whole blocks of 4 KiB; an image has 110 KB on average.
_BLOCK_OVERHEAD = 1.03


def prepare_imagenet(
    entry: DatasetEntry, places: Places, files: dict[Archive, Path], progress: Progress
) -> None:
    """Make ``train/<wnid>/`` and ``val/<wnid>/`` from the archives; a split that is there already is left alone.

    Each split appears under its name only when it is complete. An interrupted call goes on where it stopped: a file
    of the right size is not written again, and an unchanged archive is not read again for its checksum.

    Raises:
        DataError: archives are missing (the message lists them), damaged or not the official ones; the disk is full.
    """
    train, val, devkit = entry.archives
    wanted = [] if holds_something(places.home / "train") else [train]
    if not holds_something(places.home / "val"):
        wanted += [val, devkit]
    missing = [archive for archive in wanted if archive not in files]
    if missing:
        raise DataError(
            f"{entry.title} can only be downloaded by registered users ({entry.page}; {entry.terms}). Get\n"
            f"{how_to_place(entry, missing, places)}"
        )
    places.home.mkdir(parents=True, exist_ok=True)
    if devkit in wanted:
        check_archive(devkit, files[devkit], progress)
        wnids = _validation_classes(files[devkit])
        staging = _Staging(places.home / "val", val, files[val])
        staging.prepare(progress)
        _unpack_val(files[val], staging.tree, wnids, progress)
        staging.publish()
    if train in wanted:
        staging = _Staging(places.home / "train", train, files[train])
        staging.prepare(progress)
        _unpack_train(files[train], staging.tree, progress)
        staging.publish()


class _Staging:
    """A staging folder that survives interruptions, with a note of the archive it is unpacked from."""

    def __init__(self, final: Path, archive: Archive, path: Path) -> None:
        self.final, self.archive, self.path = final, archive, path
        self.folder = staging_folder(final)
        self.tree = self.folder / "tree"
        self.note = self.folder / "checked_archive.json"

    def prepare(self, progress: Progress) -> None:
        """Check the archive, unless this very file was checked before, and the disk space."""
        status = self.path.stat()
        identity = {"md5": self.archive.md5, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        if not self.note.is_file() or self.note.read_text() != json.dumps(identity):
            shutil.rmtree(self.folder, ignore_errors=True)
            check_archive(self.archive, self.path, progress)
            self.tree.mkdir(parents=True)
            self.note.write_text(json.dumps(identity))
        needed = int(status.st_size * _BLOCK_OVERHEAD) - bytes_below(self.tree)
        check_space(self.folder, needed, f"unpacking {self.archive.filename}")

    def publish(self) -> None:
        publish(self.tree, self.final)
        shutil.rmtree(self.folder, ignore_errors=True)


def _unpack_train(path: Path, tree: Path, progress: Progress) -> None:
    total = path.stat().st_size
    try:
        with open(path, "rb") as raw, tarfile.open(fileobj=raw, mode="r:") as outer:
            for member in outer:
                name = _CLASS_ARCHIVE.fullmatch(member.name)
                content = outer.extractfile(member)
                if name is None or content is None:
                    raise hostile_member(
                        path, f"{member.name!r}, expected one archive n01234567.tar for each class"
                    )
                with content, tarfile.open(fileobj=content, mode="r:") as inner:
                    for image in inner:
                        _extract_unless_there(
                            inner, image, tree, f"{name[1]}/{os.path.basename(image.name)}", path
                        )
                        progress(f"unpacking {path.name}", raw.tell(), total)
    except tarfile.TarError as error:
        raise DataError(f"{path} cannot be unpacked ({error}); get it again.") from error


def _unpack_val(path: Path, tree: Path, wnids: Sequence[str], progress: Progress) -> None:
    total = path.stat().st_size
    seen = 0
    try:
        with open(path, "rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            for image in tar:
                name = _VAL_IMAGE.fullmatch(os.path.basename(image.name))
                if name is None or not 1 <= int(name[1]) <= len(wnids):
                    raise hostile_member(
                        path, f"{image.name!r}, expected ILSVRC2012_val_00000001.JPEG to {len(wnids):08d}"
                    )
                _extract_unless_there(tar, image, tree, f"{wnids[int(name[1]) - 1]}/{name[0]}", path)
                seen += 1
                progress(f"unpacking {path.name}", raw.tell(), total)
    except tarfile.TarError as error:
        raise DataError(f"{path} cannot be unpacked ({error}); get it again.") from error
    if seen != len(wnids):
        raise DataError(f"{path} holds {seen} images, but the devkit has classes for {len(wnids)}.")


def _extract_unless_there(
    tar: tarfile.TarFile, member: tarfile.TarInfo, tree: Path, name: str, archive: Path
) -> None:
    if not member.isreg():
        raise hostile_member(archive, f"{member.name!r} is no plain file")
    target = tree / name
    if target.is_file() and target.stat().st_size == member.size:
        return
    tar.extract(member.replace(name=name, deep=False), tree, filter="data")


def _validation_classes(devkit: Path) -> list[str]:
    """The WordNet id of each validation image, in the order of the images' numbers."""
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    # torchvision wants the archive under its usual name, and writes its meta.bin beside it.
    with tempfile.TemporaryDirectory(prefix="sosr-det-devkit-") as folder:
        os.symlink(devkit.resolve(), Path(folder) / "ILSVRC2012_devkit_t12.tar.gz")
        try:
            parse_devkit_archive(folder)
        except Exception as error:
            raise DataError(f"{devkit} cannot be read as ImageNet's development kit: {error}.") from error
        return list(load_meta_file(folder)[1])
