"""The engine learns what a bare PyTorch loop learns, bit for bit: its hooks, logs and schedules change no number."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

import sosr_det.register  # noqa: F401
from sosr_det.engine.configs import load_config
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.losses import SOSRLoss
from sosr_det.models import build_backbone

EPOCHS, STEPS, BATCH, CLASSES = 2, 6, 4, 5
LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
seen = {}


@DATASETS.register_module(force=True)
class NoiseForEngineTest(torch.utils.data.Dataset):
    metainfo = {"classes": tuple("abcde")}  # noqa: RUF012

    def __len__(self):
        return BATCH * STEPS

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        return {"inputs": image, "labels": index % CLASSES}


@HOOKS.register_module(force=True)
class WatchForEngineTest(Hook):
    priority = "LOWEST"

    def before_train(self, runner):
        state = {key: value.clone() for key, value in runner.model.state_dict().items()}
        seen.update(first=state, batches=[], rates=[], losses=[])

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seen["batches"].append({key: value.clone() for key, value in data_batch.items()})
        seen["rates"].append(runner.optim_wrapper.get_lr()["lr"][0])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        seen["losses"].append(float(outputs["loss"].detach()))


def engine_run(folder, loss):
    cfg = load_config("pretrain/resnet20_ce_1xb64-30e_cifar10-sample")
    for key in ("val", "test"):
        for part in ("dataloader", "cfg", "evaluator"):
            cfg[f"{key}_{part}"] = None
    cfg.pop("publish", None)
    cfg.model.num_classes = CLASSES
    cfg.model.loss = loss
    cfg.model.data_preprocessor.update(mean=list(MEAN), std=list(STD))
    cfg.train_dataloader = {
        "batch_size": BATCH,
        "num_workers": 0,
        "persistent_workers": False,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "collate_fn": {"type": "default_collate"},
        "dataset": {"type": "NoiseForEngineTest"},
    }
    cfg.train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": EPOCHS}
    cfg.optim_wrapper.optimizer = {
        "type": "SGD",
        "lr": LR,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
        "nesterov": True,
    }
    iters = {"by_epoch": True, "convert_to_iter_based": True}
    cfg.param_scheduler = [
        {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 1, **iters},
        {"type": "CosineAnnealingLR", "begin": 1, "end": EPOCHS, **iters},
    ]
    cfg.auto_scale_lr = {"enable": False, "base_batch_size": BATCH}
    cfg.default_hooks.checkpoint.save_best = None
    cfg.custom_hooks = [{"type": "WatchForEngineTest"}]
    path = folder / "engine.json"
    path.write_text(json.dumps(cfg.to_dict()))
    run_training(TrainOptions(str(path), work_dir=folder / "run", publish=False))
    saved = torch.load(folder / "run" / f"epoch_{EPOCHS}.pth", weights_only=True)
    return saved["state_dict"]


def bare_run(loss, *, weight_decay=DECAY, scale=1.0):
    """The batches, rates and first weights that the engine had, in a loop of torch's alone."""
    backbone, spec = build_backbone("resnet20")
    network = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(spec.num_features, CLASSES)})
    network.load_state_dict(seen["first"])
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=weight_decay, nesterov=True
    )
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    losses = []
    for batch, rate in zip(seen["batches"], seen["rates"], strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        optimizer.zero_grad(set_to_none=True)
        images = (batch["inputs"].float() - mean) / std
        value = loss(network["head"](network["backbone"](images)), batch["labels"])
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return network.state_dict(), losses


def schedule():
    """Warm-up from a tenth over the first epoch, then half a cosine down to 0 that starts from the full rate."""
    warm_up = [LR * (0.1 + 0.9 * step / (STEPS - 1)) for step in range(STEPS)]
    cosine = [LR * (1 + math.cos(math.pi * step / (STEPS * (EPOCHS - 1)))) / 2 for step in range(STEPS)]
    return warm_up + cosine


@pytest.fixture(autouse=True)
def one_thread():
    """Small operations on several threads wait for each other, for minutes where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LOSSES = {
    "cross-entropy": ({"type": "CrossEntropyLoss"}, F.cross_entropy),
    "SOSR": ({"type": "SOSRLoss", "threshold": 0.21, "weight": 2.0}, SOSRLoss(threshold=0.21, weight=2.0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_engine_learns_what_a_bare_loop_learns(tmp_path, name):
    config, loss = LOSSES[name]
    saved = engine_run(tmp_path, config)
    assert len(seen["batches"]) == EPOCHS * STEPS
    orders = [[int(image.sum()) for batch in part for image in batch["inputs"]] for part in halves()]
    assert sorted(orders[0]) == sorted(orders[1])  # every image once in each epoch
    assert orders[0] != orders[1]
    assert seen["rates"] == pytest.approx(schedule(), rel=1e-9, abs=1e-15)

    learned, losses = bare_run(loss)
    assert set(saved) == set(learned)
    different = [key for key, value in learned.items() if not torch.equal(value, saved[key])]
    assert not different
    assert losses == seen["losses"]
    moved = [key for key, value in learned.items() if not torch.equal(value, seen["first"][key])]
    assert len(moved) == len(learned)  # all parameters and all statistics were trained

    # Negative controls: a loop that differs in one setting learns something else.
    for other in ({"weight_decay": 0.0}, {"scale": 1 + 1e-6}):
        assert not torch.equal(bare_run(loss, **other)[0]["head.weight"], saved["head.weight"])


def halves():
    return seen["batches"][:STEPS], seen["batches"][STEPS:]
