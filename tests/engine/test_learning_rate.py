"""The line about the effective batch of configs that do not say which batch their rate is for."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from sosr_det.engine.configs import load_config
from sosr_det.engine.learning_rate import effective_batch_line


@pytest.mark.parametrize(
    ("world_size", "wrapper", "line"),
    [
        (
            8, {"optimizer": {"lr": 0.1}, "accumulative_counts": 2},
            "8 x 32 x 2 accumulated = 512 images an update; lr 0.1, whatever the batch: the config does not say which "
            "one it is for",
        ),
        (1, {}, "1 x 32 = 32 images an update"),
    ],
)  # fmt: skip
def test_what_an_update_is_made_of(world_size, wrapper, line):
    cfg = Config({"train_dataloader": {"batch_size": 32}, "optim_wrapper": wrapper})
    assert effective_batch_line(cfg, world_size) == line


def test_no_line_without_a_batch():
    assert effective_batch_line(Config({}), 1) is None


def test_a_shipped_config_without_a_base_batch_has_its_line():
    cfg = load_config("finetune/resnet50-ce-pre_ce_1xb32-95e_cub200")
    assert effective_batch_line(cfg, 4).startswith("4 x 32 = 128 images an update; lr 0.")
