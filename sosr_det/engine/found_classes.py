"""``--classes scan``: the classes of a VOC-format data set, found by reading the annotations that are trained on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sosr_det.engine.configs import bare_type
from sosr_det.engine.selection import dataset_leaves
from sosr_det.engine.setup import VOC_TYPES
from sosr_det.errors import ConfigError, DataError

SCAN = "scan"


def scan_training_classes(cfg: Any) -> dict[str, int]:
    """Every class name in the training lists' annotations, with its number of objects, sorted by name.

    All images of the lists are read, those of a held-out part too: what is chosen on must know the same classes. Names
    are taken exactly as written, so two spellings are two classes; that is why the list is printed.

    Raises:
        ConfigError: a config without VOC-format training data.
        DataError: a list or an annotation that is missing or malformed, or no object at all.
    """
    from sosr_det.data.voc_annotations import read_annotations

    counts: Counter[str] = Counter()
    lists = []
    for leaf in dataset_leaves((cfg.get("train_dataloader") or {}).get("dataset")):
        if bare_type(leaf.get("type")) not in VOC_TYPES:
            continue
        lists.append(_list_file(leaf))
        counts.update(read_annotations(list(_xml_files(leaf))).table.class_counts)
    if not lists:
        raise ConfigError(
            "--classes scan is for VOC-format detection configs; this one trains on other data."
        )
    if not counts:
        raise DataError(f"--classes scan: no object in any annotation of {', '.join(lists)}")
    return dict(sorted(counts.items()))


def _list_file(leaf: dict) -> str:
    return os.path.join(leaf.get("data_root") or "", leaf.get("ann_file") or "")


def _xml_files(leaf: dict) -> Iterator[str]:
    path = _list_file(leaf)
    try:
        with open(path) as stream:
            image_ids = [line.strip() for line in stream if line.strip()]
    except OSError as error:
        raise DataError(
            f"--classes scan: the list of images {path} cannot be read ({error.strerror}). Give the folder that holds "
            "the data set with --data-root or $SOSR_DATA."
        ) from error
    folder = os.path.join(
        leaf.get("data_root") or "",
        (leaf.get("data_prefix") or {}).get("sub_data_root") or "",
        leaf.get("ann_subdir") or "Annotations",
    )
    return (os.path.join(folder, f"{image_id}.xml") for image_id in image_ids)
