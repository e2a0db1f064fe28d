"""`train --deterministic`, and `train --image-scale`."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

import sosr_det.register  # noqa: F401
from sosr_det.engine.configs import load_config
from sosr_det.engine.determinism import (
    apply_deterministic,
    deterministic_settings_restored,
    is_deterministic,
)
from sosr_det.engine.training_scale import apply_training_scale
from sosr_det.errors import ConfigError

DETECTOR = "detection/retinanet_r18-sosr-pre_fpn_4e_bccd"


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


def test_what_must_be_set_before_cuda_starts_is_set(monkeypatch):
    cfg = Config({"randomness": {"seed": 3}, "env_cfg": {"cudnn_benchmark": True}})
    apply_deterministic(cfg, False)
    import os

    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert cfg.env_cfg.cudnn_benchmark
    assert not is_deterministic(cfg)
    apply_deterministic(cfg, True)
    assert cfg.randomness == {"seed": 3, "deterministic": True}
    assert not cfg.env_cfg.cudnn_benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    apply_deterministic(Config({"randomness": {"deterministic": True}}), False)  # the config's own wish
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # the user's own choice stands


@deterministic_settings_restored()
def _put_deterministically():
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_an_operation_without_a_deterministic_kernel_is_named_and_the_switches_go_back():
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ConfigError, match=r"--deterministic: \S*put_ has no deterministic kernel"):
        _put_deterministically()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    with pytest.raises(RuntimeError, match="something else"), deterministic_settings_restored():
        raise RuntimeError("something else")


def test_a_scale_is_set_in_training_validation_and_test():
    cfg = load_config(DETECTOR)
    text = cfg.pretty_text
    assert apply_training_scale(cfg, None) is None
    assert cfg.pretty_text == text
    assert apply_training_scale(cfg, (160, 128)) == [160, 128]
    assert cfg.pretty_text.count("160") >= 3
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        scales = [step["scale"] for step in _steps(cfg[section]) if "Resize" in step["type"]]
        assert scales, section
        assert set(scales) == {(160, 128)}


def _steps(node):
    if isinstance(node, dict):
        if "type" in node:
            yield node
        for value in node.values():
            yield from _steps(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _steps(value)


@pytest.mark.parametrize(
    ("config", "scale", "said"),
    [
        (DETECTOR, (16, 160), "32 to 10000"),
        ("demo/resnet18_sosr_1xb32-6e_demo-imagenet", (64, 64), "not a Resize to one fixed scale"),
        (
            "mmdet::retinanet/retinanet_r50_fpn_ms-640-800-3x_coco",
            (640, 640),
            "RandomChoiceResize|RandomResize",
        ),
    ],
)
def test_a_scale_that_would_not_say_what_is_trained_on_is_refused(config, scale, said):
    cfg = load_config(config)
    text = cfg.pretty_text
    with pytest.raises(ConfigError, match=said):
        apply_training_scale(cfg, scale)
    assert cfg.pretty_text == text
