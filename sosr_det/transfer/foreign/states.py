"""Finding the state dicts in a checkpoint's content, at the top or nested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOP = "."  # how the top level is named on the command line
_DEPTH = 3  # {"model": {"ema": {"state_dict": ...}}} is the deepest seen


@dataclass(frozen=True)
class State:
    """Tensors by name, found under ``key`` (dotted where nested, :data:`TOP` for the top level).

    ``others`` are the names there that are no tensors.
    """

    key: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """In words, for messages."""
        return "the top level" if self.key == TOP else f"the key {self.key!r}"


def find_states(content: Mapping[str, Any]) -> list[State]:
    """Everything in ``content`` that could be a network's state dict: a dict that holds a matrix or a kernel by name.

    Optimizers, which number their states, and random-number states are passed over. A dict that is stored under two
    keys counts once, under the first. Nothing is copied.
    """
    return list(_search(content, (), set()))


def _search(content: Mapping[Any, Any], path: tuple[str, ...], seen: set[int]) -> Iterator[State]:
    if id(content) in seen:
        return
    seen.add(id(content))
    tensors = {
        name: value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if any(tensor.dim() >= 2 for tensor in tensors.values()):
        inner = [k for k, v in content.items() if isinstance(v, Mapping)]
        others = (str(name) for name in content if name not in tensors and name not in inner)
        yield State(".".join(path) or TOP, tensors, tuple(others))
    if len(path) == _DEPTH:
        return
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            yield from _search(value, (*path, name), seen)
