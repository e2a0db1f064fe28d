"""What the paper's Figures 1 and 2 measure, and calibration beside it: per sample, then summed over a data set.

Everything here is a function on tensors. Sums add up over batches and processes, so that the figures of a data set
do not depend on how it was split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sosr_det.losses import is_overconfident

# ITU-R 601 luma in 16-bit fixed point, with rounding: exactly what PIL's convert("L") computes.
_LUMA = (19595, 38470, 7471)
_GREY_LEVELS = 256
# Bounds the histogram's index tensor (8 bytes per pixel).
_PIXELS_PER_CHUNK = 4_000_000


class SampleMeasures(NamedTuple):
    """One value per sample, each tensor ``[M]`` without gradient."""

    label_probability: Tensor  # softmax probability of the right class, 0..1
    confidence: Tensor  # highest softmax probability, 1/K..1
    correct: Tensor  # bool: the most probable class is the right one
    overconfident: Tensor  # bool: correct and confidence > P (section 2.2)
    nll: Tensor  # -log(label_probability), nats
    gradient_norm: Tensor  # of the run's own loss, see `output_gradient_norm`
    ce_gradient_norm: Tensor  # of plain cross-entropy on the same logits
    logit_spread: Tensor  # see `incorrect_logit_spread`


def grey_entropy_bits(images: Tensor) -> Tensor:
    """Shannon entropy of each image's grey-level histogram, in bits.

    Args:
        images: uint8 ``[M, 3, H, W]``, RGB.

    Returns:
        float64 ``[M]``: 0 (one grey level) to 8 (all 256 equally often). Grey is the ITU-R 601 luma, rounded as
        PIL's ``convert("L")`` rounds it.

    Raises:
        ValueError: another dtype or shape.

    Source: section 2.1, "average information entropy of these samples in black-and-white" (Fig. 1, bottom).
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 [M, 3, H, W], got {images.dtype} {list(images.shape)}")
    num_pixels = images.shape[2] * images.shape[3]
    if num_pixels == 0:
        raise ValueError(f"images have no pixels: shape {list(images.shape)}")
    chunks = images.split(max(1, _PIXELS_PER_CHUNK // num_pixels))
    return torch.cat([_grey_entropy_of_chunk(chunk, num_pixels) for chunk in chunks])


def _grey_entropy_of_chunk(images: Tensor, num_pixels: int) -> Tensor:
    channels = images.to(torch.int32)
    luma = sum(factor * channels[:, c] for c, factor in enumerate(_LUMA))
    grey = (luma + 0x8000) >> 16
    own_bins = torch.arange(len(images), device=images.device)[:, None] * _GREY_LEVELS
    counts = torch.bincount(
        (grey.flatten(1) + own_bins).flatten(), minlength=len(images) * _GREY_LEVELS
    ).view(-1, _GREY_LEVELS)
    return torch.special.entr(counts.double() / num_pixels).sum(dim=1) / torch.log(torch.tensor(2.0).double())


def output_gradient_norm(
    logits: Tensor, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """L2 norm of the gradient of each sample's own loss with respect to its logits.

    Args:
        logits: ``[M, K]``; detached first, so no graph is needed or kept.
        labels: int64 ``[M]``.
        criterion: returns the mean over the batch of the samples' losses, 0-dim. It must treat samples one by one
            (no batch statistics), as Eq. (1) does; the batch mean's gradient times M is then the sample's own.

    Returns:
        float ``[M]``, 0 (the sample teaches nothing) and up.

    Source: section 2.2, Fig. 2. The paper does not define the norm; the Euclidean one is meant here, without the
    1/M that depends on the batch size.
    """
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        if len(leaf) == 0:
            return leaf.detach().sum(dim=1)
        (gradient,) = torch.autograd.grad(criterion(leaf, labels), leaf)
    return len(leaf) * gradient.norm(dim=1)


def cross_entropy_gradient_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """L2 norm ``[M]`` of softmax(logits) - onehot(label): the gradient of each sample's plain cross-entropy.

    0 (certain and right) to sqrt(2) (certain and wrong).
    """
    difference = logits.detach().softmax(dim=1)
    difference = difference.scatter_add(1, labels[:, None], -torch.ones_like(difference[:, :1]))
    return difference.norm(dim=1)


def incorrect_logit_spread(logits: Tensor, labels: Tensor) -> Tensor:
    """Standard deviation of each sample's K-1 logits of the incorrect classes, ``[M]``.

    0 means equal logits, which is what the method drives at; with K = 2 it is always 0. The population form (divided
    by K-1 values), so that the SOSR penalty of a selected sample is (K-1)/K times its square.
    """
    num_samples, num_classes = logits.shape
    incorrect = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels[:, None], False)
    values = logits.detach()[incorrect].view(num_samples, num_classes - 1)
    return (values - values.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()


def measure_samples(
    logits: Tensor, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor], threshold: float
) -> SampleMeasures:
    """All measures of one batch.

    Args:
        logits: ``[M, K]``, K >= 2, any floating dtype; computed in at least fp32.
        labels: int64 ``[M]`` in ``[0, K)``.
        criterion: see :func:`output_gradient_norm`.
        threshold: P, inside (0, 1).
    """
    logits = logits.detach()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    return SampleMeasures(
        label_probability=probabilities.gather(1, labels[:, None])[:, 0],
        confidence=confidence,
        correct=predicted == labels,
        overconfident=is_overconfident(logits, labels, threshold, validate=False),
        nll=F.cross_entropy(logits, labels, reduction="none"),
        gradient_norm=output_gradient_norm(logits, labels, criterion),
        ce_gradient_norm=cross_entropy_gradient_norm(logits, labels),
        logit_spread=incorrect_logit_spread(logits, labels),
    )


def calibration_sums(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> Tensor:
    """Per bin of confidence: number of samples, sum of confidences, number of correct ones.

    Returns:
        float64 ``[3, num_bins + 1]``. Bins are ``[i / num_bins, (i + 1) / num_bins)`` and one more for a confidence
        of exactly 1: torchmetrics' bins, and so those of the metric ``accuracy/ece``.
    """
    # In float64 as `ClassificationMetric` does it; softmax may round to just above 1.
    confidence = confidence.double().clamp(0, 1)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, edges, right=True) - 1
    sums = torch.zeros(3, num_bins + 1, dtype=torch.float64, device=confidence.device)
    sums[0].index_add_(0, index, torch.ones_like(confidence))
    sums[1].index_add_(0, index, confidence)
    sums[2].index_add_(0, index, correct.double())
    return sums


def expected_calibration_error(sums: Tensor) -> float:
    """ECE from :func:`calibration_sums`: 0 (confidence equals accuracy in every bin) to 1; NaN without samples.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    count, confidence, correct = sums
    return float((correct - confidence).abs().sum() / count.sum())


def sum_measures(
    measures: SampleMeasures,
    probabilities: Sequence[float],
    num_bins: int = 15,
    entropy_bits: Tensor | None = None,
) -> dict[str, Tensor]:
    """Sums over samples, float64 on the CPU; adding the sums of two sets gives those of their union.

    Args:
        measures: of any number of samples, also none.
        probabilities: the p's of Fig. 1.
        num_bins: for :func:`calibration_sums`.
        entropy_bits: :func:`grey_entropy_bits` of the same samples, or None to leave the entropies out.
    """
    values = SampleMeasures(*(value.detach().cpu().double() for value in measures))
    overconfident = values.overconfident
    above = torch.stack([(values.label_probability > p).double() for p in probabilities])  # [P, M]
    sums = {
        "num_samples": torch.tensor(float(len(values.correct)), dtype=torch.float64),
        "num_above": above.sum(dim=1),
        "calibration": calibration_sums(values.confidence, values.correct, num_bins),
        "overconfident": overconfident.sum(),
        "overconfident_logit_spread": (overconfident * values.logit_spread).sum(),
        "overconfident_gradient_norm": (overconfident * values.gradient_norm).sum(),
    }
    for name in ("correct", "confidence", "nll", "gradient_norm", "ce_gradient_norm", "logit_spread"):
        sums[name] = getattr(values, name).sum()
    if entropy_bits is not None:
        entropy = entropy_bits.detach().cpu().double()
        sums["entropy_bits"] = entropy.sum()
        sums["entropy_bits_above"] = (above * entropy).sum(dim=1)
    return sums


def summarise(sums: dict[str, Tensor], probabilities: Sequence[float]) -> dict[str, Any]:
    """The sums of a whole data set as the entry that ``dynamics.json`` holds; a mean over nothing is None.

    ``above_probability`` has one ``dict(p, num_samples, mean_entropy_bits)`` per p (Fig. 1); ``calibration`` the bins
    of :func:`calibration_sums` with means; the other names say what they are.
    """
    total = float(sums["num_samples"])
    num_overconfident = float(sums["overconfident"])
    count, confidence, correct = sums["calibration"]
    num_bins = len(count) - 1
    summary: dict[str, Any] = {
        "num_samples": int(total),
        "top1_percent": _ratio(100 * sums["correct"], total),
        "ece": expected_calibration_error(sums["calibration"]) if total else None,
        "nll": _ratio(sums["nll"], total),
        "mean_confidence": _ratio(sums["confidence"], total),
        "overconfident_fraction": _ratio(sums["overconfident"], total),
        "gradient_norm": _ratio(sums["gradient_norm"], total),
        "ce_gradient_norm": _ratio(sums["ce_gradient_norm"], total),
        "overconfident_gradient_norm": _ratio(sums["overconfident_gradient_norm"], num_overconfident),
        "logit_spread": _ratio(sums["logit_spread"], total),
        "overconfident_logit_spread": _ratio(sums["overconfident_logit_spread"], num_overconfident),
        "above_probability": [],
        "calibration": {
            "lower_edge": [i / num_bins for i in range(num_bins + 1)],
            "num_samples": [int(n) for n in count],
            "mean_confidence": [_ratio(s, float(n)) for s, n in zip(confidence, count, strict=True)],
            "accuracy": [_ratio(s, float(n)) for s, n in zip(correct, count, strict=True)],
        },
    }
    has_entropy = "entropy_bits" in sums
    if has_entropy:
        summary["mean_entropy_bits"] = _ratio(sums["entropy_bits"], total)
    for i, p in enumerate(probabilities):
        number = float(sums["num_above"][i])
        row = {"p": p, "num_samples": int(number)}
        if has_entropy:
            row["mean_entropy_bits"] = _ratio(sums["entropy_bits_above"][i], number)
        summary["above_probability"].append(row)
    return summary


def _ratio(numerator: Tensor, denominator: float) -> float | None:
    return float(numerator) / denominator if denominator else None
