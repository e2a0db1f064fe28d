"""One file with ground truth and detections of a test: what tests leave, and analyses and comparisons read.

A numpy archive without pickled objects; float64 throughout, so that nothing is rounded on the way. Its arrays, for
whoever reads it with ``numpy.load``: ``class_names``, ``image_ids``, perhaps ``image_sizes`` (width, height) and
``image_paths``; of ground truth ``gt_label`` and ``gt_image`` (counting in the order of those names), ``gt_box``
(x1, y1, x2, y2), ``gt_difficult``, ``gt_truncated`` (-1: not known); of detections ``label``, ``image``, ``box``,
``score``.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.input_checks import check_class

FILE_NAME = "detections.npz"
_FORMAT = "sosr-det detections 1"
_UNKNOWN = -1  # of a flag that nobody recorded
# Boxes and scores, most of a file, compress to a half at best; zeros would to a thousandth.
_MOST_EXPANSION = 50
_ALWAYS_ALLOWED = 64 << 20


def write_detections(path: str | Path, data: EvaluationSet) -> Path:
    """Save a set, replacing the file atomically; the folder is made.

    Raises:
        ValueError: a name that ends in a NUL character, which numpy would drop.
        DataError: the file cannot be written; whatever was there before still is.
    """
    path = Path(path)
    for names in (data.class_names, data.image_ids, data.image_paths or ()):
        for name in names:
            if name.endswith("\0"):
                raise ValueError(f"{name!r} cannot be saved: it ends in a NUL character")
    truth = [data.ground_truth[name] for name in data.class_names]
    found = [data.detections[name] for name in data.class_names]
    arrays = {
        "format": np.array(_FORMAT),
        "class_names": np.array(data.class_names, dtype=str),
        "image_ids": np.array(data.image_ids, dtype=str),
        "gt_label": np.repeat(np.arange(len(truth)), [len(each) for each in truth]),
        "gt_image": _joined([each.image_index for each in truth], np.int64),
        "gt_box": _joined([each.boxes for each in truth], np.float64, (4,)),
        "gt_difficult": _joined([each.difficult for each in truth], bool),
        "gt_truncated": _joined(
            [np.full(len(e), _UNKNOWN) if e.truncated is None else e.truncated for e in truth], np.int8
        ),
        "label": np.repeat(np.arange(len(found)), [len(each) for each in found]),
        "image": _joined([each.image_index for each in found], np.int64),
        "box": _joined([each.boxes for each in found], np.float64, (4,)),
        "score": _joined([each.scores for each in found], np.float64),
    }
    if data.image_sizes is not None:
        arrays["image_sizes"] = data.image_sizes
    if data.image_paths is not None:
        arrays["image_paths"] = np.array(data.image_paths, dtype=str)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                np.savez_compressed(stream, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: the detections cannot be saved: {error}") from error
    return path


def read_detections_file(path: str | Path) -> EvaluationSet:
    """Read what :func:`write_detections` saved; ``path`` may be the folder that holds it.

    Raises:
        DataError: no such file, or not one of ours.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: no such file; `sosr-det test` leaves {FILE_NAME} in its work directory")
    try:
        _refuse_bomb(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if str(arrays["format"]) != _FORMAT:
            raise ValueError(f"its format is {str(arrays['format'])[:60]!r}, expected {_FORMAT!r}")
        return _read(arrays)
    # Whatever zip, zlib and numpy raise at bytes that are not what they should be, and there is much.
    except Exception as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DataError(f"{path}: not detections that `sosr-det test` saved, or damaged: {what}") from error


def _refuse_bomb(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_EXPANSION * path.stat().st_size + _ALWAYS_ALLOWED:
        raise ValueError(f"it would expand to {size:,} bytes")


def _read(arrays: dict[str, np.ndarray]) -> EvaluationSet:
    class_names = [str(name) for name in arrays["class_names"]]
    ground_truth, detections = {}, {}
    for what in ("gt_label", "label"):
        if ((arrays[what] < 0) | (arrays[what] >= len(class_names))).any():
            raise ValueError(f"{what} goes beyond its {len(class_names)} classes")
    for label, name in enumerate(class_names):
        of_class = arrays["gt_label"] == label
        truncated = arrays["gt_truncated"][of_class]
        ground_truth[name] = GroundTruth(
            arrays["gt_image"][of_class],
            arrays["gt_box"][of_class],
            arrays["gt_difficult"][of_class],
            None if (truncated == _UNKNOWN).any() else truncated,
        )
        of_class = arrays["label"] == label
        detections[name] = Detections(
            arrays["image"][of_class], arrays["box"][of_class], arrays["score"][of_class]
        )
    image_ids = [str(name) for name in arrays["image_ids"]]
    for each in (*class_names, *image_ids):
        if any("\ud800" <= character <= "\udfff" for character in each):
            raise ValueError(f"the name {each!r} is not text that can be written")
    for name in class_names:
        check_class(ground_truth[name], detections[name], name, len(image_ids))
    return EvaluationSet(
        class_names,
        image_ids,
        ground_truth,
        detections,
        arrays.get("image_sizes"),
        [str(name) for name in arrays["image_paths"]] if "image_paths" in arrays else None,
    )


def _joined(parts: list[np.ndarray], dtype: type, shape: tuple[int, ...] = ()) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape), dtype), *(np.asarray(part, dtype) for part in parts)])
