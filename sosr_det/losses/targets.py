"""The three kinds of classification target, and the set of classes that each expects.

* class indices, int64 ``[M]``: one expected class per sample;
* soft targets, floating ``[M, K]`` (as ``torch.nn.functional.cross_entropy`` takes them): the classes that a mix put
  there;
* :class:`MixedTarget`, the two labels of CutMix or MixUp with their share: both labels.

Source: section 3.2 of the paper for two labels ("we remained both the logits of two labels unchanged").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MixedTarget(NamedTuple):
    """The labels of a batch mixed by CutMix or MixUp; a plain tuple ``(y_a, y_b, lam)`` is taken as well.

    Attributes:
        y_a: class indices of the images themselves, int64 ``[M]``.
        y_b: class indices of the images mixed in, int64 ``[M]``.
        lam: share of ``y_a``, 0 (only ``y_b`` is left) to 1 (nothing was mixed in): a number, a 0-dim tensor, or one
            value per sample ``[M]``.

    A label with share 0 is not in the image, so it is not expected; equal labels count once.
    """

    y_a: Tensor
    y_b: Tensor
    lam: float | Tensor


Target = Tensor | MixedTarget | tuple[Tensor, Tensor, "float | Tensor"]


class ExpectedSet(NamedTuple):
    """The expected classes S_m of each sample, in the cheaper of two forms.

    Attributes:
        index: int64 ``[M, S]``, S = 1 or 2; a class may stand twice. None when ``mask`` is set.
        mask: bool ``[M, K]``. None when ``index`` is set.
        size: number of distinct classes of each sample: the int 1, or int64 ``[M, 1]``.
    """

    index: Tensor | None
    mask: Tensor | None
    size: int | Tensor

    def total(self, values: Tensor) -> Tensor:
        """Sum of ``values [M, K]`` over each sample's expected classes, ``[M, 1]``."""
        if self.index is None:
            return values.masked_fill(~self.mask, 0.0).sum(dim=1, keepdim=True)
        picked = values.gather(1, self.index)
        if picked.shape[1] == 1:
            return picked
        first, second = picked.split(1, dim=1)
        return torch.where(self.size == 2, first + second, first)

    def clear_(self, values: Tensor) -> Tensor:
        """``values [M, K]`` with its expected classes set to 0, in place: a copy would cost a third of the loss."""
        if self.index is None:
            return values.masked_fill_(self.mask, 0.0)
        return values.scatter_(1, self.index, 0.0)

    def contains(self, classes: Tensor) -> Tensor:
        """Whether each sample expects the class given for it: ``classes [M, 1]`` -> bool ``[M, 1]``."""
        if self.index is None:
            return self.mask.gather(1, classes)
        return (self.index == classes).any(dim=1, keepdim=True)


def is_mixed(target: object) -> bool:
    """Whether ``target`` is a tuple ``(y_a, y_b, lam)``."""
    return isinstance(target, tuple)


def is_soft(target: object) -> bool:
    """Whether ``target`` is a tensor of soft targets ``[M, K]``."""
    return isinstance(target, Tensor) and target.is_floating_point()


def expected_set(target: Target, num_classes: int) -> ExpectedSet:
    """The expected classes of each sample; see :func:`expected_classes` for the rules."""
    if is_mixed(target):
        y_a, y_b, lam = target
        if isinstance(lam, Tensor):
            y_a, y_b = torch.where(lam > 0, y_a, y_b), torch.where(lam < 1, y_b, y_a)
        elif lam in (0, 1):
            y_a = y_b = y_b if lam == 0 else y_a
        size = 1 + (y_a != y_b).long().unsqueeze(1)
        return ExpectedSet(torch.stack((y_a, y_b), dim=1), None, size)
    if is_soft(target):
        if num_classes == 2:
            mask = target > 0
        else:
            mask = target > target.amin(dim=1, keepdim=True)
        return ExpectedSet(None, mask, mask.sum(dim=1, keepdim=True))
    return ExpectedSet(target.unsqueeze(1), None, 1)


def expected_classes(target: Target, num_classes: int) -> Tensor:
    """The classes that each sample's label names, bool ``[M, K]``.

    Class indices expect that class; a :class:`MixedTarget` both labels that have a share. A row of soft targets expects
    the classes above its smallest value: that value is what no image put there, 0 in a plain mix and the
    smoothing level where the mix is label-smoothed (timm's ``Mixup(label_smoothing=0.1)``), so the true label set is
    found in both. With K = 2 classes, where a mix leaves no such level and cannot be told from smoothing, it is the
    classes above 0; the penalty is 0 then in any case, only :func:`sosr_det.losses.is_overconfident` depends on it.

    Args:
        target: as :func:`sosr_det.losses.sosr_penalty` takes it.
        num_classes: K >= 2.
    """
    expected = expected_set(target, num_classes)
    if expected.mask is not None:
        return expected.mask
    empty = torch.zeros(expected.index.shape[0], num_classes, dtype=torch.bool, device=expected.index.device)
    return empty.scatter(1, expected.index, True)


def soft_target(target: Target, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Any kind of target as probabilities ``[M, K]``."""
    if is_soft(target):
        return target.to(dtype)
    if not is_mixed(target):
        return F.one_hot(target, num_classes).to(dtype)
    y_a, y_b, lam = target
    share = lam.to(dtype) if isinstance(lam, Tensor) else lam
    share = share.unsqueeze(1) if isinstance(lam, Tensor) and lam.dim() == 1 else share
    one_a, one_b = F.one_hot(y_a, num_classes).to(dtype), F.one_hot(y_b, num_classes).to(dtype)
    return share * one_a + (1 - share) * one_b
