"""Batches for the loss tests, and the slow, literal reference that they are held against."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

KINDS = ("indices", "mixed", "mixed per sample", "soft", "smoothed")


class Case:
    """Makes batches: about half of the samples are over-confident, some are confidently wrong, some unsure."""

    @staticmethod
    def make(kind: str, num_samples: int = 12, num_classes: int = 7, seed: int = 0, dtype=torch.float64):
        """Logits and a target of one kind."""
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)
        y_a = torch.randint(num_classes, (num_samples,), generator=generator)
        y_b = y_a.roll(1)
        for row in range(num_samples):
            if row % 2 == 0:
                logits[row, y_a[row]] += 12
                if kind != "indices":
                    logits[row, y_b[row]] += 11
            elif row % 3 == 0:
                logits[row, (y_a[row] + 1) % num_classes] += 12
        lam: float | Tensor = 0.3
        if kind == "mixed per sample":
            lam = torch.rand(num_samples, generator=generator, dtype=torch.float64)
            lam[::5], lam[1::5] = 1.0, 0.0  # nothing mixed in, and nothing left
        if kind == "indices":
            return logits.to(dtype), y_a
        if kind.startswith("mixed"):
            return logits.to(dtype), (y_a, y_b, lam)
        one_a, one_b = (torch.nn.functional.one_hot(y, num_classes).double() for y in (y_a, y_b))
        soft = lam * one_a + (1 - lam) * one_b
        return logits.to(dtype), soft if kind == "soft" else 0.9 * soft + 0.1 / num_classes


class Reference:
    """Sections 2.2 and 3.2 of the paper sample by sample, as one would write them down from the text."""

    @staticmethod
    def labels(target, row: int) -> list[int]:
        """The distinct expected classes of one sample."""
        if isinstance(target, tuple):
            y_a, y_b, lam = target
            lam = float(lam[row]) if isinstance(lam, Tensor) and lam.dim() else float(lam)
            named = ([int(y_a[row])] if lam > 0 else []) + ([int(y_b[row])] if lam < 1 else [])
            return sorted(set(named))
        if target.is_floating_point():
            values = target[row].tolist()
            level = 0.0 if len(values) == 2 else min(values)
            return [k for k, value in enumerate(values) if value > level]
        return [int(target[row])]

    @classmethod
    def selected(cls, logits: Tensor, target, threshold: float) -> list[bool]:
        """Which samples are over-confident."""
        found = []
        for row in range(logits.shape[0]):
            labels, probabilities = cls.labels(target, row), torch.softmax(logits[row].detach(), dim=0)
            if len(labels) == 1:
                right = int(probabilities.argmax()) == labels[0]
                found.append(right and float(probabilities.max()) > threshold)
            else:
                found.append(sum(float(probabilities[k]) for k in labels) > threshold)
        return found

    @classmethod
    def penalty(cls, logits: Tensor, target, threshold: float, *, detach: bool) -> Tensor:
        """``sum((O~ - O)^2) / (M K)``, with the desired output O~ cut off from the graph or not."""
        num_samples, num_classes = logits.shape
        total = logits.new_zeros(())
        for row, is_selected in enumerate(cls.selected(logits, target, threshold)):
            incorrect = [k for k in range(num_classes) if k not in cls.labels(target, row)]
            if not is_selected or not incorrect:
                continue
            mean = sum(logits[row, k] for k in incorrect) / len(incorrect)
            mean = mean.detach() if detach else mean
            total = total + sum((mean - logits[row, k]) ** 2 for k in incorrect)
        return total / (num_samples * num_classes)


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    """Each kind of target in turn."""
    return request.param


@pytest.fixture(scope="session")
def make_case():
    """The function that makes a batch; see :class:`Case`."""
    return Case.make


@pytest.fixture(scope="session")
def reference() -> type[Reference]:
    """The literal reference."""
    return Reference
