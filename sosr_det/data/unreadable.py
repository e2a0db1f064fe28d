"""Images that turn out to be unreadable in the middle of an epoch: skipped, counted and named, up to a limit.

Without this, the first one ends the run with its path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.registry import DATASETS

from sosr_det.data.dataset_wrapper import DatasetWrapper
from sosr_det.data.regular_file import NOT_REGULAR, open_regular_file
from sosr_det.errors import ConfigError, DataError, UnreadableImageError

DEFAULT_MOST = 10


class UnreadableImages:
    """Which images could not be read, known to all processes of a data loader, forked or spawned.

    Args:
        dataset: whose images they are; for their number and names.
        most: how many may be unreadable, 0 or more.
    """

    def __init__(self, dataset: Any, most: int) -> None:
        self._dataset = dataset
        self.most = most
        # One byte for each image in shared memory: processes that mark the same one need no lock.
        self._marked = torch.zeros(len(dataset), dtype=torch.uint8).share_memory_()

    def add(self, index: int, error: Exception | None = None) -> None:
        """Count image ``index``, once.

        Raises:
            DataError: more than :attr:`most` are unreadable; the message has the first ones.
        """
        self._marked[index] = 1
        self.check(error)

    def check(self, error: Exception | None = None) -> None:
        """Raise if there are too many; ``error`` is the last one's.

        Raises:
            DataError: see :meth:`add`.
        """
        found = self.indices()
        if len(found) <= self.most:
            return
        names = "\n".join(self.name(index) for index in found[:5]) + ("\n…" if len(found) > 5 else "")
        raise DataError(
            f"{len(found)} images are unreadable, and at most {self.most} may be (--max-bad-images):\n{names}\n"
            + (f"The last error: {error}\n" if error else "")
            + "Check the disk and the data set (`sosr-det data verify`) before you go on with a higher limit."
        )

    def mark(self, indices: Iterable[int]) -> None:
        """Count images that an earlier part of the run or another process found."""
        for index in indices:
            if 0 <= index < len(self._marked):
                self._marked[index] = 1

    def indices(self) -> list[int]:
        """The images found so far, in increasing order."""
        return torch.nonzero(self._marked).flatten().tolist()

    def name(self, index: int) -> str:
        """The path of an image, where the data set knows it."""
        return image_name(self._dataset, index)


@DATASETS.register_module()
class SkipUnreadable(DatasetWrapper):
    """Gives the next readable image, with its own label, in place of one that cannot be read.

    Which one that is depends on the index alone (the first readable one after it, from the last on to the first), and
    each time the reading is tried again. So the data stay the same whatever the number of workers, and wherever a run
    was cut and resumed, as long as the files are the same. Everything else is the inner data set's.

    Only images that are missing or cannot be decoded are skipped; every other error is passed on.

    Args:
        dataset: a data set that gives samples one by one, or its config: a ClassificationDataset, or one of
            MMDetection's. InMemoryDataset reads its images before training begins: put this inside it
            (:func:`skip_unreadable` does).
        most: how many images may be unreadable before the run stops, 0 or more; each process of a distributed run
            counts what its own workers meet, and their sum is compared after each epoch.

    Raises:
        ConfigError: ``most`` below 0, a data set that gives whole batches.
        DataError: while reading: more than ``most`` images are unreadable.
    """

    def __init__(self, dataset: Any, most: int = DEFAULT_MOST) -> None:
        if most < 0:
            raise ConfigError(f"at least 0 images may be unreadable (--max-bad-images), got {most}")
        super().__init__(dataset, unreadable=None)
        if hasattr(self.dataset, "__getitems__"):
            raise ConfigError(
                f"SkipUnreadable skips single images, and {type(self.dataset).__name__} gives whole batches; put it "
                "around the data set inside."
            )
        self.unreadable = UnreadableImages(self.dataset, most)
        # Data sets of this project look themselves; MMDetection's decoder gives a picture that is grey from there on.
        self._checks_ends = not hasattr(self.dataset, "sample_name")

    def __getitem__(self, index: int) -> Any:
        count = len(self.dataset)
        index = int(index) % count
        for step in range(count):
            place = (index + step) % count
            try:
                if self._checks_ends:
                    for path in _paths(self.dataset, place):
                        check_file_end(path)
                return self.dataset[place]
            except Exception as error:
                problem = error if isinstance(error, UnreadableImageError) else _problem(self.dataset, place)
                if problem is None:
                    raise
                self.unreadable.add(place, problem)
        raise DataError(f"not one of the {count} images can be read")


def skip_unreadable(dataset: dict, most: int) -> dict:
    """The config of a data set with :class:`SkipUnreadable` where it belongs: around it, or inside InMemoryDataset."""
    if dataset.get("type") == "SkipUnreadable":
        return dataset
    if dataset.get("type") in ("InMemoryDataset", "SampleSeededDataset"):
        return {**dataset, "dataset": skip_unreadable(dataset["dataset"], most)}
    return {"type": "SkipUnreadable", "dataset": dataset, "most": most}


def find_unreadable(dataset: Any) -> UnreadableImages | None:
    """The count of a data set and its wrappers, or None if unreadable images are errors."""
    while dataset is not None:
        found = vars(dataset).get("unreadable") if hasattr(dataset, "__dict__") else None
        if isinstance(found, UnreadableImages):
            return found
        dataset = vars(dataset).get("dataset") if hasattr(dataset, "__dict__") else None
    return None


def image_name(dataset: Any, index: int) -> str:
    """What messages call image ``index`` of a data set."""
    if hasattr(dataset, "sample_name"):
        return dataset.sample_name(index)
    return next(iter(_paths(dataset, index)), f"image {index} of the {type(dataset).__name__}")


def _paths(dataset: Any, index: int) -> Sequence[str]:
    """Where MMDetection's data sets have the image."""
    try:
        path = dataset.get_data_info(index).get("img_path")
    except Exception:  # a data set without records, such as one that mixes several images
        return []
    return [path] if isinstance(path, str) else []


def _problem(dataset: Any, index: int) -> UnreadableImageError | None:
    """Why the image itself cannot be read, if that is the reason for a failure of MMDetection's pipeline."""
    for path in _paths(dataset, index):
        reason = file_problem(path)
        if reason:
            return UnreadableImageError(f"image {path}: {reason}")
    return None


def file_problem(path: str) -> str | None:
    """Why a file is no whole image, or None."""
    import cv2
    import numpy as np

    try:
        with open(path, "rb", buffering=0, opener=open_regular_file) as file:
            data = file.read()
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    if not data:
        return "the file is empty"
    if is_cut_off_jpeg(data):
        return f"the JPEG is cut off after {len(data)} bytes"
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
        return f"it cannot be decoded ({len(data)} bytes)"
    return None


def is_cut_off_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end marker; False for other files.

    Decoders may fill such an image up and say nothing: OpenCV 4.12 does so where zeros stand in place of the rest.
    What stands after the end marker is allowed: some cameras put a preview there.
    """
    if data[:2] != b"\xff\xd8" or data.endswith(b"\xff\xd9"):
        return False
    # The preview in the header has an end marker of its own: look behind the last begin of a scan.
    return data.find(b"\xff\xd9", _scan_begin(data)) < 0


def _scan_begin(data: bytes) -> int:
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xDA:
            return place
        if data[place + 1] == 0xFF:  # fill byte
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place


def check_file_end(path: str) -> None:
    """Raise if a JPEG on this machine is cut off: two bytes are read, and the file only if they are not its end.

    Raises:
        UnreadableImageError: it is cut off, or a pipe or something else that is no regular file.
    """
    try:
        descriptor = open_regular_file(path)
    except OSError as error:
        if error.strerror == NOT_REGULAR:  # whoever reads a pipe waits for ever
            raise UnreadableImageError(f"image {path} is {NOT_REGULAR}; take it off the list.") from error
        return  # whoever reads it says so
    try:
        size = os.fstat(descriptor).st_size
        if size < 2 or os.pread(descriptor, 2, size - 2) == b"\xff\xd9":
            return
        data = os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)
    if is_cut_off_jpeg(data):
        raise UnreadableImageError(
            f"{path}: the JPEG is cut off after {size} bytes: it has no end marker. Replace the file from the original "
            "archive, or take it off the list."
        )
