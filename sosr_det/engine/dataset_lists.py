"""Which images the data sets of a config hold, as far as the config says it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

# Arguments of data sets without a list file that do not say which images they hold.
_PROCESSING = (
    "type", "pipeline", "batch_pipeline", "filter_cfg", "test_mode", "metainfo", "holdout", "_scope_",
)  # fmt: skip


def dataset_leaves(node: Any) -> Iterator[dict]:
    """The innermost data sets of wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(node, (list, tuple)):
        for each in node:
            yield from dataset_leaves(each)
    elif isinstance(node, dict):
        inner = node.get("dataset") or node.get("datasets")
        if inner:
            yield from dataset_leaves(inner)
        elif node.get("type"):
            yield node


def section_leaves(cfg: Any, section: str) -> list[dict]:
    """The innermost data sets of ``train_dataloader``, ``val_dataloader`` or ``test_dataloader``."""
    return list(dataset_leaves((cfg.get(section) or {}).get("dataset")))


def list_names(cfg: Any, section: str) -> set[str]:
    """What identifies the images of each data set in a section.

    The list file and the folder of its images, as the file system sees them, however they are written; a data set
    without a list file is identified by everything but how it is processed.
    """
    return {_list_name(leaf) for leaf in section_leaves(cfg, section)}


def _list_name(leaf: dict) -> str:
    ann_file = leaf.get("ann_file")
    if not ann_file:
        data = {key: value for key, value in leaf.items() if key not in _PROCESSING and value is not None}
        return repr(sorted((str(key), str(value)) for key, value in data.items()))
    root = str(leaf.get("data_root") or "")
    folder = (leaf.get("data_prefix") or {}).get("sub_data_root") or ""
    return repr([os.path.realpath(os.path.join(root, str(part))) for part in (ann_file, folder)])
