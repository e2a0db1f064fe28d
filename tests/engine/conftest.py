"""A small drawn data set and one published backbone, shared by the stage tests."""

from __future__ import annotations

import os

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.data.demo import DemoSize, generate_demo_data
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    size = DemoSize(
        imagenet_train_per_class=4,
        imagenet_val_per_class=2,
        cub_train_per_class=3,
        cub_test_per_class=1,
        voc2007_trainval=20,
        voc2007_test=20,
        voc2012_trainval=20,
    )
    return generate_demo_data(tmp_path_factory.mktemp("demo") / "data", size=size)


@pytest.fixture(scope="session")
def pretrained(demo, tmp_path_factory):
    """(registry root, work directory) of a two-epoch SOSR pretraining that published `resnet18-demo-sosr`."""
    root = tmp_path_factory.mktemp("pretrained")
    before = os.environ.get("SOSR_REGISTRY")
    work_dir = run_training(
        TrainOptions(
            "demo/resnet18_sosr_1xb32-6e_demo-imagenet",
            work_dir=root / "run",
            data_root=demo.imagenet,
            registry=root / "registry",
            total_epochs=2,
            cfg_options=["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"],
        )
    )
    if before is None:
        os.environ.pop("SOSR_REGISTRY", None)
    return root / "registry", work_dir


@pytest.fixture
def registry(pretrained, monkeypatch):
    """The registry of `pretrained` as the one in use."""
    monkeypatch.setenv("SOSR_REGISTRY", str(pretrained[0]))
    return pretrained[0]
