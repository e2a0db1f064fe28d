"""The training loop of torchvision's ``references/classification/train.py``, without distribution, AMP and EMA.

The script is no part of torchvision's wheel. This loop does what its ``train_one_epoch`` and ``utils.MetricLogger`` do
in each step (https://github.com/pytorch/vision/tree/main/references/classification): top-1 and top-5 accuracy and
the loss are read in every step, smoothed meters are kept, a line is written every 10 steps.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sosr_det.analysis.bench_train.work import Network, Work, build_network, device_batches

_PRINT_FREQUENCY = 10  # the script's default
_logger = logging.getLogger("sosr_det.bench_train.torchvision")


class _Meter:
    """The values of the last steps, and a total; as the script's ``SmoothedValue``."""

    def __init__(self, window: int = 20) -> None:
        self._values: deque[float] = deque(maxlen=window)
        self._total, self._count = 0.0, 0

    def update(self, value: float, count: int = 1) -> None:
        self._values.append(value)
        self._count += count
        self._total += value * count

    def __str__(self) -> str:
        return f"{statistics.median(self._values):.4f} ({self._total / self._count:.4f})"


class TorchvisionLoop:
    """See the module."""

    def __init__(self, work: Work) -> None:
        self.network: Network = build_network(work).train()
        self._work = work
        self._criterion = nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=work.learning_rate,
            momentum=work.momentum,
            weight_decay=work.weight_decay,
        )

    def steps(self) -> Iterator[None]:
        """Yields after each step, without end."""
        meters = {name: _Meter() for name in ("lr", "img/s", "loss", "acc1", "acc5", "time", "data")}
        end = time.time()
        for index, (images, labels) in enumerate(device_batches(self._work)):
            start = time.time()
            meters["data"].update(start - end)
            output = self.network(images)
            self._optimizer.zero_grad()
            loss = self._criterion(output, labels)
            loss.backward()
            self._optimizer.step()
            acc1, acc5 = _accuracy(output, labels, (1, 5))
            count = images.shape[0]
            meters["loss"].update(loss.item())
            meters["lr"].update(self._optimizer.param_groups[0]["lr"])
            meters["acc1"].update(acc1.item(), count)
            meters["acc5"].update(acc5.item(), count)
            meters["img/s"].update(count / (time.time() - start))
            meters["time"].update(time.time() - end)
            if index % _PRINT_FREQUENCY == 0:
                _logger.info("  ".join(f"{name}: {meter}" for name, meter in meters.items()))
            end = time.time()
            yield


@torch.inference_mode()
def _accuracy(output: Tensor, labels: Tensor, topk: tuple[int, ...]) -> list[Tensor]:
    """Percent of the samples whose label is among the k highest logits, for each k."""
    _, found = output.topk(max(topk), 1, True, True)
    correct = found.t().eq(labels[None])
    return [correct[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(labels)) for k in topk]
