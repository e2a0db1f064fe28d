"""Mixed precision in bfloat16, on any device that has it.

mmengine's ``AmpOptimWrapper`` refuses to be built without an accelerator, and carries a loss scaler, which bfloat16
does not need: it has fp32's range of exponents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` whose forward pass runs under ``torch.autocast`` in bfloat16.

    Weights, their gradients and the optimizer's state are fp32; PyTorch keeps losses, norms and softmax in fp32, too.
    There is no state beside the optimizer's, so a run may go on with or without it.

    Args: as mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast for a forward pass, and no synchronisation of gradients where they are only accumulated."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
