"""The norm of a gradient, taken where the optimizer is about to use it."""

from __future__ import annotations

from typing import Any

import torch


class GradientNorm:
    """L2 norm of the gradient of all parameters, in the updates that are asked for.

    A hook of the optimizer sees the gradient when accumulation is complete, processes have averaged it and automatic
    mixed precision has taken its scale out. It reads and changes nothing. After clipping by norm it would see the
    clipped one: then mmengine's own ``train/grad_norm`` is the one to use.

    Fused optimizers take the scale out themselves; it is divided out here.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._wanted = False
        self._value: torch.Tensor | None = None
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def ask(self) -> None:
        """Measure at the next update."""
        self._wanted = True

    def take(self) -> float | None:
        """The last one that was measured, once; None where none was. Waits for the device."""
        value, self._value = self._value, None
        return None if value is None else float(value)

    def remove(self) -> None:
        self._handle.remove()

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._wanted:
            return
        self._wanted = False
        with torch.no_grad():
            norm = torch.nn.utils.get_total_norm(
                [
                    p.grad.coalesce().values() if p.grad.is_sparse else p.grad
                    for group in optimizer.param_groups
                    for p in group["params"]
                    if p.grad is not None
                ]
            )
            scale = getattr(optimizer, "grad_scale", None)
            self._value = norm if scale is None else norm / scale


def peak_memory() -> tuple[float, str]:
    """Most memory so far in MiB, and of what: ``cuda`` (allocated on the current device) or ``process`` (resident)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20, "cuda"
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return (peak / 2**20 if sys.platform == "darwin" else peak / 2**10), "process"
