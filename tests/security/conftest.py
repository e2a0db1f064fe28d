"""Hostile files that leave a mark when anything in them is run, in every form that a checkpoint can have."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

TINY_CONFIG = """
default_scope = "mmengine"
custom_imports = dict(imports=["sosr_det.register"], allow_failed_imports=False)
stage = "pretrain"
data_root = "{root}"
model = dict(
    type="BackboneClassifier",
    backbone=dict(arch="resnet20"),
    num_classes=2,
    loss=dict(type="SOSRLoss"),
    data_preprocessor=dict(type="ClassificationPreprocessor", mean=[127.5] * 3, std=[60.0] * 3),
)
loader = dict(batch_size=4, num_workers=0, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="ImageNetFolder", data_root=data_root, split="train", pipeline=[]),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ImageNetFolder", data_root=data_root, split="val", pipeline=[]),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type="ClassificationMetric", topk=(1,))
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.02, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = test_cfg = dict()
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1, save_best="accuracy/top1"))
randomness = dict(seed=3)
"""


class Bomb:
    """Unpickling it makes the canary's folder: a mark that nothing else makes."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


class NestedBomb(Bomb):
    """Asks torch for a tensor's storage, which it reads from bytes that are a pickle of their own."""

    def __reduce__(self):
        return (torch.storage._load_from_bytes, (pickle.dumps(Bomb(self.mark)),))


class ExecBomb(Bomb):
    def __reduce__(self):
        return (exec, (f"import os; os.mkdir({self.mark!r})",))


@dataclass
class Canary:
    """``mark`` exists once hostile code has run."""

    mark: Path

    @property
    def touched(self) -> bool:
        return self.mark.exists()

    def bomb(self) -> Bomb:
        return Bomb(self.mark)


def _legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _raw(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def _tar(content: Any, path: Path) -> None:
    """The format of torch before 0.1.10, as far as its reader comes."""
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _tensors() -> dict[str, Any]:
    return OrderedDict(
        {"backbone.conv1.weight": torch.ones(2, 3, 1, 1), "backbone.fc.weight": torch.ones(2, 2)}
    )


def _checkpoint(**changes: Any) -> dict[str, Any]:
    """As a training run leaves it."""
    return {
        "meta": {"epoch": 1, "iter": 2},
        "state_dict": _tensors(),
        "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
    } | changes


# name -> (file name, writer, what is written for a bomb)
FORMS: dict[str, tuple[str, Callable[[Any, Path], None], Callable[[Any], Any]]] = {
    "whole zip": ("a.pth", torch.save, lambda bomb: bomb),
    "whole legacy": ("a.pth", _legacy, lambda bomb: bomb),
    "whole pickle": ("a.pth", _raw, lambda bomb: bomb),
    "pickle .pkl": ("a.pkl", _raw, lambda bomb: bomb),
    "tar": ("a.pth", _tar, lambda bomb: bomb),
    "in the state dict": (
        "a.pth",
        torch.save,
        lambda bomb: _checkpoint(state_dict=_tensors() | {"backbone.x": {"y": [bomb]}}),
    ),
    "as a tensor's name": ("a.pth", torch.save, lambda bomb: _checkpoint(state_dict={bomb: torch.ones(1)})),
    "in meta": ("a.pth", torch.save, lambda bomb: _checkpoint(meta={"epoch": 1, "iter": 2, "x": bomb})),
    "in meta, legacy": ("a.pth", _legacy, lambda bomb: _checkpoint(meta={"epoch": 1, "iter": 2, "x": bomb})),
    "in the message hub": (
        "a.pth",
        torch.save,
        lambda bomb: _checkpoint(
            message_hub={"log_scalars": {"loss": bomb}, "runtime_info": {}, "resumed_keys": {}}
        ),
    ),
    "in the optimizer": (
        "a.pth",
        torch.save,
        lambda bomb: _checkpoint(optimizer={"state": {0: {"momentum_buffer": bomb}}, "param_groups": []}),
    ),
    "named .safetensors": ("a.safetensors", torch.save, lambda bomb: _checkpoint(meta=bomb)),
    "object array": (
        "a.pth",
        torch.save,
        lambda bomb: _checkpoint(meta={"x": np.array([bomb], dtype=object)}),
    ),
    "storage in a storage": (
        "a.pth",
        torch.save,
        lambda bomb: _checkpoint(meta=NestedBomb(Path(bomb.mark))),
    ),
    "exec": ("a.pth", torch.save, lambda bomb: _checkpoint(meta=ExecBomb(Path(bomb.mark)))),
}
# Forms for the entries that all end in the same reader: one of each of its branches.
FEW_FORMS = ("in meta", "whole legacy", "named .safetensors")


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary")


@pytest.fixture
def hostile(canary: Canary) -> Callable[..., Path]:
    """``hostile(form, folder, name=None)`` writes a hostile file and returns its path."""

    def write(form: str, folder: Path, name: str | None = None) -> Path:
        file, save, content = FORMS[form]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (name or file)
        save(content(canary.bomb()), path)
        assert not canary.touched
        return path

    return write


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with an argument ``form`` run for all forms, with ``few_forms`` for one of each kind."""
    if "form" in metafunc.fixturenames:
        metafunc.parametrize("form", list(FORMS))
    if "few_form" in metafunc.fixturenames:
        metafunc.parametrize("few_form", FEW_FORMS)


@pytest.fixture
def manifest_fields() -> dict[str, Any]:
    """What a publisher says about an entry, all of it harmless."""
    return {
        "arch": {
            "name": "resnet18",
            "library": "torchvision",
            "style": None,
            "stem": "7x7/2+maxpool",
            "feature_channels": [64, 128, 256, 512],
        },
        "preprocessing": {
            "channel_order": "rgb",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "scale": "0-255",
            "interpolation": "bilinear",
            "input_size": [224, 224],
        },
        "classes": ["tench", "crane"],
        "metrics": {"top1": 70.5},
        "recipe": {"config_name": "tiny", "config_text": "loss = 'sosr'\n"},
        "data": {"name": "imagenet-1k", "fingerprint": "abc"},
        "seed": 3,
        "license": "Apache-2.0",
        "created": "2026-11-22T17:05:00Z",
        "library_versions": {"torch": "2.14.1"},
        "notes": "",
    }


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen noise images of two classes in ``data``, and ``tiny.py``, a config that trains on them in seconds."""
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            (folder / "data" / split / label).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "data" / split / label / f"{number}.png")
    (folder / "tiny.py").write_text(TINY_CONFIG.format(root=folder / "data"))
    return folder
