"""Which weights of a training checkpoint are meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sosr_det.registry.safe_load import extract_state_dict


def saved_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that mmengine would load: ``state_dict``, also where ``ema_state_dict`` lies beside it.

    With averaged weights (``--ema``, or MMDetection's ``EMAHook``) those under ``state_dict`` are the averages, which
    were validated; ``ema_state_dict`` holds the ones that train on. In checkpoints from elsewhere the same two names
    may mean the opposite: what is imported must say which is meant, see
    :func:`sosr_det.registry.safe_load.extract_state_dict`.

    Args:
        content: what :func:`sosr_det.registry.safe_load.load_state_file` gave.

    Raises:
        CheckpointError: there are no tensors by name.
    """
    written_by_mmengine = isinstance(content.get("state_dict"), Mapping) and "meta" in content
    return extract_state_dict(content, "state_dict" if written_by_mmengine else None)
