"""``sosr-det data prepare``: archives in, a complete data set out, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sosr_det.data.prepare import imagenet
from sosr_det.data.prepare.catalogue import Archive, DatasetEntry, dataset_entry
from sosr_det.data.prepare.checksum import check_archive
from sosr_det.data.prepare.counts import compare_with_official
from sosr_det.data.prepare.download import DownloadError, Patience, download_archive
from sosr_det.data.prepare.inspection import Inspection
from sosr_det.data.prepare.layouts import inspect
from sosr_det.data.prepare.places import Places, find_archives, how_to_place
from sosr_det.data.prepare.progress import Progress, no_progress
from sosr_det.data.prepare.staging import (
    check_space,
    disk_errors,
    fresh_staging,
    holds_something,
    no_empty_folders,
    only_one,
    publish,
)
from sosr_det.data.prepare.unpack import unpack
from sosr_det.errors import DataError


@dataclass(frozen=True)
class PreparedDataset:
    """A complete data set.

    Attributes:
        entry: which one.
        folder: its folder, for a config's ``data_root``.
        already_there: whether nothing had to be done.
        images: number of images by split.
        classes: number of classes; 0 where images have no single class.
        archives: the archive files that lie in the data root and could be deleted now.
    """

    entry: DatasetEntry
    folder: Path
    already_there: bool
    images: dict[str, int]
    classes: int
    archives: tuple[Path, ...]


def prepare_dataset(
    name: str,
    root: Path | str,
    *,
    archives: Sequence[Path] = (),
    remove_archives: bool = False,
    patience: Patience | None = None,
    progress: Progress = no_progress,
) -> PreparedDataset:
    """Download what may be downloaded, check, unpack and count a data set.

    It is unpacked into a hidden folder beside its final place and renamed when it is complete: an interrupted call
    leaves archives and ``.part`` files, which the next one uses, and nothing under the final name; without those it
    leaves no folder either that was not there before. Images are counted,
    not decoded; :func:`~sosr_det.data.prepare.verify.verify_dataset` does that.

    Args:
        name: a name of :data:`~sosr_det.data.prepare.catalogue.CATALOGUE`.
        root: folder that holds the data sets under their usual names, or the folder of this one if it has that name.
        archives: archive files to use instead of a download; those lying in ``root`` are found without.
        remove_archives: delete the archives below ``root`` after success.
        patience: how long to wait for a server.
        progress: told how far the work is, in bytes.

    Raises:
        ConfigError: unknown name, or an archive that is none of this data set's.
        DataError: no network or no permission to download (the message lists the files to place), a wrong checksum,
            a damaged or hostile archive, a full disk, or an incomplete data set in the way.
    """
    entry = dataset_entry(name)
    places = Places.of(entry, Path(root))
    with disk_errors(places.root), no_empty_folders(places.downloads, places.home, places.final):
        places.downloads.mkdir(parents=True, exist_ok=True)
        with only_one(places.downloads, entry.name):
            found = _already_there(entry, places)
            was_there = found is not None
            if found is None:
                files = find_archives(entry, places, archives)
                if entry.layout == "imagenet":
                    imagenet.prepare_imagenet(entry, places, files, progress)
                    found = inspect(entry, places.home)
                else:
                    files = _get_archives(entry, places, files, patience, progress)
                    found = _unpack(entry, places, files, progress)
                require_complete(entry, found, f"{places.home} is not what was expected after unpacking")
            there = find_archives(entry, places, ())
            if remove_archives:
                for path in there.values():
                    path.unlink()
                there = {}
    return PreparedDataset(
        entry=entry,
        folder=places.home,
        already_there=was_there,
        images={split: content.images for split, content in found.splits.items()},
        classes=max((len(split.class_counts) for split in found.splits.values()), default=0),
        archives=tuple(there.values()),
    )


def require_complete(entry: DatasetEntry, found: Inspection, what: str) -> None:
    """Stop unless the official number of images is there and the lists agree with the files.

    Raises:
        DataError: something differs; the message shows the first three differences.
    """
    few, many = compare_with_official(found, entry)
    problems = found.problems + few + many
    if problems:
        shown = "\n".join(f"  {problem.path}: {problem.reason}" for problem in problems[:3])
        more = f"\n  … and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(f"{what}:\n{shown}{more}")


def _already_there(entry: DatasetEntry, places: Places) -> Inspection | None:
    if entry.layout == "imagenet":
        if not all(holds_something(places.home / split) for split in entry.splits):
            return None
    elif not holds_something(places.final):
        return None
    found = inspect(entry, places.home)
    require_complete(
        entry,
        found,
        f"{places.final} is in the way: it is no complete {entry.title}, and was left as it is. Move it away and run "
        f"the command again, or choose another --root (details: sosr-det data verify {entry.name})",
    )
    return found


def _get_archives(
    entry: DatasetEntry,
    places: Places,
    files: dict[Archive, Path],
    patience: Patience | None,
    progress: Progress,
) -> dict[Archive, Path]:
    for archive, path in files.items():
        check_archive(archive, path, progress)
    missing = [archive for archive in entry.archives if archive not in files]
    if not missing:
        return files
    parts = [places.downloads / f"{archive.filename}.part" for archive in missing]
    there = sum(part.stat().st_size for part in parts if part.exists())
    needed = sum(archive.size for archive in missing) - there + entry.unpacked_bytes
    check_space(places.downloads, needed, entry.title)
    for number, archive in enumerate(missing):
        target = places.downloads / archive.filename
        try:
            download_archive(archive, target, patience=patience, progress=progress)
        except DownloadError as error:
            raise DataError(
                f"{error}\nIf it cannot be downloaded here, get it elsewhere, place\n"
                f"{how_to_place(entry, missing[number:], places)}"
            ) from error
        files[archive] = target
    return files


def _unpack(
    entry: DatasetEntry, places: Places, files: dict[Archive, Path], progress: Progress
) -> Inspection:
    check_space(places.final, entry.unpacked_bytes, entry.title)
    places.final.parent.mkdir(parents=True, exist_ok=True)
    with fresh_staging(places.final) as staging:
        for path in files.values():
            unpack(path, staging, progress)
        built = staging / entry.archive_top
        if not built.is_dir():
            there = ", ".join(sorted(child.name for child in staging.iterdir())) or "nothing"
            raise DataError(f"the archive of {entry.title} holds no {entry.archive_top}/, but {there}.")
        found = inspect(entry, staging if entry.nested else built)
        require_complete(entry, found, f"the unpacked {entry.title} is not complete, and was not kept")
        publish(built, places.final)
    return found
