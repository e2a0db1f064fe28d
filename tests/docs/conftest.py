"""What the tests of the docs pages share: the pages' own code, readable images, a slow reference, a logit recorder."""

from __future__ import annotations

import math
import re
import types
from pathlib import Path

import pytest
import torch
from torch import nn

DOCS = Path(__file__).resolve().parents[2] / "docs"
NUM_CLASSES = 6


def python_code(page: Path) -> str:
    """The page's ```python blocks, all other lines blanked, so that a traceback names the page's own line."""
    code, inside = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        code.append(line if inside else "")
    return "\n".join(code) + "\n"


@pytest.fixture
def run_page():
    """``run_page("pytorch")`` executes the page's code, word for word, and returns its names."""

    def run(name: str) -> types.SimpleNamespace:
        page = DOCS / "anywhere" / f"{name}.md"
        names = {"__name__": f"docs_{name}"}
        exec(compile(python_code(page), str(page), "exec"), names)
        return types.SimpleNamespace(**names)

    return run


@pytest.fixture
def readable_images():
    """Images [M, K, 8, 8] and labels [M]: class k is 1 in channel k and 0 elsewhere.

    The mean of a channel is therefore the share of that class in the image, after CutMix as after MixUp: the right
    target can be read off the model's input, whatever the code under test did with the labels.
    """
    labels = torch.arange(48) % NUM_CLASSES
    labels = labels[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    images = torch.zeros(48, NUM_CLASSES, 8, 8)
    images[torch.arange(48), labels] = 1.0
    return images, labels


def shares_in(images: torch.Tensor) -> torch.Tensor:
    """Share of each class in readable images, ``[M, K]``."""
    return images.double().mean(dim=(2, 3))


def small_network(confident: bool = False) -> nn.Module:
    """Images [M, K, H, W] -> logits [M, K]; no batch norm, so a batch may be cut in parts.

    ``confident``: linear, right and over-confident from the start, on mixed images too, and the logits of the other
    classes differ.
    """
    if not confident:
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(NUM_CLASSES, 64),
            nn.ReLU(),
            nn.Linear(64, NUM_CLASSES),
        )
    linear = nn.Linear(NUM_CLASSES, NUM_CLASSES)
    with torch.no_grad():
        linear.weight += 16 * torch.eye(NUM_CLASSES)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


class Recorder:
    """Inputs and logits of a model, for every forward pass in training mode."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []
        model.register_forward_hook(self._record, with_kwargs=True)

    def _record(self, model, inputs, keyword_inputs, output):
        if model.training:
            images = inputs[0] if inputs else next(iter(keyword_inputs.values()))
            logits = getattr(output, "logits", output)
            self.calls.append((images.detach().clone(), logits.detach().double().clone()))


def reference_terms(logits, shares, threshold=0.99, weight=0.5, smoothing=0.0) -> dict[str, float]:
    """The terms of the loss, sample by sample in Python floats, from what is really in each image."""
    num_samples, num_classes = logits.shape
    cross_entropy = penalty = overconfident = 0.0
    for row, share in zip(logits.tolist(), shares.tolist(), strict=True):
        normaliser = max(row) + math.log(sum(math.exp(value - max(row)) for value in row))
        label = [(1 - smoothing) * s + smoothing / num_classes for s in share]
        cross_entropy += sum(p * (normaliser - value) for p, value in zip(label, row, strict=True))
        expected = [k for k in range(num_classes) if share[k] > 0]
        if sum(math.exp(row[k] - normaliser) for k in expected) > threshold:
            overconfident += 1
            others = [row[k] for k in range(num_classes) if k not in expected]
            mean = sum(others) / len(others)
            penalty += sum((value - mean) ** 2 for value in others)
    return {
        "loss_base": cross_entropy / num_samples,
        "loss_sosr": weight * penalty / (num_samples * num_classes),
        "overconfident_fraction": overconfident / num_samples,
    }


def assert_terms(logged: dict, logits, shares, rel=2e-4, **arguments) -> None:
    """What was logged is the loss of these logits on what is in the images."""
    for name, value in reference_terms(logits, shares, **arguments).items():
        assert float(logged[name]) == pytest.approx(value, rel=rel, abs=2e-6), name


def assert_run(logs: list[dict], calls, mixes: bool, rel=2e-4, **arguments) -> None:
    """Every step of a run logged the loss of what was in its images; penalised mixes came by where ``mixes``."""
    steps, penalised_mixes, noticed, noticed_exchange = 0, 0, 0, 0
    for log, (images, logits) in zip(logs, calls, strict=True):
        shares = shares_in(images)
        assert_terms(log, logits, shares, rel, **arguments)
        mixed = bool(((shares > 1e-3) & (shares < 1 - 1e-3)).any())
        penalised_mixes += mixed and log["loss_sosr"] > 0
        # Negative controls: a target of other images, and the right labels with exchanged shares, are noticed.
        wrong = reference_terms(logits, shares.roll(1, dims=0), **arguments)
        noticed += wrong["loss_base"] != pytest.approx(float(log["loss_base"]), rel=10 * rel)
        exchanged = torch.where(shares > 0, shares.sum(1, keepdim=True) - shares, 0.0)
        exchanged = torch.where(shares == 1, 1.0, exchanged)
        wrong = reference_terms(logits, exchanged, **arguments)
        noticed_exchange += mixed and wrong["loss_base"] != pytest.approx(
            float(log["loss_base"]), rel=10 * rel
        )
        steps += 1
    assert noticed > 0.8 * steps
    assert any(log["loss_sosr"] > 0 for log in logs)
    assert (penalised_mixes > 0) is mixes
    assert (noticed_exchange > 0) is mixes


@pytest.fixture
def checks():
    """The helpers above (test folders are no packages)."""
    return types.SimpleNamespace(
        Recorder=Recorder,
        assert_run=assert_run,
        assert_terms=assert_terms,
        num_classes=NUM_CLASSES,
        python_code=python_code,
        reference_terms=reference_terms,
        shares_in=shares_in,
        small_network=small_network,
        docs=DOCS,
        links=re.compile(r"\]\(([^)#\s]+)\)"),
    )
