"""What a test leaves: ``test.json``, an entry in the run's ``run.json``, and its detections with all their flags."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sosr_det.engine.run_record import FILE_NAME, plain, read_run_record, write_run_record
from sosr_det.errors import SosrError
from sosr_det.evaluation.boxes import EvaluationSet, GroundTruth
from sosr_det.evaluation.saved_detections import read_detections_file, write_detections

logger = logging.getLogger("sosr_det")

TEST_FILE = "test.json"


def write_test_record(paths: list[Path], record: dict[str, Any]) -> None:
    """Replace each of the files atomically; NaN, which JSON lacks, becomes null."""
    text = json.dumps(plain(record), indent=1, allow_nan=False) + "\n"
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def add_to_run(run_dir: Path, entry: dict[str, Any]) -> bool:
    """Append a test to the ``tests`` of the run that a checkpoint lies in; the run keeps all of its tests.

    Returns:
        Whether the folder holds a run. A record that cannot be written is a warning: the test itself is complete.
    """
    if not (run_dir / FILE_NAME).is_file():
        return False
    try:
        with FileLock(run_dir / f".{FILE_NAME}.lock", timeout=60):  # two tests of one run may end at once
            record = read_run_record(run_dir)
            record["tests"] = [*(record.get("tests") or []), entry]
            write_run_record(run_dir, record)
    except (OSError, SosrError) as error:
        logger.warning(f"the test is not noted in {run_dir / FILE_NAME}: {error}")
        return False
    return True


def file_digest(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fill_truncated(path: Path, dataset: Any) -> bool:
    """Add the annotations' ``truncated`` flags to saved detections, from a data set that knows them.

    Args:
        path: a ``detections.npz`` of a test on this data set.
        dataset: with ``truncated(index)`` (``CheckedVOCDataset``), or a ConcatDataset of such.

    Returns:
        Whether the flags were added: False where the data set does not know them, or where the boxes of the file are
        not the data set's.
    """
    parts = getattr(dataset, "datasets", [dataset])
    if not all(hasattr(part, "truncated") for part in parts):
        return False
    data = read_detections_file(path)
    classes = list(data.class_names)
    records = [(part, index) for part in parts for index in range(len(part))]
    flags: dict[tuple, list[bool]] = defaultdict(list)
    for image, (part, index) in enumerate(records):
        instances = part.get_data_info(index)["instances"]
        for instance, truncated in zip(instances, part.truncated(index), strict=True):
            name = classes[instance["bbox_label"]]
            flags[(image, name, *map(float, instance["bbox"]))].append(bool(truncated))
    if len(records) != data.num_images:
        return False
    filled = {}
    for name, truth in data.ground_truth.items():
        found = []
        for image, box in zip(truth.image_index, truth.boxes, strict=True):
            of_box = flags.get((int(image), name, *map(float, box)))
            if not of_box:
                return False
            found.append(of_box.pop(0))
        filled[name] = GroundTruth(truth.image_index, truth.boxes, truth.difficult, np.array(found, bool))
    write_detections(path, replace_ground_truth(data, filled))
    return True


def replace_ground_truth(data: EvaluationSet, ground_truth: dict[str, GroundTruth]) -> EvaluationSet:
    """The same detections against these boxes."""
    return replace(data, ground_truth=ground_truth)
