"""Detections in any of the known formats, together with their ground truth: what ``sosr-det eval-voc`` evaluates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sosr_det.data.voc_classes import VOC_CLASSES
from sosr_det.errors import ConfigError, DataError
from sosr_det.evaluation.boxes import Detections, EvaluationSet
from sosr_det.evaluation.formats import devkit
from sosr_det.evaluation.formats.box_formats import BoxFormat, corners_of, to_voc
from sosr_det.evaluation.formats.coco_annotations import box_format_of, read_coco_annotations
from sosr_det.evaluation.formats.coco_categories import labels_by_name, labels_by_number
from sosr_det.evaluation.formats.coco_results import read_coco_results
from sosr_det.evaluation.formats.ground_truth import Annotations, read_annotations
from sosr_det.evaluation.formats.image_names import ImageNames
from sosr_det.evaluation.formats.mmdet_pickle import read_mmdet_pickle
from sosr_det.evaluation.formats.oddities import oddities
from sosr_det.evaluation.formats.recognise import DetectionFormat, recognise
from sosr_det.evaluation.formats.text import listed
from sosr_det.evaluation.formats.voc_folder import find_voc_folder, image_set_file, read_image_set
from sosr_det.evaluation.saved_detections import FILE_NAME, read_detections_file


@dataclass(frozen=True)
class Reading:
    """How files are to be read; None: the default of their format.

    Attributes:
        voc_root: The folder that holds ``VOC<year>``; not needed for detections that come with their ground truth.
        year: Such as ``2007``.
        split: An image set, such as ``test``.
        class_names: Classes to evaluate, in the order in which numbers count them. Default: the twenty of PASCAL VOC,
            or, where the annotations hold others, those in the annotations, sorted; results that have numbers for
            classes need them given then.
        file_name: Of a class's text file, ``{}`` for the class. Default: ``*det_<split>_{}.txt``, whatever is there.
        missing_class: Whether a missing text file is an error or an empty one.
        box_format: How boxes of COCO results and MMDetection's pickles are written. Default: ``edges`` for COCO (or
            what its annotation file shows), ``zero-based`` for MMDetection.
        first_category_id: COCO's id of the first class, 0 or 1. Default: what the ids tell, else an error.
        coco_annotations: The annotation file that COCO results belong to.
    """

    voc_root: Path | None = None
    year: str = "2007"
    split: str = "test"
    class_names: Sequence[str] | None = None
    file_name: str | None = None
    missing_class: Literal["error", "empty"] = "error"
    box_format: BoxFormat | None = None
    first_category_id: int | None = None
    coco_annotations: Path | None = None


@dataclass(frozen=True, eq=False)
class DetectionFiles:
    """What was read.

    Attributes:
        data: Ground truth and detections.
        inputs: What was read from where, and choices that were made; for JSON.
        notes: What the user should know, a sentence each.
    """

    data: EvaluationSet
    inputs: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def read_detection_files(path: str | Path, how: Reading) -> DetectionFiles:
    """Read detections in whatever format they are, and the ground truth of the split.

    Raises:
        DataError: anything missing, malformed, unknown or ambiguous, with file and place.
        ConfigError: an option that this format has no use for, or one that it needs.
    """
    kind, path = recognise(path, how.file_name)
    _refuse_other_options(kind, how)
    if kind is DetectionFormat.SAVED:
        return _saved(path, how)
    if how.voc_root is None:
        raise ConfigError(
            f"{path}: {kind} holds no ground truth: give the folder with VOC{how.year}/ as --voc-root"
        )
    folder = find_voc_folder(how.voc_root, how.year)
    image_ids = read_image_set(image_set_file(folder, how.split))
    xml = read_annotations(folder / "Annotations", image_ids)
    classes, notes = _classes(xml, how)
    detections, choices, more_notes = _READERS[kind](path, how, xml, classes)
    if kind is DetectionFormat.DEVKIT and (path / FILE_NAME).exists():
        notes.append(f"{FILE_NAME} beside the text files is not read; give it itself to read it")
    data = EvaluationSet(classes, image_ids, xml.ground_truth(classes, "ignore"), detections, xml.image_sizes)
    _require_objects(data, folder)
    inputs = {
        "detections": {"path": str(path), "format": str(kind), **choices},
        "ground_truth": {"path": str(folder), "year": how.year, "split": how.split},
    }
    return DetectionFiles(data, inputs, (*notes, *more_notes, *oddities(data)))


def _refuse_other_options(kind: DetectionFormat, how: Reading) -> None:
    """An option without effect would be a silent misunderstanding."""
    uses = {
        "--file-name": (how.file_name, {DetectionFormat.DEVKIT}),
        "--missing-class empty": (how.missing_class == "empty" or None, {DetectionFormat.DEVKIT}),
        "--box-format": (how.box_format, {DetectionFormat.COCO, DetectionFormat.MMDET}),
        "--first-category-id": (how.first_category_id, {DetectionFormat.COCO}),
        "--coco-annotations": (how.coco_annotations, {DetectionFormat.COCO}),
    }
    for option, (value, kinds) in uses.items():
        if value is not None and kind not in kinds:
            raise ConfigError(f"{option} is for {' and '.join(kinds)}; the detections are: {kind}")
    if how.first_category_id is not None and how.coco_annotations is not None:
        raise ConfigError(
            "--first-category-id has no effect with --coco-annotations, which names the categories; leave one out"
        )


def _require_objects(data: EvaluationSet, where: Path) -> None:
    """Without anything to be found there is no average precision.

    Raises:
        DataError: there is no object, or only difficult ones.
    """
    difficult = np.concatenate([each.difficult for each in data.ground_truth.values()])
    if difficult.all():
        also = f" ({len(difficult)} difficult ones are there)" if len(difficult) else ""
        raise DataError(
            f"{where}: no object of {listed(data.class_names)} to be found in the ground truth{also}; there is no "
            "average precision of nothing. Check the classes and the split"
        )


def _require_order(path: Path, how: Reading, classes: Sequence[str]) -> None:
    """Refuse numbers for classes whose order nobody gave: sorted names are not a detector's order.

    Raises:
        DataError: the classes were found by a scan of the annotations.
    """
    if how.class_names is None and tuple(classes) != tuple(VOC_CLASSES):
        raise DataError(
            f"{path}: the results have numbers for classes, and these do not say which class is meant: the annotations "
            f"hold {listed(classes, 30)}, in no order. Give all classes with --classes, in the order of the detector's "
            "data set (its METAINFO or names file)"
        )


def _classes(xml: Annotations, how: Reading) -> tuple[list[str], list[str]]:
    """The classes to evaluate, and what there is to say about them."""
    counts = xml.table.class_counts
    if how.class_names is not None:
        classes = list(how.class_names)
        others = [f"{name} ({count} objects)" for name, count in counts.items() if name not in classes]
        return classes, [f"not evaluated: {listed(others, 5)}"] if others else []
    if not counts:
        raise DataError(f"{xml.folder}: no objects in the annotations of {how.split!r}; nothing to evaluate")
    if set(counts) <= set(VOC_CLASSES):
        return list(VOC_CLASSES), []
    return list(counts), [f"classes as found in the annotations: {listed(counts, 30)}"]


Read = tuple[dict[str, Detections], dict[str, Any], list[str]]  # detections, choices for JSON, notes


def _devkit(path: Path, how: Reading, xml: Annotations, classes: list[str]) -> Read:
    notes = []
    if how.file_name is None:
        file_name, there = devkit.choose_file_name(path, how.split)
    else:
        file_name, there = how.file_name, []
        if "{}" not in file_name:
            raise ConfigError(f"--file-name must have {{}} for the class, got {file_name!r}")
    others = [file_name.replace("{}", name) for name in there if name not in classes]
    if others and how.class_names is None:
        raise DataError(
            f"{path}: {listed(others)}: no such class; expected {listed(classes, 30)}. If it is one, give all classes "
            "with --classes"
        )
    if others:
        notes.append(f"not read: {listed(others, 5)}")
    missing = [name for name in classes if not (path / file_name.replace("{}", name)).is_file()]
    if missing and how.missing_class == "error":
        raise DataError(
            f"{path}: no detection file for {len(missing)} of {len(classes)} classes: "
            f"{listed((file_name.replace('{}', name) for name in missing), 20)}. A class of which nothing was detected "
            "needs an empty file, or --missing-class empty; name the classes with --classes if these are not meant"
        )
    if missing:
        notes.append(f"no detection file for {listed(missing, 20)}: taken for empty, as asked")
    detections = devkit.read_detections(
        path, xml.image_ids, classes, file_name=file_name, missing_class=how.missing_class
    )
    files = [path / file_name.replace("{}", name) for name in classes if name not in missing]
    return detections, {"file_name": file_name, "files": len(files), "sha256": _sha256(files)}, notes


def _coco(path: Path, how: Reading, xml: Annotations, classes: list[str]) -> Read:
    notes, known = [], None
    names = ImageNames(xml.image_ids)
    annotations = None if how.coco_annotations is None else read_coco_annotations(how.coco_annotations)
    if annotations is not None and annotations.file_names:
        known = annotations.file_names
    results = read_coco_results(path, names, known)
    box_format = how.box_format or "edges"
    reason = (
        "given" if how.box_format else "COCO's definition; --box-format zero-based if MMDetection wrote them"
    )
    if annotations is not None:
        shown = box_format_of(annotations, names, xml, classes)
        if shown is not None and how.box_format not in (None, shown):
            raise ConfigError(
                f"--box-format {how.box_format}, but the boxes of {annotations.path} are those of the XML files as "
                f"{shown}; leave the option out"
            )
        if shown is not None:
            box_format, reason = shown, "as in the annotation file"
        labels = labels_by_name(results.category_ids, annotations.names, classes, results.place)
        choices: dict[str, Any] = {"categories": str(annotations.path)}
        if (labels < 0).any():
            notes.append(f"{int((labels < 0).sum())} results are of other classes and not evaluated")
    elif len(results.category_ids) == 0:
        labels, choices = results.category_ids, {}
    else:
        _require_order(path, how, classes)
        labels, first = labels_by_number(results.category_ids, classes, how.first_category_id, results.place)
        choices = {"first_category_id": first}
        notes.append(f"category ids: {first} is {classes[0]}, {first + len(classes) - 1} is {classes[-1]}")
    notes.append(f"boxes are read as {box_format} ({reason})")
    boxes = to_voc(corners_of(results.boxes), box_format)
    detections = _by_class(results.image_index, labels, boxes, results.scores, classes)
    return detections, choices | {"box_format": box_format, "sha256": _sha256([path])}, notes


def _mmdet(path: Path, how: Reading, xml: Annotations, classes: list[str]) -> Read:
    _require_order(path, how, classes)
    results = read_mmdet_pickle(path, ImageNames(xml.image_ids), classes)
    box_format = how.box_format or "zero-based"
    boxes = to_voc(results.boxes, box_format)
    detections = _by_class(results.image_index, results.labels, boxes, results.scores, classes)
    choices = {"mmdet_version": results.layout, "box_format": box_format, "sha256": _sha256([path])}
    notes = [
        f"labels: 0 is {classes[0]}, {len(classes) - 1} is {classes[-1]}",
        f"boxes are read as {box_format} ({'given' if how.box_format else 'as MMDetection has VOC'})",
    ]
    if results.layout == 2:
        notes.append(
            f"the entries have no names: they are taken for the {len(xml.image_ids)} images in their order"
        )
    return detections, choices, notes


_READERS = {DetectionFormat.DEVKIT: _devkit, DetectionFormat.COCO: _coco, DetectionFormat.MMDET: _mmdet}


def _saved(path: Path, how: Reading) -> DetectionFiles:
    try:
        data = read_detections_file(path)
    except MemoryError as error:
        raise DataError(f"{path}: claims arrays larger than the memory; it is damaged") from error
    notes = []
    if how.voc_root is not None:
        notes.append(
            "the ground truth is the one saved with the detections: --voc-root, --year and --split are not used"
        )
    if how.class_names is not None:
        unknown = [name for name in how.class_names if name not in data.class_names]
        if unknown:
            raise DataError(
                f"{path}: no class {listed(unknown)}; its classes are {listed(data.class_names, 30)}"
            )
        others = [name for name in data.class_names if name not in how.class_names]
        notes += [f"not evaluated: {listed(others, 20)}"] if others else []
        data = EvaluationSet(
            how.class_names,
            data.image_ids,
            {name: data.ground_truth[name] for name in how.class_names},
            {name: data.detections[name] for name in how.class_names},
            data.image_sizes,
            data.image_paths,
        )
    source = {"path": str(path), "format": str(DetectionFormat.SAVED), "sha256": _sha256([path])}
    _require_objects(data, path)
    inputs = {"detections": source, "ground_truth": {"path": str(path)}}
    return DetectionFiles(data, inputs, (*notes, *oddities(data)))


def _by_class(
    image_index: np.ndarray, labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray, classes: Sequence[str]
) -> dict[str, Detections]:
    detections = {}
    for label, name in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        detections[name] = Detections(image_index[rows], boxes[rows], scores[rows])
    return detections


def _sha256(files: Sequence[Path]) -> str:
    """Of the files one after another, as ``cat FILES | sha256sum`` says."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
