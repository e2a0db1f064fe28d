"""What a training device can do, as plain facts, so that the rules about it can be tested without one."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """The device that a process trains on.

    Attributes:
        kind: ``cuda``, ``cpu``, or another name of PyTorch's (``mps``, ``npu``, …).
        name: as its maker calls it.
        capability: CUDA's compute capability, such as ``(8, 0)`` for an A100; None for other kinds.
        threads: threads that PyTorch computes with on the CPU.
    """

    kind: str
    name: str = ""
    capability: tuple[int, int] | None = None
    threads: int = 1

    @property
    def precisions(self) -> tuple[str, ...]:
        """What can be trained in: bf16 has kernels on the CPU and from Ampere (8.0) on, fp16 on every CUDA device."""
        if self.kind == "cuda":
            return ("fp32", "bf16", "fp16") if self._at_least(8) else ("fp32", "fp16")
        return ("fp32", "bf16") if self.kind == "cpu" else ("fp32",)

    @property
    def mixed_precision(self) -> str:
        """The type to mix with: one without loss scaling where there is one; fp32 where nothing is won."""
        if self.kind == "cuda":
            # Before Volta (7.0) there are no tensor cores: autocast would only add casts.
            return "bf16" if self._at_least(8) else "fp16" if self._at_least(7) else "fp32"
        return "bf16" if self.kind == "cpu" else "fp32"

    @property
    def has_tf32(self) -> bool:
        """Whether its matrix units multiply fp32 with 10 bits of mantissa, if allowed to (Ampere and newer)."""
        return self._at_least(8)

    def _at_least(self, major: int) -> bool:
        return self.capability is not None and self.capability[0] >= major

    def __str__(self) -> str:
        details = ", ".join(filter(None, [self.name, _count(self.threads) if self.kind == "cpu" else ""]))
        return f"{self.kind} ({details})" if details else self.kind


def current_device() -> Device:
    """Of this process, as mmengine chooses it."""
    import torch
    from mmengine.device import get_device

    kind = get_device()
    if kind == "cuda":
        return Device(kind, torch.cuda.get_device_name(), torch.cuda.get_device_capability())
    if kind == "cpu":
        return Device(kind, cpu_name(), threads=torch.get_num_threads())
    return Device(kind)


def cpu_name() -> str:
    """The processor's model, or its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
