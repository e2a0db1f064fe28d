"""Remembers what was measured, so that the runs of a sweep compute alike and only the first of them measures.

A note is one small JSON file in this user's cache folder. What a missing, damaged or foreign note should tell is
measured again; one that cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sosr_det.cache_root import cache_root, is_private
from sosr_det.engine.acceleration.measurement import Measurement


def measurement_key(
    model: Any, batch_shapes: Sequence[Sequence[int]], device: str, ways: Sequence[str]
) -> str:
    """What a measurement is true for, as 64 hex digits: the network, its batch, the processor and PyTorch.

    Args:
        model: the network; its modules' types and the shapes of its tensors count, their values do not.
        batch_shapes: of all tensors of a prepared batch.
        device: name and number of threads.
        ways: names of what is compared.
    """
    import torch

    tensors = [(name, list(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    modules = [(name, type(module).__name__) for name, module in model.named_modules()]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    told = [tensors, modules, frozen, [list(s) for s in batch_shapes], device, torch.__version__, list(ways)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def remembered(key: str) -> Measurement | None:
    """The measurement of this key, if this user's cache holds a sound one."""
    try:
        path = _place(key)
        if not is_private(path):
            return None
        found = Measurement(**json.loads(path.read_text()))
    except (OSError, RuntimeError, ValueError, TypeError):
        return None
    sound = isinstance(found.speedups, dict) and found.chosen in (found.plain, *found.speedups)
    return found if sound else None


def remember(key: str, measurement: Measurement) -> None:
    """Keep it; the file is there as a whole or not at all."""
    try:
        path = _place(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(measurement.to_dict()))
        os.replace(temporary, path)
    except (OSError, RuntimeError):
        pass  # measured again next time


def _place(key: str) -> Path:
    return cache_root() / "acceleration" / f"{key[:32]}.json"
