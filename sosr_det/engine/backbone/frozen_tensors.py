"""Tensors that a run must not change: frozen parameters, and the statistics of batch norm that stays in eval mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sosr_det.errors import BackboneMismatchError

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class FrozenTensors:
    """Watches which tensors of a backbone are frozen all through a run, and compares them at its end.

    Args:
        backbone: the live module.
        source: the tensors that it started from, by name; others are not watched.
        uri: for messages.
    """

    def __init__(self, backbone: nn.Module, source: Mapping[str, Any], uri: str) -> None:
        self.uri = uri
        self._source = {n: t for n, t in source.items() if isinstance(t, Tensor)}
        # What was allowed to have another shape is no copy of the source in the first place.
        self._parameters = {
            n: p for n, p in backbone.named_parameters() if n in source and p.shape == source[n].shape
        }
        self._norms = {n: m for n, m in backbone.named_modules() if isinstance(m, _BatchNorm)}
        self._observed = False

    def keep_equal(self) -> list[str]:
        """Watch only what equals the source now: the rest was trained before this run was resumed, or may differ.

        Returns:
            Names of frozen parameters that are not the source's any more.
        """
        frozen = {n for n, p in self._parameters.items() if not p.requires_grad}
        tensors = self._tensors()
        different = [n for n, t in tensors.items() if not _equal(t, self._source[n])]
        self._source = {n: t for n, t in self._source.items() if n not in different}
        self._parameters = {n: p for n, p in self._parameters.items() if n in self._source}
        return sorted(frozen & set(different))

    def observe(self) -> None:
        """Note what is trained right now; called after every training step, so it is short."""
        self._observed = True
        self._parameters = {n: p for n, p in self._parameters.items() if not p.requires_grad}
        self._norms = {n: m for n, m in self._norms.items() if not m.training}

    def names(self) -> list[str]:
        """Names of the tensors that were frozen in every step so far."""
        return list(self._tensors()) if self._observed else []

    def require_unchanged(self) -> int:
        """Compare the frozen tensors with the source, bit for bit; returns how many there are.

        Raises:
            BackboneMismatchError: names the tensors that changed.
        """
        changed = {}
        tensors = self._tensors() if self._observed else {}
        for name, tensor in tensors.items():
            if not _equal(tensor, self._source[name]):
                difference = tensor.detach().cpu().double() - self._source[name].detach().cpu().double()
                changed[name] = float(difference.abs().max())
        if changed:
            shown = ", ".join(f"{name} (by up to {value:.3g})" for name, value in list(changed.items())[:4])
            more = f", … {len(changed) - 4} more" if len(changed) > 4 else ""
            raise BackboneMismatchError(
                f"{len(changed)} of {len(tensors)} frozen tensors of the backbone are no longer those of {self.uri}: "
                f"{shown}{more}. They were frozen (requires_grad=False, or batch norm in eval mode) in every step, so "
                "something wrote to them: a hook, or a checkpoint that was loaded after the start."
            )
        return len(tensors)

    def _tensors(self) -> dict[str, Tensor]:
        found = dict(self._parameters)
        for prefix, module in self._norms.items():
            for part in _BUFFERS:
                name = f"{prefix}.{part}"
                if getattr(module, part, None) is not None and name in self._source:
                    found[name] = getattr(module, part)
        return found


def _equal(tensor: Tensor, source: Tensor) -> bool:
    actual, expected = tensor.detach().cpu(), source.detach().cpu()
    return actual.shape == expected.shape and torch.equal(actual, expected.to(actual.dtype))
