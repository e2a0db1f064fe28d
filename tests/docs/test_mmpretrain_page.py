"""docs/anywhere/mmpretrain.md: its config, word for word, under a small one that swaps network and data."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import Dataset

pytest.importorskip(
    "mmpretrain", reason="mmpretrain is not installed (onedl-mmpretrain, see docs/anywhere/mmpretrain.md)"
)
try:
    import mmpretrain.models  # noqa: F401
except Exception as error:  # 1.3.6 raises TypeError beside transformers 5
    pytest.skip(f"mmpretrain does not import here: {error!r}", allow_module_level=True)

from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample

SMALL = """
_base_ = "page.py"
num_classes = {num_classes}
model = dict(
    backbone=dict(depth=18, in_channels=num_classes, base_channels=8, stem_channels=8),
    head=dict(num_classes=num_classes, in_channels=64, topk=(1,)),
)
data_preprocessor = dict(
    _delete_=True, num_classes=num_classes, mean=[0.0] * num_classes, std=[1.0] * num_classes, to_rgb=False
)
train_dataloader = dict(
    batch_size=24, num_workers=0, persistent_workers=False, pin_memory=False,
    dataset=dict(_delete_=True, type="ReadableImages"),
)
val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = None
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=1000)
default_hooks = dict(logger=dict(interval=1), checkpoint=None)
log_processor = dict(window_size=1)
randomness = dict(seed=0)
"""


@pytest.fixture
def readable_dataset(readable_images):
    images, labels = readable_images

    @DATASETS.register_module(name="ReadableImages", force=True)
    class ReadableImages(Dataset):
        def __len__(self):
            return len(labels)

        def __getitem__(self, index):
            return {"inputs": images[index], "data_samples": DataSample().set_gt_label(int(labels[index]))}

    yield
    DATASETS.module_dict.pop("ReadableImages")


@pytest.mark.parametrize("mixing", [True, False], ids=["cutmix_mixup", "labels"])
def test_a_runner_trains_with_the_pages_config(checks, readable_dataset, tmp_path, mixing):
    (tmp_path / "page.py").write_text(checks.python_code(checks.docs / "anywhere" / "mmpretrain.md"))
    (tmp_path / "small.py").write_text(SMALL.format(num_classes=checks.num_classes))
    config = Config.fromfile(tmp_path / "small.py")
    if not mixing:
        config.model.train_cfg = None
    config.work_dir = str(tmp_path / "run")
    runner = Runner.from_cfg(config)
    inputs, logits = [], []
    runner.model.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    runner.model.head.fc.register_forward_hook(
        lambda _, args, output: logits.append(output.detach().double())
    )
    runner.train()

    (scalars,) = (tmp_path / "run").rglob("scalars.json")
    logs = [json.loads(line) for line in scalars.read_text().splitlines()]
    checks.assert_run(logs, list(zip(inputs, logits, strict=True)), mixes=mixing)
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_base"] + log["loss_sosr"], rel=1e-5)
    losses = [log["loss"] for log in logs]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
