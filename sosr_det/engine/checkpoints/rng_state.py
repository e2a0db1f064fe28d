"""The states of all random number generators that a training draws from, of every rank, as tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sosr_det.data.sample_seeds import seed_all


def rng_state() -> dict[str, Any]:
    """Of Python, NumPy, torch on the CPU and torch on this process' CUDA device, in plain types and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": kind,
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put the generators where :func:`rng_state` found them. A CUDA state is skipped where there is no CUDA."""
    python, array = state["python"], state["numpy"]
    words = tuple(python["words"].cpu().tolist())
    random.setstate((python["version"], words, python["gauss"]))
    keys = array["keys"].cpu().numpy().astype(np.uint32)
    np.random.set_state((array["kind"], keys, array["position"], array["has_gauss"], array["cached"]))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def reseed(*origin: str | int) -> None:
    """Seed all of them from ``origin``, for a place of which no state was kept."""
    number = seed_all(*origin)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(number)
