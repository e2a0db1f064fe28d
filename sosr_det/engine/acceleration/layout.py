"""channels_last: the same shapes with channels innermost in memory, for weights and for batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def to_channels_last(model: nn.Module) -> None:
    """Lay out the 4-dimensional weights with channels innermost, and every batch that the data preprocessor hands on.

    Names, shapes and values stay. Operators of MMCV read memory as it lies, so what enters one of its modules is put
    back; for tensors that are in order already this costs nothing.

    Call it before the model is wrapped for several processes: their buffers for gradients take over its layout.
    """
    model.to(memory_format=torch.channels_last)
    preprocessor = getattr(model, "data_preprocessor", None)
    if isinstance(preprocessor, nn.Module):
        preprocessor.register_forward_hook(_batch_to_channels_last)
    else:
        model.register_forward_pre_hook(_arguments_to_channels_last)
    for module in model.modules():
        if any(kind.__module__.startswith("mmcv.ops") for kind in type(module).__mro__):
            module.register_forward_pre_hook(_arguments_to_contiguous)


def is_channels_last(model: nn.Module) -> bool:
    """Whether all convolution weights lie so; weights of 1 x 1 or of one channel lie both ways."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    return bool(weights) and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


# Functions of the module, not closures: hooks are copied along with a model, and a copy must not refer to the original.


def _batch_to_channels_last(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    inputs = output.get("inputs") if isinstance(output, dict) else None
    return output if inputs is None else {**output, "inputs": _laid_out(inputs, torch.channels_last)}


def _arguments_to_channels_last(_module: nn.Module, arguments: tuple) -> tuple:
    return tuple(_laid_out(value, torch.channels_last) for value in arguments)


def _arguments_to_contiguous(_module: nn.Module, arguments: tuple) -> tuple:
    return tuple(_laid_out(value, torch.contiguous_format) for value in arguments)


def _laid_out(value: Any, memory_format: torch.memory_format) -> Any:
    if isinstance(value, Tensor):
        return value.contiguous(memory_format=memory_format) if value.dim() == 4 else value
    if type(value) in (list, tuple):  # feature maps of several levels; not named tuples
        return type(value)(_laid_out(each, memory_format) for each in value)
    return value
