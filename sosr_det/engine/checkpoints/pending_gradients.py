"""Gradients that are accumulated and not yet applied when an epoch ends: part of what a training goes on from.

A save in the middle of an epoch waits for the optimizer's step. An epoch's end cannot: where its number of batches is
not a multiple of ``accumulative_counts``, the next epoch completes the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce, is_distributed


def are_pending(optim_wrapper: Any) -> bool:
    """Whether the optimizer waits for more batches before its next step."""
    return any(
        each._inner_count % each._accumulative_counts and each._inner_count != each._max_counts
        for each in _single_wrappers(optim_wrapper)
    )


def share_pending(runner: Any) -> None:
    """Give every rank the mean of the ranks' pending gradients, so that rank 0's checkpoint holds them all.

    DistributedDataParallel leaves them unshared until the step, whose mean over the ranks is the same either way.
    """
    if not is_distributed() or not are_pending(runner.optim_wrapper):
        return
    for parameter in runner.model.parameters():
        if parameter.grad is not None:
            all_reduce(parameter.grad, op="mean")


def pending_gradients(runner: Any) -> dict[str, torch.Tensor] | None:
    """By name of the parameter, on the CPU; None where the optimizer has just made its step."""
    if not are_pending(runner.optim_wrapper):
        return None
    model = getattr(runner.model, "module", runner.model)
    return {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def restore_pending(runner: Any, gradients: Mapping[str, torch.Tensor]) -> None:
    """Put them back under their parameters."""
    model = getattr(runner.model, "module", runner.model)
    parameters = dict(model.named_parameters())
    for name, gradient in gradients.items():
        parameters[name].grad = gradient.to(parameters[name].device, parameters[name].dtype, copy=True)


def _single_wrappers(optim_wrapper: Any) -> list[Any]:
    inner = getattr(optim_wrapper, "optim_wrappers", None)
    found = list(inner.values()) if inner else [optim_wrapper]
    return [each for each in found if hasattr(each, "_accumulative_counts")]
