"""Steps to be timed: forward and backward of copies of a run's model on a batch shaped like its own."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sosr_det.data.sample_seeds import EpochIndex
from sosr_det.engine.acceleration.layout import to_channels_last


def trial_batch(loader: Any) -> Any:
    """One sample of the loader's data set, as often as its batch has samples, collated as the loader does it.

    Only one sample is prepared, since a whole batch of large images takes longer than all steps to be timed. The random
    states of the process are left as they were.
    """
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    first = EpochIndex(0, 0)
    with _undisturbed_random_states():
        prepare_all = getattr(loader.dataset, "__getitems__", None)
        found = prepare_all([first]) if prepare_all else [loader.dataset[first]]
        if not isinstance(found, list):  # a data set that prepares whole batches
            return loader.collate_fn(prepare_all([first] * size))
    return loader.collate_fn([copy.deepcopy(found[0]) for _ in range(size)])


def trial_steps(
    model: nn.Module, batch: Any, ways: dict[str, tuple[bool, str]]
) -> dict[str, Callable[[], None]]:
    """Name -> one forward and backward pass. The model itself is only copied; no random state changes.

    Args:
        model: an mmengine model, not wrapped.
        batch: as its data loader gives it.
        ways: name -> whether its memory layout is channels_last, and its precision (``fp32``, ``bf16``).
    """
    return {name: _step(model, batch, *way) for name, way in ways.items()}


def tensor_shapes(batch: Any) -> list[tuple[int, ...]]:
    """Of every tensor in nested dicts and lists, in order."""
    if isinstance(batch, Tensor):
        return [tuple(batch.shape)]
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else ()
    return [shape for part in parts for shape in tensor_shapes(part)]


def _step(model: nn.Module, batch: Any, channels_last: bool, precision: str) -> Callable[[], None]:
    own = copy.deepcopy(model).train()
    if channels_last:
        to_channels_last(own)
    device = next(own.parameters()).device.type

    def step() -> None:
        mixed = nullcontext() if precision == "fp32" else torch.autocast(device, dtype=torch.bfloat16)
        with _undisturbed_random_states(), mixed:
            data = own.data_preprocessor(copy.deepcopy(batch), True)  # MMDetection writes into its samples
            losses = own(**data, mode="loss") if isinstance(data, dict) else own(*data, mode="loss")
            total, _ = own.parse_losses(losses)
        total.backward()
        own.zero_grad()

    return step


@contextmanager
def _undisturbed_random_states() -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
