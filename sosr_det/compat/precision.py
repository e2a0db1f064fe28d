"""Which precision the fallback ops calculate in."""

import torch


def working_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype to calculate in: float32 for half and bfloat16 (and integers), else the tensor's own.

    Box coordinates and sampling points are the reason: half precision places a point at x = 1000 to within half a
    pixel. It also makes every op work on a CPU, where torchvision's kernels do not take bfloat16.
    """
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
