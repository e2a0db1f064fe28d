"""The training loop of timm's ``train.py``, without distribution, mixing, AMP and EMA.

The script is no part of timm's wheel. This loop does what ``train_one_epoch`` of version 1.0 does in each step
(https://github.com/huggingface/pytorch-image-models/blob/main/train.py), with timm's own optimizer factory and meters:
``loss.item()`` in every step, three meters, a log line every 50 updates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import timm.optim
import timm.utils
from torch import Tensor, nn

from sosr_det.analysis.bench_train.work import Network, Work, build_network, device_batches

_LOG_INTERVAL = 50  # the script's default
_logger = logging.getLogger("sosr_det.bench_train.timm")


class TimmLoop:
    """See the module."""

    def __init__(self, work: Work) -> None:
        self.network: Network = build_network(work).train()
        self._work = work
        self._criterion = nn.CrossEntropyLoss()
        self._optimizer = timm.optim.create_optimizer_v2(
            self.network,
            opt="momentum",  # SGD without Nesterov
            lr=work.learning_rate,
            weight_decay=work.weight_decay,
            momentum=work.momentum,
            filter_bias_and_bn=False,  # the other contenders decay all parameters
        )

    def steps(self) -> Iterator[None]:
        """Yields after each step, without end."""
        update_time, data_time = timm.utils.AverageMeter(), timm.utils.AverageMeter()
        losses = timm.utils.AverageMeter()
        data_start = update_start = time.time()
        for index, (images, labels) in enumerate(device_batches(self._work)):
            data_time.update(time.time() - data_start)
            loss = self._step(images, labels)
            losses.update(loss.item(), images.size(0))
            self._optimizer.zero_grad()
            now = time.time()
            update_time.update(now - update_start)
            update_start = now
            if index % _LOG_INTERVAL == 0:
                rates = [group["lr"] for group in self._optimizer.param_groups]
                _logger.info(
                    f"Train: {index:>4d}  Loss: {losses.val:#.3g} ({losses.avg:#.3g})  "
                    f"Time: {update_time.val:.3f}s, {images.size(0) / update_time.val:>7.2f}/s  "
                    f"LR: {sum(rates) / len(rates):.3e}  Data: {data_time.val:.3f} ({data_time.avg:.3f})"
                )
            data_start = time.time()
            yield

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = self._criterion(self.network(images), labels)
        loss.backward(create_graph=False)
        self._optimizer.step()
        return loss
