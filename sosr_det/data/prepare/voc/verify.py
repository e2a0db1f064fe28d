"""The check of a devkit, or of a data set in its format, beyond counts: images, annotations, and both together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sosr_det.data.prepare.decoding import decode_all
from sosr_det.data.prepare.inspection import Problem
from sosr_det.data.prepare.progress import Progress, no_progress
from sosr_det.data.prepare.voc.annotation import CheckedAnnotation, check_annotation
from sosr_det.data.prepare.voc.images import SizedImages
from sosr_det.data.prepare.voc.layout import Devkit
from sosr_det.data.prepare.voc.spelling import same_but_for_spelling
from sosr_det.data.prepare.voc.summary import Notes, SplitObjects


@dataclass
class DevkitCheck:
    """What was found in files that are listed.

    Attributes:
        decoded: number of images that could be decoded.
        objects: what each split holds.
        problems: what is wrong, images first.
        notes: what is worth knowing.
    """

    decoded: int = 0
    objects: dict[str, SplitObjects] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_devkit(
    devkit: Devkit,
    classes: Sequence[str] | None,
    workers: int,
    *,
    published: bool,
    progress: Progress = no_progress,
) -> DevkitCheck:
    """Decode every listed image and check every listed annotation.

    Args:
        devkit: the lists with their files.
        classes: known class names; None takes those that are found, and reports names that look alike.
        workers: threads that decode.
        published: whether this is the published data, whose own peculiarities are no fault of this copy.
        progress: told how far the work is.
    """
    root, check = devkit.found.root, DevkitCheck(notes=list(devkit.notes))
    images = SizedImages()
    files = list(
        dict.fromkeys(entry.image for listed in devkit.listed.values() for entry in listed if entry.image)
    )
    decoding = decode_all(root, files, workers, progress, images.decode)
    check.decoded = decoding.decoded
    check.problems += decoding.problems
    check.notes += decoding.other_format

    counts = _check_annotations(devkit, classes, images, check, progress)
    _check_classes(check, counts, classes)
    _check_copies(devkit, images, check, published)
    return check


def _check_annotations(
    devkit: Devkit, classes: Sequence[str] | None, images: SizedImages, check: DevkitCheck, progress: Progress
) -> Counter[str]:
    """Check each listed annotation once; return the number of objects by class, each file's once."""
    done: dict[str, CheckedAnnotation] = {}
    notes = Notes()
    total = sum(len(listed) for listed in devkit.listed.values())
    count = 0
    for split, listed in devkit.listed.items():
        summary = check.objects[split] = SplitObjects()
        for entry in listed:
            count += 1
            if count % 256 == 0 or count == total:
                progress("reading annotations", count, total)
            path = entry.annotation
            if path is None:
                continue
            if path not in done:  # an image may be in several lists
                done[path] = checked = _check_file(
                    devkit.found.root, path, entry.identity, classes, images.sizes.get(entry.image or "")
                )
                for text in checked.notes:
                    notes.add(text, path)
            if done[path].objects is not None:
                summary.add(done[path].objects)
    for path in sorted(done):
        check.problems += done[path].problems
    check.notes += notes.lines()
    return Counter(name for checked in done.values() for name, _, _ in checked.objects or ())


def _check_file(
    root: Path, path: str, identity: str, classes: Sequence[str] | None, size: tuple[int, int] | None
) -> CheckedAnnotation:
    try:
        content = (root / path).read_bytes()
    except OSError as error:
        return CheckedAnnotation(problems=[Problem("missing", path, error.strerror or str(error))])
    return check_annotation(content, path, identity, classes, size)


def _check_classes(check: DevkitCheck, counts: Counter[str], classes: Sequence[str] | None) -> None:
    if classes is not None:
        if unknown := {name: count for name, count in sorted(counts.items()) if name not in classes}:
            names = ", ".join(f"{name!r} ({count:,})" for name, count in unknown.items())
            check.notes.append(f"objects of unknown classes: {names}; known are {', '.join(classes)}")
        if absent := [name for name in classes if name not in counts]:
            check.notes.append(
                f"no objects of {len(absent)} of the {len(classes)} classes: {', '.join(absent)}"
            )
        return
    for name, usual in same_but_for_spelling(counts):
        reason = (
            f"{name!r} ({counts[name]:,} objects) looks like {usual!r} ({counts[usual]:,}); "
            "if they are one class, write it one way, else name both with --classes"
        )
        check.problems.append(Problem("spelling", "Annotations", reason))
    for name in sorted(counts):
        if name != name.strip():
            reason = (
                f"{name!r} ({counts[name]:,} objects) has space around it, which counts as part of the name"
            )
            check.problems.append(Problem("spelling", "Annotations", reason))


def _check_copies(devkit: Devkit, images: SizedImages, check: DevkitCheck, published: bool) -> None:
    pairs = images.identical({split: content.files for split, content in devkit.found.splits.items()})
    for file, other in pairs:
        if published:
            check.notes.append(f"{file} is byte for byte {other}")
        else:
            reason = f"is byte for byte the same as {other}, which another list has"
            check.problems.append(Problem("leak", file, reason))
