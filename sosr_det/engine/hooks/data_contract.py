"""Refuses to train when the data's classes are not the classes that the head was built for."""

from __future__ import annotations

import os
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from sosr_det.engine.provenance import leaf_datasets
from sosr_det.errors import DataError


@HOOKS.register_module()
class DataContractHook(Hook):
    """Before training: train and validation classes agree, and every head has one output per class.

    Args:
        select_on: how the run chooses its epoch (:mod:`sosr_det.engine.selection`). With ``val``, no image of a VOC
            data set may be trained on and validated on, however the lists are named: two lists may share images.

    Raises (in ``before_train``):
        DataError: names both sides and the option that makes them agree.
    """

    priority = "VERY_HIGH"

    def __init__(self, select_on: str | None = None) -> None:
        self.select_on = select_on

    def before_train(self, runner) -> None:
        train_classes = _classes(runner.train_dataloader.dataset)
        if runner.val_loop is not None:
            val_classes = _classes(runner.val_dataloader.dataset)
            if train_classes and val_classes and train_classes != val_classes:
                raise DataError(
                    f"training and validation data have different classes: {_difference(train_classes, val_classes)}. "
                    "Labels would not mean the same; use one class list for both."
                )
            if self.select_on == "val":
                refuse_shared_images(runner.train_dataloader.dataset, runner.val_dataloader.dataset)
        if not train_classes:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, expected in head_class_counts(model).items():
            if expected != len(train_classes):
                raise DataError(
                    f"the data has {len(train_classes)} classes ({', '.join(train_classes[:3])}, …), but the config's "
                    f"{name} expects {expected}. Use data with {expected} classes, or set "
                    f"--cfg-options {name}.num_classes={len(train_classes)}"
                    + ("." if name == "model" else " (or name the classes with --classes).")
                )


def refuse_shared_images(train: Any, val: Any) -> None:
    """Raise if a VOC-format validation set, within any wrappers, has images of the training set.

    Raises:
        DataError: how many images are shared, and the first ones.
    """
    shared = sorted(image_places(train) & image_places(val))
    if shared:
        names = ", ".join(f"{folder}/{name}" for folder, name in shared[:3])
        raise DataError(
            f"{len(shared)} of the validation images are trained on ({names}{', …' if len(shared) > 3 else ''}), so "
            "choosing the epoch on them would favour overfitting. Take them off one of the two lists (VOC's trainval "
            "holds val), or choose with --select-on test or --select-on last."
        )


def image_places(dataset: Any) -> set[tuple[str, str]]:
    """(folder of the images without links, image id) of every record of the CheckedVOCDatasets in a data set."""
    found = set()
    for part in leaf_datasets(dataset):
        if type(part).__name__ == "CheckedVOCDataset":  # not imported: that takes MMDetection
            folder = os.path.realpath(os.path.join(part.sub_data_root, part.img_subdir))
            found |= {(folder, part.get_data_info(index)["img_id"]) for index in range(len(part))}
    return found


def head_class_counts(model: Any) -> dict[str, int]:
    """Config path of each classifying head -> its number of classes."""
    if hasattr(model, "head") and hasattr(model, "num_classes"):
        return {"model": int(model.num_classes)}
    return {
        f"model.{name}": int(module.num_classes)
        for name, module in model.named_modules()
        if _is_box_head(name) and hasattr(module, "num_classes")
    }


def _is_box_head(name: str) -> bool:
    """``bbox_head``, ``roi_head.bbox_head`` and the stages of a cascade, ``roi_head.bbox_head.0``."""
    parts = name.split(".")
    return parts[-1] == "bbox_head" or (parts[-1].isdigit() and parts[-2:-1] == ["bbox_head"])


def _classes(dataset: Any) -> tuple[str, ...]:
    return tuple((getattr(dataset, "metainfo", None) or {}).get("classes") or ())


def _difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    only_ours, only_theirs = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    if not only_ours and not only_theirs:
        return "the same names in another order"
    return f"{len(ours)} against {len(theirs)}, only in training {only_ours[:3]}, only in validation {only_theirs[:3]}"
