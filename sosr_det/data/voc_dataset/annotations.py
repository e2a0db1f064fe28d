"""The annotations of a list of images, from this machine or from one of MMEngine's other storages."""

from __future__ import annotations

import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from mmengine.fileio import get, get_file_backend
from mmengine.fileio.backends import LocalBackend

from sosr_det.data.voc_annotations import (
    AnnotationTable,
    MissingAnnotationError,
    ReadAnnotations,
    read_folder,
)
from sosr_det.data.voc_annotations.files import parse
from sosr_det.data.voc_annotations.table import TableBuilder
from sosr_det.errors import DataError


def is_local(path: str, backend_args: dict | None) -> bool:
    """Whether MMEngine would read ``path`` as a file of this machine."""
    return type(get_file_backend(path, backend_args=backend_args, enable_singleton=True)) is LocalBackend


def read_listed(
    folder: str, image_ids: Sequence[str], backend_args: dict | None, cache: bool
) -> ReadAnnotations:
    """One entry per image, problems collected; other storages are asked for one file after the other, uncached."""
    names = [f"{image_id}.xml" for image_id in image_ids]
    if is_local(folder, backend_args):
        return read_folder(folder, names, cache=cache)
    builder, problems = TableBuilder(), {}
    for number, name in enumerate(names):
        path = osp.join(folder, name)
        try:
            try:
                content = get(path, backend_args=backend_args)
            except FileNotFoundError as error:
                raise MissingAnnotationError(f"{path}: no such file") from error
            builder.add(*parse(content, path))
        except DataError as error:
            problems[number] = error
            builder.add(None, ())
    return ReadAnnotations(builder.build(), problems, len(names))


def other_classes(table: AnnotationTable, known: Collection[str]) -> dict[int, Counter[str]]:
    """Of each image with objects of other classes than the ``known`` ones: their names and numbers of objects."""
    is_other = np.array([name not in known for name in table.class_names], bool)
    result: dict[int, Counter[str]] = defaultdict(Counter)
    if not is_other.any():
        return result
    rows = np.flatnonzero(is_other[table.class_index])
    for image, index in zip(table.image_index[rows].tolist(), table.class_index[rows].tolist(), strict=True):
        result[image][table.class_names[index]] += 1
    return result
