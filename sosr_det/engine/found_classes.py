"""``--classes scan``: the classes of a VOC-format data set, found by reading the annotations that are trained on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sosr_det.engine.configs import bare_type
from sosr_det.engine.selection import dataset_leaves
from sosr_det.engine.setup import VOC_TYPES
from sosr_det.errors import ConfigError, DataError

SCAN = "scan"


def scan_training_classes(cfg: Any) -> dict[str, int]:
    """Every class name in the training lists' annotations, with its number of objects, sorted by name.

    All images of the lists are read, those of a held-out part too: what an epoch is chosen by must know the same
    classes. Names are taken exactly as written, so two spellings are two classes; that is why the list is printed.

    Raises:
        ConfigError: a config without VOC-format training data.
        DataError: a list or an annotation that is missing or malformed, or no object at all.
    """
    from sosr_det.data.voc_annotations import scan_classes

    counts: Counter[str] = Counter()
    leaves = [
        leaf
        for leaf in dataset_leaves((cfg.get("train_dataloader") or {}).get("dataset"))
        if bare_type(leaf.get("type")) in VOC_TYPES
    ]
    if not leaves:
        raise ConfigError(
            "--classes scan is for VOC-format detection configs; this one trains on other data."
        )
    for leaf in leaves:
        root = leaf.get("data_root") or "."
        try:
            counts.update(scan_classes(root, ann_files=[leaf.get("ann_file") or ""]))
        except DataError as error:
            raise DataError(
                f"--classes scan: {error}. If the data are elsewhere, name their folder with --data-root or $SOSR_DATA."
            ) from error
    return dict(sorted(counts.items()))
