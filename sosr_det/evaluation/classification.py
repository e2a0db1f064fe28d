"""Top-k accuracy, calibration error and likelihood of a classifier, as an mmengine metric."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from sosr_det.evaluation.saved_predictions import Predictions, write_predictions

# How far a sample's probabilities may be from a sum of 1: allows half precision, not logits.
_SUM_TOLERANCE = 1e-2
# -log of this stands in for an infinite loss, where float32 softmax gave the label a probability of 0.
_SMALLEST_PROBABILITY = torch.finfo(torch.float32).tiny


class _Sample(NamedTuple):
    """What is kept of one sample, so that 50,000 x 1,000 scores need not be."""

    rank: int  # classes before the label in descending order of score
    confidence: float  # highest probability
    label_probability: float
    num_classes: int
    label: int
    predicted: int  # the highest-scored class, the lowest of equal ones


@METRICS.register_module()
class ClassificationMetric(BaseMetric):
    """Top-k accuracy, expected calibration error (ECE) and negative log-likelihood.

    Data samples are mappings or objects with ``scores`` (softmax probabilities, tensor [K], K >= 2) and ``label``
    (int, 0 <= label < K).

    Metrics, under the prefix ``accuracy``:

    - ``top<k>`` for each k of ``topk`` that is not larger than K: percent, 0 (never) to 100 (always) of samples
      whose label is among the k highest scores. Equal scores rank by class index, lower first, as
      ``torch.argmax`` on the CPU and a stable sort do; ``torch.topk`` leaves their order undefined;
    - ``ece``: fraction, 0 (confidence equals accuracy in each bin) to 1. Mean over ``num_bins`` equal-width bins of
      confidence of |accuracy - mean confidence|, weighted by the samples in the bin (Guo et al., "On Calibration of
      Modern Neural Networks", ICML 2017, equation 3), of the highest-scored class. Computed by torchmetrics, whose
      bins are ``[a, b)`` with one more for a confidence of exactly 1;
    - ``nll``: mean of -log(probability of the label), in nats, 0 and up;
    - ``num_samples``.

    Args:
        topk: The k's, each at least 1.
        num_bins: Number of bins for ECE, at least 1.
        collect_device: ``'cpu'`` or ``'gpu'``, where distributed runs gather the results.
        prefix: Prefix of the metrics' names, ``'accuracy'`` if None.
        collect_dir: Folder that all ranks share, for gathering with ``collect_device='cpu'``.
        save_to: File for what was predicted for each image, see :mod:`sosr_det.evaluation.saved_predictions`; rank 0
            writes it. None: no file.

    Raises:
        ValueError: For an unusable option; while evaluating, for scores that are not probabilities (NaN, outside
            0..1, sum not 1), a label out of range, samples with different numbers of classes, or no samples.
    """

    default_prefix = "accuracy"

    def __init__(
        self,
        topk: Sequence[int] = (1, 5),
        num_bins: int = 15,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
        save_to: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if isinstance(topk, int) or not topk or any(not isinstance(k, int) or k < 1 for k in topk):
            raise ValueError(f"topk must be a sequence of whole numbers of at least 1, got {topk!r}")
        if not isinstance(num_bins, int) or num_bins < 1:
            raise ValueError(f"num_bins must be a whole number of at least 1, got {num_bins!r}")
        self.topk = tuple(topk)
        self.num_bins = num_bins
        self.save_to = save_to
        # One name per image of the data set, from whoever knows it; a metric is not told.
        self.image_names: Sequence[str] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Reduce each sample to four numbers; ``data_batch`` is not used."""
        if not data_samples:
            return
        rows = [_field(sample, "scores") for sample in data_samples]
        shapes = sorted({tuple(row.shape) for row in rows})
        if len(shapes) > 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
            raise ValueError(f"scores must have shape [K], K >= 2, the same in every sample; got {shapes}")
        # One transfer per batch; float64 keeps the order and the ties of any lower precision.
        scores = torch.stack(rows).detach().cpu().double()
        labels = torch.tensor([int(_field(sample, "label")) for sample in data_samples])
        num_classes = scores.shape[1]
        _check(scores, labels)

        label_scores = scores.gather(1, labels[:, None])
        lower_index = torch.arange(num_classes) < labels[:, None]
        ranks = ((scores > label_scores) | ((scores == label_scores) & lower_index)).sum(dim=1)
        highest, predicted = scores.amax(dim=1), scores.argmax(dim=1)  # on the CPU the first of equals
        columns = (ranks, highest, label_scores[:, 0], labels, predicted)
        self.results.extend(
            _Sample(rank, confidence, probability, num_classes, label, best)
            for rank, confidence, probability, label, best in zip(
                *(column.tolist() for column in columns), strict=True
            )
        )

    def compute_metrics(self, results: list[Sequence[float]]) -> dict[str, float | int]:
        """Metrics of the whole data set from what :meth:`process` kept."""
        # Here, because it brings SciPy and Matplotlib: a second of every process that only registers this metric.
        from torchmetrics.functional.classification import binary_calibration_error

        if not results:
            raise ValueError(f"{type(self).__name__} has no samples to evaluate")
        # mmengine's gathering turns the named tuples into plain ones.
        samples = [_Sample(*result) for result in results]
        class_counts = sorted({sample.num_classes for sample in samples})
        if len(class_counts) > 1:
            raise ValueError(f"samples have different numbers of classes: {class_counts}")
        ranks = torch.tensor([sample.rank for sample in samples])
        # Softmax may round to just above 1, and torchmetrics then takes all values for logits.
        confidences = torch.tensor([sample.confidence for sample in samples], dtype=torch.float64).clamp(0, 1)
        correct = (ranks == 0).long()

        metrics: dict[str, float | int] = {
            f"top{k}": 100.0 * int((ranks < k).sum()) / len(samples)
            for k in self.topk
            if k <= class_counts[0]
        }
        metrics["ece"] = float(
            binary_calibration_error(confidences, correct, n_bins=self.num_bins, norm="l1")
        )
        metrics["nll"] = self._negative_log_likelihood(samples)
        metrics["num_samples"] = len(samples)
        if self.save_to is not None:
            self._save(samples)
        return metrics

    def _save(self, samples: list[_Sample]) -> None:
        names = self.image_names or [str(number) for number in range(len(samples))]
        if len(names) != len(samples):
            raise ValueError(f"{len(samples)} of the data set's {len(names)} images were evaluated")
        write_predictions(
            self.save_to,
            Predictions(
                names,
                list((self.dataset_meta or {}).get("classes") or ()),
                [sample.label for sample in samples],
                [sample.predicted for sample in samples],
            ),
        )

    def _negative_log_likelihood(self, samples: list[_Sample]) -> float:
        num_zero = sum(sample.label_probability < _SMALLEST_PROBABILITY for sample in samples)
        if num_zero:
            print_log(
                f"{type(self).__name__}: {num_zero} of {len(samples)} samples give their label a probability below "
                f"{_SMALLEST_PROBABILITY:.3g}; each counts as {-math.log(_SMALLEST_PROBABILITY):.1f} in nll, "
                "which is then a lower bound",
                logger="current",
                level=logging.WARNING,
            )
        losses = [
            -math.log(min(max(sample.label_probability, _SMALLEST_PROBABILITY), 1.0)) for sample in samples
        ]
        return math.fsum(losses) / len(losses)


def _field(sample: Any, name: str) -> Any:
    return sample[name] if isinstance(sample, Mapping) else getattr(sample, name)


def _check(scores: Tensor, labels: Tensor) -> None:
    """Probabilities [M, K] and labels [M], or a ValueError naming the first sample that has none."""
    sums = scores.sum(dim=1)
    in_range = ((scores >= 0) & (scores <= 1 + _SUM_TOLERANCE)).all(dim=1)  # False for NaN
    bad = ~(in_range & ((sums - 1).abs() <= _SUM_TOLERANCE))
    if bad.any():
        i = int(bad.nonzero()[0, 0])
        low, high = scores[i].min().item(), scores[i].max().item()
        raise ValueError(
            f"scores must be softmax probabilities: sample {i} of the batch has values from {low:.6g} to {high:.6g} "
            f"with the sum {sums[i].item():.6g}"
        )
    bad = (labels < 0) | (labels >= scores.shape[1])
    if bad.any():
        i = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"label {int(labels[i])} of sample {i} of the batch is not in 0..{scores.shape[1] - 1}"
        )
