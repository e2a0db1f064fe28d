"""``train --deterministic``: the same numbers again, to the last bit, on the same machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sosr_det.errors import ConfigError

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_WITHOUT = re.compile(r"(?P<name>[\w:.<>-]+) does not have a deterministic implementation")


def apply_deterministic(cfg: Any, asked: bool) -> None:
    """Set what must be set before CUDA starts; mmengine does the rest when it builds the Runner.

    cuBLAS reads its variable when it starts, so this comes before anything that uses a GPU.

    Args:
        cfg: changed in place where ``asked``; a config may also ask by itself, with ``randomness.deterministic``.
        asked: ``--deterministic``.
    """
    if asked:
        cfg.randomness = {**(cfg.get("randomness") or {}), "deterministic": True}
    if not is_deterministic(cfg):
        return
    os.environ.setdefault(
        _CUBLAS, ":4096:8"
    )  # 24 MiB of workspace, the faster of the two settings that cuBLAS has
    if cfg.get("env_cfg") and cfg.env_cfg.get("cudnn_benchmark"):
        cfg.env_cfg.cudnn_benchmark = False  # it chooses kernels by their time


def is_deterministic(cfg: Any) -> bool:
    """Whether the run is to be deterministic."""
    return bool((cfg.get("randomness") or {}).get("deterministic"))


@contextmanager
def deterministic_settings_restored() -> Iterator[None]:
    """What mmengine switches for the whole process is put back afterwards: the next run may be another one.

    Raises:
        ConfigError: an operation that PyTorch has no deterministic kernel for, by its name.
    """
    import torch

    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)
    try:
        yield
    except RuntimeError as error:
        found = _WITHOUT.search(str(error))
        if found is None:
            raise
        raise ConfigError(
            f"--deterministic: {found['name']} has no deterministic kernel on this device, and the model needs it. "
            "Train without --deterministic (a fixed --seed still fixes data, augmentation and the first weights), on "
            "the CPU, or with a model that does without it."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
