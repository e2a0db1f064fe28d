"""A test of a run with other settings than it was trained with is told."""

from __future__ import annotations

from pathlib import Path

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.analysis.pipeline_table import _plain_test
from sosr_det.engine.config_drift import drift, drift_line
from sosr_det.engine.configs import load_config

BCCD = "detection/retinanet_r18-sosr-pre_fpn_4e_bccd"
DEMO = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"
SCALE = "test_dataloader.dataset.pipeline.1.scale"


def found(trained_with, tested_with, config=BCCD):
    record = {"config_text": load_config(config, trained_with).pretty_text}
    return drift(record, "run.json", load_config(config, tested_with))


@pytest.mark.parametrize("config", [BCCD, DEMO, "detection/faster-rcnn_r50-sosr-pre_fpn_1x_voc0712"])
def test_the_same_config_does_not_differ(config):
    assert found([], [], config) == {}


def test_a_forgotten_override_is_named_with_both_values():
    differing = found([f"{SCALE}=160,120"], [])
    assert differing == {SCALE: ["(160, 120)", "(320, 240)"]}
    line = drift_line(differing, run_dir=Path("runs/a"))
    assert "testing with other settings than the run in runs/a" in line
    assert "(160, 120) in the run, (320, 240) here" in line
    assert found([f"{SCALE}=160,120"], [f"{SCALE}=160,120"]) == {}


def test_a_model_that_differs_is_told_and_its_weights_address_is_not():
    assert list(found(["model.test_cfg.nms_pre=10"], [])) == ["model.test_cfg.nms_pre"]
    assert found(["model.backbone.init_cfg.checkpoint=sosr://other"], []) == {}


def test_a_record_that_cannot_be_read_says_nothing():
    cfg = load_config(BCCD)
    assert drift({"config_text": "import os"}, "run.json", cfg) == {}
    assert drift({}, "run.json", cfg) == {}


def entry(**changes):
    return {
        "checkpoint": "best.pth",
        "changed_settings": None,
        "cfg_options": [],
        "config_drift": {},
        "metrics": {"voc/map_11point": 0.5},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, True),
        ({"cfg_options": [f"{SCALE}=160,120"]}, True),  # what made it the run's own
        ({"config_drift": {SCALE: ["160", "320"]}}, False),
        ({"changed_settings": {"tta": True}}, False),
        ({"cfg_options": ["test_dataloader.dataset.ann_file=x"]}, False),
        ({"checkpoint": "epoch_1.pth"}, False),
    ],
)
def test_the_table_shows_tests_with_the_runs_own_settings(changes, shown):
    record = {"best": {"checkpoint": "best.pth"}, "tests": [entry(**changes)]}
    assert bool(_plain_test(record)) is shown


def test_a_record_from_before_the_comparison_counts_without_overrides_only():
    old = entry(cfg_options=[f"{SCALE}=160,120"])
    del old["config_drift"]
    assert _plain_test({"best": None, "tests": [old]}) == {}
