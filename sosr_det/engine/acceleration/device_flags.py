"""PyTorch's process-wide switches, for as long as a run takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sosr_det.engine.acceleration.settings import Settings


@contextmanager
def device_flags(settings: Settings, device_kind: str) -> Iterator[None]:
    """Set TF32 and cuDNN's benchmark on CUDA; afterwards they are what they were. Other devices have neither."""
    if device_kind != "cuda":
        yield
        return
    import torch

    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    # Without an opinion: PyTorch's defaults by name, not whatever an earlier run left behind.
    torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    cudnn.allow_tf32 = settings.tf32 is not False
    cudnn.benchmark = settings.cudnn_benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]
