"""Which of the four formats a file or folder of detections has, by its content; the name does not count."""

from __future__ import annotations

import re
import zipfile
from enum import StrEnum
from pathlib import Path

from sosr_det.errors import DataError
from sosr_det.evaluation.formats.text import listed
from sosr_det.evaluation.saved_detections import FILE_NAME


class DetectionFormat(StrEnum):
    """What is read; the value is what messages and JSON say."""

    DEVKIT = "devkit text files"
    COCO = "COCO results JSON"
    MMDET = "MMDetection pickle"
    SAVED = "detections.npz"


FORMATS_HELP = (
    "Known are: a folder with the devkit's text files, one a class (comp4_det_test_<class>.txt); COCO's results "
    f"(JSON); a pickle of MMDetection's tools/test.py --out; {FILE_NAME} of sosr-det test"
)


def recognise(path: str | Path, file_name: str | None = None) -> tuple[DetectionFormat, Path]:
    """The format, and where the detections are: for a work directory of ``sosr-det test`` the file in it.

    Args:
        path: The file or folder.
        file_name: If given, the name of the devkit's text files, so that a folder with ``.txt`` files is theirs.

    Raises:
        DataError: nothing there, or none of the four; they are listed.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path, file_name)
    if not path.is_file():
        what = "neither a file nor a folder" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {what}. {FORMATS_HELP}")
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return DetectionFormat.SAVED, path
    # Protocol 2 and later say so; earlier ones are text, beginning with an empty list.
    if head.startswith((b"\x80", b"(lp", b"]q")):
        return DetectionFormat.MMDET, path
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        return DetectionFormat.COCO, path
    raise DataError(f"{path}: {_described(head)}. {FORMATS_HELP}")


def _of_folder(folder: Path, file_name: str | None) -> tuple[DetectionFormat, Path]:
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    texts = [name for name in names if name.endswith(".txt")]
    # Any text may lie beside the file of a test (requirements.txt).
    devkit = any(re.fullmatch(r".*det_[^_]+_.+\.txt", name) for name in texts) or (texts and file_name)
    if FILE_NAME in names and not devkit:
        _check_archive(folder / FILE_NAME)
        return DetectionFormat.SAVED, folder / FILE_NAME
    if texts:
        return DetectionFormat.DEVKIT, folder
    files = [name for name in names if name.endswith((".json", ".pkl", ".pickle", ".npz"))]
    there = f"; it has {listed(files, 3)}: give the file itself" if files else ""
    raise DataError(f"{folder}: no detection files in this folder{there}. {FORMATS_HELP}")


def _described(head: bytes) -> str:
    first = head.split(b"\n")[0].split()
    if not head:
        return "the file is empty"
    if len(first) == 6 and re.fullmatch(rb"[-+.0-9eEnaif]+", first[1]):
        return "one class's text file; give the folder that holds it, and --classes if not all are there"
    if head.startswith(b"\x1f\x8b"):
        return "packed with gzip; unpack it"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (run `git lfs pull`)"
    return "no detections in a format that is known"


# Boxes and scores hardly shrink. Names and labels alone may shrink more, but they are few.
_MOST_UNPACKED_PER_BYTE = 32
_ALWAYS_UNPACKED = 64 << 20  # bytes


def _check_archive(path: Path) -> None:
    """Refuse an archive that would unpack to far more than its size, before numpy unpacks it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError) as error:
        raise DataError(f"{path}: a damaged archive: {error}. {FORMATS_HELP}") from error
    size = path.stat().st_size
    if unpacked > _MOST_UNPACKED_PER_BYTE * size + _ALWAYS_UNPACKED:
        raise DataError(
            f"{path}: has {size} bytes and would unpack to {unpacked}; it is made to exhaust memory, or damaged"
        )
    if not any(member.filename == "format.npy" for member in members):
        raise DataError(
            f"{path}: an archive, but not {FILE_NAME} (a checkpoint?); its members are "
            f"{listed((member.filename for member in members), 5)}. {FORMATS_HELP}"
        )
