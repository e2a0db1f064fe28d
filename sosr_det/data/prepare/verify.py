"""``sosr-det data verify``: is a data set complete, consistent and readable?"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from sosr_det.data.prepare.catalogue import VOC_FORMAT, DatasetEntry, dataset_entry
from sosr_det.data.prepare.counts import compare_with_official
from sosr_det.data.prepare.decoding import decode_all
from sosr_det.data.prepare.inspection import Inspection, Problem
from sosr_det.data.prepare.layouts import find_dataset, inspect
from sosr_det.data.prepare.overlap import identical_images
from sosr_det.data.prepare.progress import Progress, no_progress
from sosr_det.data.prepare.report import VerifyReport
from sosr_det.data.prepare.voc.layout import read_any, read_official
from sosr_det.data.prepare.voc.verify import check_devkit
from sosr_det.data.voc_classes import VOC_CLASSES
from sosr_det.errors import ConfigError


def verify_dataset(
    name: str,
    root: Path | str,
    *,
    subset_ok: bool = False,
    workers: int | None = None,
    imagenet: Path | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> VerifyReport:
    """Check counts, class lists, annotations and files of a data set, and decode every image.

    Args:
        name: a name of :data:`~sosr_det.data.prepare.catalogue.CATALOGUE`, or ``voc-format`` for any data set with
            VOC's folders and XML files.
        root: the data set's folder, or the one that holds it under its usual name.
        subset_ok: accept fewer images or classes than published; more are always a problem.
        workers: threads that decode; None means one for each CPU that this process may use.
        imagenet: for ``cub200``: ImageNet's folder. None means the one beside CUB, if there is one.
        classes: for ``voc-format``: its class names. None takes those that its annotations have, and reports names
            that differ only in spelling.
        progress: told how many images are done.

    Raises:
        ConfigError: unknown name, fewer than one worker, ``imagenet`` or ``classes`` given for another data set, or
            class names that are empty or given twice.
        DataError: the data set, or the ``imagenet`` that was named, is not there at all.
    """
    started = time.monotonic()
    entry = VOC_FORMAT if name == VOC_FORMAT.name else dataset_entry(name)
    workers = _available_cpus() if workers is None else workers
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if imagenet is not None and entry.layout != "cub200":
        raise ConfigError(f"--imagenet is for cub200, whose test images are looked up there; got {name}.")
    _check_class_names(entry, classes)
    folder = Path(root) if entry is VOC_FORMAT else find_dataset(entry, Path(root))
    imagenet = _imagenet_folder(entry, folder, imagenet)

    devkit = None
    if entry is VOC_FORMAT:
        devkit = read_any(folder)
    elif entry.layout == "voc":
        devkit = read_official(folder)
    found = devkit.found if devkit else inspect(entry, folder)
    report = VerifyReport(entry, found.root, found.layout, found, subset_ok)
    _compare_counts(report)
    report.problems += found.problems
    if devkit is None:
        _decode(report, workers, progress)
    else:
        published = entry is not VOC_FORMAT
        check = check_devkit(
            devkit, VOC_CLASSES if published else classes, workers, published=published, progress=progress
        )
        report.decoded, report.objects = check.decoded, check.objects
        report.problems += check.problems
        report.notes += check.notes
    if imagenet is not None:
        report.imagenet = imagenet
        report.identical = identical_images(folder, found.splits["test"].files, imagenet, workers, progress)
    report.seconds = time.monotonic() - started
    return report


def _check_class_names(entry: DatasetEntry, classes: Sequence[str] | None) -> None:
    if classes is None:
        return
    if entry is not VOC_FORMAT:
        raise ConfigError(
            f"--classes is for {VOC_FORMAT.name}; the classes of {entry.name} are known. For your own data set: "
            f"sosr-det data verify {VOC_FORMAT.name} --root DIR --classes A,B"
        )
    if not classes or not all(name.strip() for name in classes):
        raise ConfigError(f"--classes needs names, separated by commas, got {list(classes)}")
    if repeated := sorted({name for name in classes if list(classes).count(name) > 1}):
        raise ConfigError(f"--classes names a class twice: {', '.join(repeated)}")


def _compare_counts(report: VerifyReport) -> None:
    few, many = compare_with_official(report.found, report.entry)
    if report.entry.layout == "imagenet":
        few += _unknown_imagenet_classes(report.found)
    if report.subset_ok:
        report.notes += [f"{problem.path}: {problem.reason}" for problem in few]
    else:
        report.shortfalls = len(few)
        report.problems += few
    report.problems += many


def _decode(report: VerifyReport, workers: int, progress: Progress) -> None:
    splits = report.found.splits.values()
    files = list(dict.fromkeys(file for split in splits for file in split.files))
    decoding = decode_all(report.folder, files, workers, progress)
    report.decoded = decoding.decoded + sum(split.images for split in splits if not split.files)
    report.problems += decoding.problems
    report.notes += decoding.other_format


def _imagenet_folder(entry: DatasetEntry, folder: Path, asked: Path | None) -> Path | None:
    if entry.layout != "cub200":
        return None
    official = dataset_entry("imagenet")
    if asked is not None:
        return find_dataset(official, asked)
    beside = folder.absolute().parent / official.folder
    return beside if (beside / "train").is_dir() or (beside / "val").is_dir() else None


def _unknown_imagenet_classes(found: Inspection) -> list[Problem]:
    from timm.data import ImageNetInfo

    known = set(ImageNetInfo().label_names())
    problems = []
    for name, split in found.splits.items():
        if unknown := sorted(set(split.class_counts) - known):
            reason = f"{len(unknown)} class folders are no classes of ImageNet-1k: {', '.join(unknown[:3])}"
            problems.append(Problem("classes", name, reason))
    return problems


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
