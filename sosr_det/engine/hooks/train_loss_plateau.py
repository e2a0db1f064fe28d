"""Lowering the learning rate when the training loss stops improving, as PyTorch's ReduceLROnPlateau does.

mmengine's ``ReduceOnPlateauLR`` looks at the metrics of a validation only. Here a hook hands it the mean training loss
of each epoch::

    param_scheduler = [dict(type="TrainLossPlateauLR", factor=0.1, patience=2)]

``sosr-det train`` adds the hook; with other tools, ``custom_hooks = [dict(type="TrainLossPlateauHook")]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.optim import ReduceOnPlateauLR
from mmengine.registry import HOOKS, PARAM_SCHEDULERS

from sosr_det.errors import ConfigError

_UNFINISHED = "unfinished_loss"  # in the message hub


@PARAM_SCHEDULERS.register_module()
class TrainLossPlateauLR(ReduceOnPlateauLR):
    """Multiplies the learning rate by ``factor`` when the epoch's mean training loss has stopped improving.

    Args:
        optimizer: as every scheduler takes it.
        factor: 0 < factor < 1; the rate after a drop, as a fraction of the rate before.
        patience: epochs without improvement that are forgiven, at least 0: the next one lowers the rate and the count
            begins anew. 0 lowers it after the first bad epoch; 2 after the third in a row.
        threshold: an epoch improves if its loss is below ``best * (1 - threshold)``; 0 <= threshold < 1. At 0 any
            decrease counts.
        kwargs: ``cooldown``, ``min_value``, ``eps`` and ``begin``/``end`` of mmengine's ``ReduceOnPlateauLR``. With its
            ``eps`` of 1e-8, as in PyTorch, a drop by less than that is not made: from 1e-5 it ends at 1e-8.

    Raises:
        ConfigError: an argument out of range; while training, a run without :class:`TrainLossPlateauHook`.
    """

    need_val_args = False  # mmengine must not step it with the metrics of a validation

    def __init__(
        self, optimizer: Any, factor: float = 0.1, patience: int = 2, threshold: float = 1e-4, **kwargs: Any
    ) -> None:
        if not 0 < factor < 1:
            raise ConfigError(f"TrainLossPlateauLR: factor must lie between 0 and 1, got {factor}")
        if not isinstance(patience, int) or patience < 0:
            raise ConfigError(
                f"TrainLossPlateauLR: patience must be a number of epochs, 0 or more, got {patience}"
            )
        if not 0 <= threshold < 1:
            raise ConfigError(
                f"TrainLossPlateauLR: threshold must be at least 0 and below 1, got {threshold}"
            )
        fixed = {"monitor": "loss", "rule": "less", "threshold_rule": "rel"}
        if kwargs.keys() & fixed.keys():
            raise ConfigError(
                f"TrainLossPlateauLR takes no {', '.join(sorted(kwargs.keys() & fixed.keys()))}"
            )
        super().__init__(optimizer, factor=factor, patience=patience, threshold=threshold, **fixed, **kwargs)
        self.num_losses_seen = 0
        # By which factor so far, each group; saved. None if a checkpoint did not know.
        self.lowered: list[float] | None = [1.0] * len(self.optimizer.param_groups)

    def observe(self, loss: float) -> None:
        """Take the mean training loss of the epoch that has just ended; may lower the rate."""
        self.num_losses_seen += 1
        before = [group["lr"] for group in self.optimizer.param_groups]
        super().step({"loss": loss})
        after = [group["lr"] for group in self.optimizer.param_groups]
        if self.lowered is not None:
            self.lowered = [
                so_far * (new / old if old else 1.0)
                for so_far, old, new in zip(self.lowered, before, after, strict=True)
            ]

    def step(self, metrics: Any = None) -> None:
        """What mmengine calls after each epoch; it has no loss to give, so it only counts the epoch.

        Raises:
            ConfigError: no hook has handed over the epoch's loss.
        """
        if self.num_losses_seen <= self._global_step:
            raise ConfigError(
                "TrainLossPlateauLR was not told the training loss: add dict(type='TrainLossPlateauHook') to the "
                "config's custom_hooks, or train with `sosr-det train`, which adds it."
            )
        super().step(None)

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what was seen, but not the saved range of epochs.

        mmengine sets ``end`` to the number of epochs of the run, and would end the schedule of a resumed run there
        although more epochs were asked for.
        """
        self.lowered = None
        super().load_state_dict({key: v for key, v in state_dict.items() if key not in ("begin", "end")})


@HOOKS.register_module()
class TrainLossPlateauHook(Hook):
    """Hands every :class:`TrainLossPlateauLR` the mean loss of each training epoch, the same on all ranks.

    The mean is over the epoch's iterations and over the ranks; it is summed in float64 on the device, so that no
    step waits for it. Without such a scheduler the hook does nothing.
    """

    priority = (
        "BELOW_NORMAL"  # before ParamSchedulerHook counts the epoch, and before the checkpoint is written
    )

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None
        self._num_iters = 0

    def before_train_epoch(self, runner) -> None:
        self._sum, self._num_iters = None, 0
        place = getattr(runner.train_loop, "place", None)
        kept = runner.message_hub.runtime_info.get(_UNFINISHED)
        if place and place.batches_done and kept:  # a run that goes on in the middle of an epoch
            total, self._num_iters = kept[get_rank()]
            self._sum = torch.tensor(total, dtype=torch.float64, device=get_device())

    def before_save_mid_epoch(self, runner) -> None:
        """Every rank's unfinished sum goes into the checkpoint."""
        if self._sum is not None:
            own = (float(self._sum), self._num_iters)
            runner.message_hub.update_info(_UNFINISHED, all_gather_object(own))

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not any(_plateaus(runner)):
            return
        if not isinstance(outputs, dict) or "loss" not in outputs:
            raise ConfigError(
                "TrainLossPlateauLR needs a model whose train_step gives a 'loss'; this one gives "
                f"{sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__}."
            )
        loss = torch.as_tensor(outputs["loss"]).detach().double()
        self._sum = loss if self._sum is None else self._sum + loss
        self._num_iters += 1

    def after_train_epoch(self, runner) -> None:
        schedulers = list(_plateaus(runner))
        if not schedulers or self._sum is None:
            return
        mean = self._sum / self._num_iters
        all_reduce(mean, op="mean")
        loss = float(mean)
        for scheduler in schedulers:
            before = [group["lr"] for group in scheduler.optimizer.param_groups]
            scheduler.observe(loss)
            after = [group["lr"] for group in scheduler.optimizer.param_groups]
            if after != before:
                runner.logger.info(
                    f"training loss {loss:.5f} has not improved on {scheduler.best:.5f} for "
                    f"{scheduler.patience + 1} epochs: lr {before[0]:g} -> {after[0]:g}"
                )


def _plateaus(runner: Any) -> Iterator[TrainLossPlateauLR]:
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [each for some in schedulers.values() for each in some]
    return (each for each in schedulers if isinstance(each, TrainLossPlateauLR))
