"""What is refused before the first training."""

from __future__ import annotations

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.engine.compare import CompareOptions, preflight
from sosr_det.engine.compare.arms import Arm, make_arms
from sosr_det.engine.configs import find_config, load_config
from sosr_det.errors import BackboneMismatchError, ConfigError, DataError

BCCD = "detection/retinanet_r18-sosr-pre_fpn_4e_bccd"


@pytest.fixture
def data(tmp_path):
    lists = tmp_path / "data" / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name in ("train", "val", "test"):
        (lists / f"{name}.txt").write_text(f"{name}1\n")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Stands in for putting weights under a config; holds what was tried."""
    tried = []
    monkeypatch.setattr(preflight, "settle_backbone", lambda cfg, uri, allow: tried.append((uri, cfg)))
    return tried


def check(data, *, configs=(BCCD,), overrides=(), **changes):
    loaded = [(name, load_config(name, overrides)) for name in configs]
    options = CompareOptions(configs=configs, data_root=data, cfg_options=overrides, **changes)
    arms = make_arms(loaded, ["sosr://a", "sosr://b@v1"], {})
    before = {name: cfg.pretty_text for name, cfg in loaded}
    preflight.check_arms(loaded, arms, options)
    assert {name: cfg.pretty_text for name, cfg in loaded} == before
    return arms


def test_every_arms_weights_are_tried_on_what_will_be_trained(data, settled):
    arms = check(data, total_epochs=2, select_on="last", classes="RBC,WBC,Platelets")
    assert all(isinstance(arm, Arm) for arm in arms)
    assert [uri for uri, _ in settled] == [arm.weights for arm in arms]
    assert settled[0][1].train_cfg.max_epochs == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select_on": "foo"}, r"--select-on must be one of val, test, last, got 'foo'"),
        ({"classes": "RBC,RBC"}, r"--classes needs distinct"),
        ({"total_epochs": 0}, r"--total-epochs must be at least 1"),
    ],
)
def test_options_that_every_run_would_refuse(data, changes, message):
    with pytest.raises(ConfigError, match=message):
        check(data, **changes)


def test_data_that_are_not_there(data):
    with pytest.raises(DataError, match=r"--data-root is .*nowhere"):
        check(data / "nowhere")
    (data / "VOC2007" / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(
        DataError, match=r"test_dataloader lists its images in .*test.txt, which is not there"
    ):
        check(data)


def test_weights_that_do_not_fit(data, monkeypatch):
    def refuse(cfg, uri, allow):
        raise BackboneMismatchError("a ResNet-50 under a ResNet-18")

    monkeypatch.setattr(preflight, "settle_backbone", refuse)
    with pytest.raises(BackboneMismatchError, match="ResNet-50"):
        check(data)


def test_twins_are_tested_on_the_same_images(data, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        f"_base_ = {str(find_config(BCCD))!r}\n"
        "test_dataloader = dict(dataset=dict(ann_file='VOC2007/ImageSets/Main/val.txt'))\n"
    )
    with pytest.raises(ConfigError, match="are tested on different data"):
        check(data, configs=(BCCD, str(other)))
    same = tmp_path / "same.py"
    same.write_text(f"_base_ = {str(find_config(BCCD))!r}\n")
    check(data, configs=(BCCD, str(same)))
