"""torch.compile for the parts of a model where the time goes, without a trace in the names of its weights."""

from __future__ import annotations

import os
import shutil
from typing import Any

from torch import nn

from sosr_det.errors import ConfigError


def compile_parts(model: nn.Module, arguments: dict[str, Any]) -> list[str]:
    """Compile backbone and neck in place, at their first call.

    Losses and post-processing stay as they are: they work on Python objects, which a compiler only breaks its graph at,
    and the penalty's fp32 arithmetic is nobody's to reorder. ``nn.Module.compile`` wraps the call, not the module, so
    that names of weights have no ``_orig_mod.`` in them.

    Args:
        model: not wrapped.
        arguments: of ``torch.compile``.

    Returns:
        Names of the compiled parts; ``model`` where it has neither.
    """
    names = [name for name in ("backbone", "neck") if isinstance(getattr(model, name, None), nn.Module)]
    for name in names:
        getattr(model, name).compile(**arguments)
    if not names:
        model.compile(**arguments)
    return names or ["model"]


def require_compiler(arguments: dict[str, Any], device_kind: str) -> None:
    """On the CPU, TorchInductor needs a C++ compiler; say so before an hour of other work.

    Raises:
        ConfigError: there is none.
    """
    compiler = os.environ.get("CXX") or "g++"
    if (
        device_kind == "cpu"
        and arguments.get("backend", "inductor") == "inductor"
        and not shutil.which(compiler)
    ):
        raise ConfigError(
            f"--compile: torch.compile makes C++ for the CPU, and there is no {compiler}. Install one, name another in "
            "$CXX, or leave --compile out."
        )
