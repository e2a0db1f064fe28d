"""What the runs of a comparison left, checked to be about the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sosr_det.engine.compare.cell import DONE, file_sha256, read_done
from sosr_det.engine.compare.study import DETECTION, Cell, Study
from sosr_det.engine.studies.records import completed_record
from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.saved_detections import read_detections_file
from sosr_det.evaluation.saved_predictions import Predictions, read_predictions


@dataclass(frozen=True)
class Finished:
    """The runs of the seeds that every arm has finished.

    Attributes:
        seeds: those seeds.
        missing: names of the runs that are not finished.
        predictions: by arm and seed, :class:`EvaluationSet` or :class:`Predictions`; all on the same images.
        records: the run records, by arm and seed.
        done: what the tests gave, by arm and seed.
    """

    seeds: list[int]
    missing: list[str]
    predictions: list[list[Any]]
    records: list[list[dict[str, Any]]]
    done: list[list[dict[str, Any]]]


def collect(study: Study) -> Finished:
    """Read everything that a result needs.

    Raises:
        DataError: predictions that cannot be read, that are not what the test left, or that are about other images,
            ground truth or classes.
    """
    missing = [cell.name for cell in study.cells() if not read_done(cell)]
    seeds = [seed for seed in study.seeds if all(read_done(study.cell(arm, seed)) for arm in study.arms)]
    cells = [[study.cell(arm, seed) for seed in seeds] for arm in study.arms]
    done = [[read_done(cell) for cell in row] for row in cells]
    for line, row in zip(cells, done, strict=True):
        for cell, what in zip(line, row, strict=True):
            _require_unchanged(cell, what)
    read = read_detections_file if study.kind == DETECTION else read_predictions
    predictions = [
        [read(cell.test_dir / what["predictions"]) for cell, what in zip(*pair, strict=True)]
        for pair in zip(cells, done, strict=True)
    ]
    for row, line in zip(predictions, cells, strict=True):
        for each, cell in zip(row, line, strict=True):
            _require_same(predictions[0][0], each, f"{cells[0][0].name} and {cell.name}")
    records = [[completed_record(cell.run_dir) for cell in row] for row in cells]
    return Finished(seeds, missing, predictions, records, done)


def _require_unchanged(cell: Cell, done: dict[str, Any]) -> None:
    path = cell.test_dir / done["predictions"]
    if file_sha256(path) != done["predictions_sha256"]:
        raise DataError(
            f"{path} changed since the test; delete {cell.folder / DONE} and run the same command to test again."
        )


def _require_same(first: Any, other: Any, pair: str) -> None:
    what = None
    if list(first.class_names) != list(other.class_names):
        what = "classes"
    elif list(first.image_ids) != list(other.image_ids):
        what = "images"
    elif isinstance(first, EvaluationSet):
        for name in first.class_names:
            a, b = first.ground_truth[name], other.ground_truth[name]
            same = all(
                np.array_equal(getattr(a, part), getattr(b, part))
                for part in ("image_index", "boxes", "difficult")
            )
            what = what if same else f"ground truth of {name}"
    elif isinstance(first, Predictions) and not np.array_equal(first.label, other.label):
        what = "labels"
    if what:
        raise DataError(
            f"{pair} were tested on other {what}, so their results cannot be compared image by image. Did the data "
            "change meanwhile?"
        )
