"""Criteria that SOSR can stand on, or that stand alone: each takes every kind of target.

All return the mean over the batch as a 0-dim tensor in at least fp32, and 0 for an empty batch.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sosr_det.losses.checks import check_not_negative, check_shapes, check_target_values, values_can_be_read
from sosr_det.losses.penalty import full_precision, widened
from sosr_det.losses.targets import Target, is_mixed, is_soft, soft_target


class Criterion(nn.Module):
    """Base of the criteria: checks, fp32, empty batches. Subclasses compute on widened, non-empty logits.

    Shapes: ``logits [M, K]`` of any floating dtype, K >= 2; ``target`` as :func:`sosr_det.losses.sosr_penalty`.

    Attributes:
        log_name: the name under which the engine logs the term.
        validate: see :func:`sosr_det.losses.sosr_penalty`.

    Raises (in ``forward``):
        ValueError: as :func:`sosr_det.losses.sosr_penalty`, except for NaN logits, which give a NaN loss.
    """

    log_name = "loss_base"
    validate: bool | None = None

    def forward(self, logits: Tensor, target: Target) -> Tensor:
        """The loss, 0-dim."""
        check_shapes(logits, target)
        if values_can_be_read(logits, self.validate):
            check_target_values(target, logits.shape[1])
        with full_precision(logits):
            logits = widened(logits)
            if logits.shape[0] == 0:  # a mean over nothing would be NaN
                return logits.sum() * 0
            return self.compute(logits, target)

    def compute(self, logits: Tensor, target: Target) -> Tensor:
        """The loss of checked, widened logits of at least one sample."""
        raise NotImplementedError


class CrossEntropy(Criterion):
    """Cross-entropy, with label smoothing where asked for (Szegedy et al. 2016, section 7).

    Args:
        label_smoothing: epsilon in [0, 1): the share of the label that is spread over all K classes, as torch's. 0 is
            plain cross-entropy, towards 1 the label is lost. The paper's comparison uses 0.1.

    Raises:
        ValueError: label_smoothing outside [0, 1).
    """

    log_name = "loss_ce"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing!r}")
        self.label_smoothing = float(label_smoothing)

    def compute(self, logits: Tensor, target: Target) -> Tensor:
        return cross_entropy(logits, target, self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"


class ConfidencePenalty(Criterion):
    """Cross-entropy minus ``weight`` times the entropy of the prediction (Pereyra et al. 2017, Eq. 4).

    Args:
        weight: beta >= 0. 0 is plain cross-entropy. The paper's comparison uses 0.1.

    The entropy is in nats, 0 (all on one class) to ln K. The loss can be negative.

    Raises:
        ValueError: negative or non-finite weight.
    """

    log_name = "loss_confidence_penalty"

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        check_not_negative(weight)
        self.weight = float(weight)

    def compute(self, logits: Tensor, target: Target) -> Tensor:
        log_probabilities = logits.log_softmax(dim=1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        return cross_entropy(logits, target) - self.weight * entropy

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class OnlineLabelSmoothing(Criterion):
    """Online label smoothing, OLS (Zhang et al. 2021, "Delving Deep into Label Smoothing", section 3).

    ``hard_weight * CE(label) + (1 - hard_weight) * CE(soft label)``, where the soft label of a class is the mean
    prediction over its correctly classified samples of the epoch before (uniform in the first epoch).

    Args:
        num_classes: K >= 2.
        hard_weight: alpha in [0, 1]: 1 is plain cross-entropy, 0 learns from soft labels only. The OLS paper uses 0.5.

    Call :meth:`next_epoch` at the end of every training epoch (the engine does it); it makes the predictions gathered
    since then the soft labels, over all processes of a distributed run. A class without a correct prediction keeps
    its soft label. Predictions are gathered in training mode and from class indices only: the prediction for a mixed
    image describes no single class. Where every batch is mixed nothing is learnt, and ``next_epoch`` warns of it.

    Raises:
        ValueError: fewer than two classes, hard_weight outside [0, 1], logits of another K.
    """

    log_name = "loss_online_label_smoothing"

    def __init__(self, num_classes: int, hard_weight: float = 0.5) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes!r}")
        if not 0 <= hard_weight <= 1:
            raise ValueError(f"hard_weight must lie in [0, 1], got {hard_weight!r}")
        self.num_classes = int(num_classes)
        self.hard_weight = float(hard_weight)
        uniform = torch.full((num_classes, num_classes), 1 / num_classes)
        self.register_buffer("soft_labels", uniform)  # [label, class], rows sum to 1
        # No buffers: DistributedDataParallel would overwrite each process's sums with the first one's.
        self.prediction_sums = torch.zeros(num_classes, num_classes)
        self.prediction_counts = torch.zeros(num_classes)

    def get_extra_state(self) -> Tensor:
        """Sums and, in the last row, counts of this process: part of the state dict, ``[K + 1, K]``."""
        return torch.cat((self.prediction_sums, self.prediction_counts[None]))

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        state = state.to(self.soft_labels)
        self.prediction_sums, self.prediction_counts = state[:-1].clone(), state[-1].clone()

    def compute(self, logits: Tensor, target: Target) -> Tensor:
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"OnlineLabelSmoothing was made for {self.num_classes} classes, the logits have {logits.shape[1]}"
            )
        if self.training and isinstance(target, Tensor) and not is_soft(target):
            self._gather(logits.detach(), target)
        hard = cross_entropy(logits, target)
        soft = cross_entropy(logits, self._smoothed(target, logits.dtype))
        return self.hard_weight * hard + (1 - self.hard_weight) * soft

    @torch.no_grad()
    def next_epoch(self) -> None:
        """Make the mean predictions gathered so far the soft labels, and begin to gather anew."""
        self._follow_device()
        sums, counts = self.prediction_sums, self.prediction_counts
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(counts)
        if not counts.any():
            warnings.warn(
                "OnlineLabelSmoothing saw no correct prediction for plain class indices in this epoch, so its soft "
                "labels stay as they are. Is every batch mixed? Mix only a part of them.",
                stacklevel=2,
            )
        seen = counts.unsqueeze(1) > 0
        self.soft_labels.copy_(torch.where(seen, sums / counts.unsqueeze(1).clamp_min(1), self.soft_labels))
        sums.zero_()
        counts.zero_()

    @torch.no_grad()
    def _gather(self, logits: Tensor, target: Tensor) -> None:
        self._follow_device()
        probabilities = logits.softmax(dim=1)
        correct = (probabilities.argmax(dim=1) == target).to(self.prediction_sums.dtype)
        weighted = probabilities.to(self.prediction_sums.dtype) * correct.unsqueeze(1)
        self.prediction_sums.index_add_(0, target, weighted)
        self.prediction_counts.index_add_(0, target, correct)

    def _follow_device(self) -> None:
        """Plain tensors do not move with the module: bring them where its buffer is."""
        self.prediction_sums = self.prediction_sums.to(self.soft_labels)
        self.prediction_counts = self.prediction_counts.to(self.soft_labels)

    def _smoothed(self, target: Target, dtype: torch.dtype) -> Tensor:
        soft_labels = self.soft_labels.to(dtype)
        if isinstance(target, Tensor) and not is_soft(target):
            return soft_labels[target]
        return soft_target(target, self.num_classes, dtype) @ soft_labels

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, hard_weight={self.hard_weight}"


def cross_entropy(logits: Tensor, target: Target, label_smoothing: float = 0.0) -> Tensor:
    """``F.cross_entropy`` that also takes the labels of a mixed batch; mean over the batch, 0-dim."""
    if not is_mixed(target):
        target = target.to(logits.dtype) if is_soft(target) else target
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    y_a, y_b, lam = target
    of_a = F.cross_entropy(logits, y_a, label_smoothing=label_smoothing, reduction="none")
    of_b = F.cross_entropy(logits, y_b, label_smoothing=label_smoothing, reduction="none")
    return (lam * of_a + (1 - lam) * of_b).mean().to(logits.dtype)
