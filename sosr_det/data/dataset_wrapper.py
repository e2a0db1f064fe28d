"""The base of data sets that stand around another one and are it in all but how samples are prepared."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import DATASETS


class DatasetWrapper(torch.utils.data.Dataset):
    """Length and attributes are the inner data set's; setting an attribute that it has sets it there.

    The latter is for MMDetection's PipelineSwitchHook, which exchanges the ``pipeline`` of the data set that the loader
    holds.

    Args:
        dataset: the inner data set or its config.
        own: other attributes of the wrapper, by name. Those that begin with an underscore are its own anyway.
    """

    def __init__(self, dataset: Any, **own: Any) -> None:
        built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.__dict__.update(dataset=built, **own)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Only for names that are not found here. Copying and unpickling ask before there is an inner data set.
        if name == "dataset" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = name.startswith("_") or name in self.__dict__
        if not own and hasattr(self.__dict__.get("dataset"), name):
            setattr(self.dataset, name, value)
        else:
            super().__setattr__(name, value)
