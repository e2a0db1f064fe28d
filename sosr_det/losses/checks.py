"""What a loss refuses, in words: shapes and dtypes always, values where reading them costs no synchronisation."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from sosr_det.losses.targets import Target, expected_set, is_mixed, is_soft

# How far a row of soft targets may be from 1: rounding of a sum over up to some thousand classes.
_SUM_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def check_threshold(threshold: float) -> None:
    """P lies inside (0, 1), or a ValueError says so."""
    if not _is_number(threshold) or not 0 < threshold < 1:
        raise ValueError(f"threshold (the paper's P) must lie inside (0, 1), got {threshold!r}")


def check_not_negative(value: float, name: str = "weight (the paper's beta)") -> None:
    """A finite number of at least 0, or a ValueError that calls it ``name``."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def check_shapes(logits: Tensor, target: Target) -> None:
    """Shapes, dtypes and devices fit together.

    Raises:
        ValueError: names what was given, what was expected and, where there is one, the fix.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape [M, K], got {list(logits.shape)}")
    num_samples, num_classes = logits.shape
    if num_classes < 2:
        raise ValueError(f"logits need K >= 2 classes, got shape {list(logits.shape)}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    if is_mixed(target):
        _check_mixed_shapes(target, num_samples, logits.device)
    elif not isinstance(target, Tensor):
        raise ValueError(
            "target must be class indices [M], soft targets [M, K] or a tuple (y_a, y_b, lam), got "
            f"{type(target).__name__}"
        )
    elif is_soft(target):
        if target.shape != logits.shape:
            raise ValueError(
                f"soft targets must have the shape of the logits {list(logits.shape)}, got {list(target.shape)}; "
                "class indices must be torch.int64 (call .long())"
            )
        _check_device("target", target, logits.device)
    else:
        _check_indices("target", target, num_samples, logits.device)


def check_target_values(target: Target, num_classes: int) -> None:
    """Labels in range, shares in [0, 1], soft targets that are distributions. Reads values: it synchronises a GPU.

    Raises:
        ValueError: names the value and its place.
    """
    if is_mixed(target):
        y_a, y_b, lam = target
        _check_label_range("y_a", y_a, num_classes)
        _check_label_range("y_b", y_b, num_classes)
        low, high = (float(v) for v in torch.aminmax(lam)) if isinstance(lam, Tensor) else (lam, lam)
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"lam (the share of y_a) must lie in [0, 1], got {low if not low >= 0 else high!r}"
            )
    elif is_soft(target):
        _check_soft_values(target, num_classes)
    else:
        _check_label_range("target", target, num_classes)


def check_finite(logits: Tensor) -> None:
    """Every logit is finite. Reads values: it synchronises a GPU.

    Raises:
        ValueError: names the first value that is not, its sample and its class.
    """
    bad = ~torch.isfinite(logits)
    if bad.any():
        row, column = torch.nonzero(bad)[0].tolist()
        raise ValueError(
            f"logits must be finite, got {logits[row, column].item()} at sample {row}, class {column}; "
            "the network's output diverged (lower the learning rate, or look for a division by zero)"
        )


def values_can_be_read(logits: Tensor, validate: bool | None) -> bool:
    """Whether to look at values: on CPU tensors, or where ``validate`` asks for it; never while compiling."""
    if torch.compiler.is_compiling() or logits.shape[0] == 0:
        return False
    return logits.device.type == "cpu" if validate is None else validate


def _check_mixed_shapes(target: tuple, num_samples: int, device: torch.device) -> None:
    if len(target) != 3:
        raise ValueError(f"a mixed target is a tuple (y_a, y_b, lam), got {len(target)} items")
    y_a, y_b, lam = target
    for name, labels in (("y_a", y_a), ("y_b", y_b)):
        if not isinstance(labels, Tensor):
            raise ValueError(f"{name} must be a tensor of class indices [M], got {type(labels).__name__}")
        _check_indices(name, labels, num_samples, device)
    if isinstance(lam, Tensor):
        if lam.dim() > 1 or (lam.dim() == 1 and lam.shape[0] != num_samples):
            raise ValueError(
                f"lam must be a number, 0-dim or of shape [{num_samples}], got {list(lam.shape)}"
            )
        if lam.dim() == 1:  # a 0-dim tensor of the CPU works beside any device
            _check_device("lam", lam, device)
    elif not _is_number(lam):
        raise ValueError(f"lam must be a number or a tensor, got {type(lam).__name__}")
    else:
        _check_share(lam)


def _check_share(lam: float) -> None:
    if not 0 <= lam <= 1:
        raise ValueError(f"lam (the share of y_a) must lie in [0, 1], got {lam!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_indices(name: str, labels: Tensor, num_samples: int, device: torch.device) -> None:
    if labels.dim() != 1 or labels.shape[0] != num_samples:
        raise ValueError(f"{name} must have shape [{num_samples}] for these logits, got {list(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"{name} must hold class indices as torch.int64 (call .long()), got {labels.dtype}")
    _check_device(name, labels, device)


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, the logits are on {device}; move one of them")


def _check_label_range(name: str, labels: Tensor, num_classes: int) -> None:
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        bad = low if low < 0 else high
        raise ValueError(f"{name} labels must lie in [0, {num_classes}) for these logits, got {bad}")


def _check_soft_values(target: Tensor, num_classes: int) -> None:
    sums = target.double().sum(dim=1)
    wrong = ~((sums - 1).abs() <= _SUM_TOLERANCE.get(target.dtype, 1e-3))
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"soft targets must sum to 1 over the classes, got {sums[row].item():.6g} at sample {row}; "
            "divide each row by its sum"
        )
    if (target < 0).any():
        row, column = torch.nonzero(target < 0)[0].tolist()
        raise ValueError(
            f"soft targets must not be negative, got {target[row, column].item()} at sample {row}, class {column}"
        )
    empty = expected_set(target, num_classes).size == 0
    if empty.any():
        row = int(empty.nonzero()[0, 0])
        raise ValueError(
            f"sample {row} has an empty expected set: its soft target is the same for all {num_classes} classes, so no "
            "class is the right one; leave such samples out, or give class indices"
        )
