"""The loop without an engine: what a step costs at least."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from sosr_det.analysis.bench_train.work import Network, Work, build_network, device_batches


class BareLoop:
    """``for`` loop with network, cross-entropy and SGD; logs nothing and reads no loss."""

    def __init__(self, work: Work) -> None:
        self.network: Network = build_network(work).train()
        self._work = work
        self._optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=work.learning_rate,
            momentum=work.momentum,
            weight_decay=work.weight_decay,
        )

    def steps(self) -> Iterator[None]:
        """Yields after each step, without end."""
        for images, labels in device_batches(self._work):
            self._optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(self.network(images), labels).backward()
            self._optimizer.step()
            yield
