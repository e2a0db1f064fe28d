"""One file with what a classifier said about every image of a test, for comparisons image by image.

A numpy archive without pickled objects.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sosr_det.errors import DataError

FILE_NAME = "predictions.npz"
_FORMAT = "sosr-det predictions 1"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Top-1 predictions of a test, in the data set's order.

    Attributes:
        image_ids: One unique name per image: its file, or its number where the data set has no names.
        class_names: The classes; empty where not known.
        label: True class of each image; int64 [N].
        predicted: Class with the highest score, the lowest of equal ones; int64 [N].

    Raises:
        ValueError: lengths that do not fit, or an image named twice.
    """

    image_ids: Sequence[str]
    class_names: Sequence[str]
    label: np.ndarray
    predicted: np.ndarray

    def __post_init__(self) -> None:
        for what in ("image_ids", "class_names"):
            object.__setattr__(self, what, tuple(getattr(self, what)))
        for what in ("label", "predicted"):
            object.__setattr__(self, what, np.asarray(getattr(self, what), np.int64))
            if getattr(self, what).shape != (len(self.image_ids),):
                raise ValueError(
                    f"{what} has shape {list(getattr(self, what).shape)} for {len(self.image_ids)} images"
                )
        if len(set(self.image_ids)) != len(self.image_ids):
            twice = next(name for name in self.image_ids if self.image_ids.count(name) > 1)
            raise ValueError(f"image_ids holds {twice!r} more than once")

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label; bool [N]."""
        return self.label == self.predicted


def write_predictions(path: str | Path, data: Predictions) -> Path:
    """Save predictions, replacing the file atomically; the folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            np.savez_compressed(
                stream,
                format=np.array(_FORMAT),
                image_ids=np.array(data.image_ids, dtype=str),
                class_names=np.array(data.class_names, dtype=str),
                label=data.label,
                predicted=data.predicted,
                correct=data.correct,
            )
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_predictions(path: str | Path) -> Predictions:
    """Read what :func:`write_predictions` saved; ``path`` may be the folder that holds it.

    Raises:
        DataError: no such file, or not one of ours.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: no such file; `sosr-det test` of a classifier leaves {FILE_NAME}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if str(arrays["format"]) != _FORMAT:
            raise ValueError(f"its format is {str(arrays['format'])[:60]!r}, expected {_FORMAT!r}")
        data = Predictions(
            [str(name) for name in arrays["image_ids"]],
            [str(name) for name in arrays["class_names"]],
            arrays["label"],
            arrays["predicted"],
        )
        if not np.array_equal(data.correct, arrays["correct"]):
            raise ValueError("its array `correct` does not say whether `predicted` is `label`")
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not predictions that `sosr-det test` saved: {error}") from error
    return data
