"""The policy for unreadable images in a run: options, the hook's lines, and its count over a resumption."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub

import sosr_det.register  # noqa: F401
from sosr_det.data.unreadable import SkipUnreadable
from sosr_det.engine.bad_images import apply_bad_image_policy
from sosr_det.engine.hooks.unreadable_images import KEY, UnreadableImagesHook
from sosr_det.engine.training_keys import changes_training
from sosr_det.errors import ConfigError, DataError, UnreadableImageError


class Broken:
    """Images 2 and 5 of 8 cannot be read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index in (2, 5):
            raise UnreadableImageError(f"image {self.sample_name(index)} is missing")
        return index

    def sample_name(self, index: int) -> str:
        return f"data/{index}.jpg"


def runner(dataset, name: str, info: dict | None = None) -> SimpleNamespace:
    hub = MessageHub(name)
    hub.load_state_dict({"log_scalars": {}, "runtime_info": info or {}, "resumed_keys": {}})
    return SimpleNamespace(train_dataloader=SimpleNamespace(dataset=dataset), message_hub=hub)


def test_each_image_is_told_once_and_the_count_survives_a_resumption(caplog):
    caplog.set_level(logging.WARNING, "sosr_det")
    data = SkipUnreadable(Broken(), most=2)
    first, hook = runner(data, "first"), UnreadableImagesHook(interval=2)
    hook.before_train(first)
    assert [data[index] for index in (1, 2, 3)] == [1, 3, 3]
    hook.after_train_iter(first, 0)
    assert not caplog.messages
    for step in (1, 3):
        hook.after_train_iter(first, step)
    assert len(caplog.messages) == 1
    assert "data/2.jpg (1 of at most 2)" in caplog.messages[0]
    kept = first.message_hub.state_dict()["runtime_info"]
    assert kept[KEY] == {"count": 1, "most": 2, "indices": [2], "paths": ["data/2.jpg"]}
    caplog.clear()
    again = SkipUnreadable(Broken(), most=2)
    resumed, hook = runner(again, "resumed", {KEY: kept[KEY]}), UnreadableImagesHook()
    hook.before_train(resumed)
    assert again[2] == 3
    assert again[5] == 6
    hook.after_train_epoch(resumed)
    assert ["data/5.jpg (2 of at most 2)" in message for message in caplog.messages] == [True]
    assert resumed.message_hub.runtime_info[KEY]["paths"] == ["data/2.jpg", "data/5.jpg"]


def test_the_limit_holds_for_the_earlier_part_and_for_all_processes(monkeypatch):
    data = SkipUnreadable(Broken(), most=1)
    hook = UnreadableImagesHook()
    hook.before_train(runner(data, "earlier", {KEY: {"indices": [2, 99]}}))
    with pytest.raises(DataError, match="2 images are unreadable, and at most 1 may be"):
        data[5]
    data = SkipUnreadable(Broken(), most=1)
    hook = UnreadableImagesHook()
    other = runner(data, "other")
    hook.before_train(other)
    assert data[2] == 3
    monkeypatch.setattr("sosr_det.engine.hooks.unreadable_images.all_gather_object", lambda mine: [mine, [5]])
    with pytest.raises(DataError, match="2 images are unreadable, and at most 1 may be"):
        hook.after_train_epoch(other)


def test_without_the_policy_the_hook_does_nothing():
    hook, plain = UnreadableImagesHook(), runner(Broken(), "plain")
    hook.before_train(plain)
    hook.after_train_iter(plain, 9)
    hook.after_train_epoch(plain)
    assert KEY not in plain.message_hub.runtime_info


@pytest.mark.parametrize(
    ("config", "policy", "most", "expected"),
    [
        ({}, None, None, None),
        ({}, "error", None, None),
        ({}, "skip", None, {"policy": "skip", "most": 10}),
        ({}, "skip", 0, {"policy": "skip", "most": 0}),
        ({"policy": "skip", "most": 3}, None, None, {"policy": "skip", "most": 3}),
        ({"policy": "skip", "most": 3}, None, 4, {"policy": "skip", "most": 4}),
        ({"policy": "skip", "most": 3}, "error", None, None),
    ],
)
def test_options_and_config(config, policy, most, expected):
    cfg = Config({"unreadable_images": config} if config else {})
    apply_bad_image_policy(cfg, policy, most)
    assert cfg.get("unreadable_images") == expected
    assert [hook.type for hook in cfg.get("custom_hooks") or []] == ["UnreadableImagesHook"] * (
        expected is not None
    )


@pytest.mark.parametrize(
    ("config", "policy", "most", "message"),
    [
        ({}, "ignore", None, "is 'error' or 'skip', got 'ignore'"),
        ({}, None, 3, "goes with --on-bad-image skip"),
        ({"policy": "skip", "most": -1}, None, None, "at least 0, got -1"),
        ({"policy": "skip", "limit": 3}, None, None, "limit"),
    ],
)
def test_mistakes(config, policy, most, message):
    with pytest.raises(ConfigError, match=message):
        apply_bad_image_policy(Config({"unreadable_images": config}), policy, most)


def test_a_run_that_stopped_may_be_resumed_with_skipping():
    assert not changes_training(["unreadable_images", "policy"])
    assert not changes_training(["custom_hooks", "UnreadableImagesHook"])
