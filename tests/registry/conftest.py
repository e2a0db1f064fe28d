"""Fixtures for the registry's tests: a tiny state dict, manifest fields, a registry, a listing of its files."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sosr_det.registry.store import Registry


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """One tensor of every kind that a ResNet's state dict holds, and some more."""
    generator = torch.Generator().manual_seed(0)
    return {
        "conv1.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn1.running_var": torch.rand(4, generator=generator),
        "bn1.num_batches_tracked": torch.tensor(7),
        "half": torch.randn(5, generator=generator).half(),
        "brain": torch.randn(3, generator=generator).bfloat16(),
        "mask": torch.tensor([True, False, True]),
        "none": torch.empty(0, 3),
    }


@pytest.fixture
def fields() -> dict[str, Any]:
    """What a publisher says about an entry."""
    return {
        "arch": {
            "name": "resnet50",
            "library": "torchvision",
            "style": "pytorch",
            "stem": "7x7/2+maxpool",
            "feature_channels": [256, 512, 1024, 2048],
        },
        "preprocessing": {
            "channel_order": "rgb",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "scale": "0-255",
            "interpolation": "bilinear",
            "input_size": [224, 224],
        },
        "classes": ["tench", "crane", "crane"],
        "metrics": {"top1": 76.13, "ece": 0.037},
        "recipe": {"config_name": "resnet50_sosr_8xb32-90e_in1k", "config_text": "loss = 'sosr'\n"},
        "data": {"name": "imagenet-1k", "fingerprint": "abc", "num_images": 1281167},
        "seed": 3,
        "license": "Apache-2.0",
        "created": "2026-11-22T17:05:00Z",
        "library_versions": {"torch": "2.14.1"},
    }


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry in a folder that does not exist yet."""
    return Registry(tmp_path / "registry")


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, str]]:
    """``snapshot(root)``: SHA-256 of every file below it by relative path, without locks."""

    def take(root: Path) -> dict[str, str]:
        files = [path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts]
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return take
