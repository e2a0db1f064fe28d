"""Saves without a training: the real hook and the real writer, with a stand-in for the Runner. Used by tests here."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.logging import MessageHub

from sosr_det.engine.checkpoints.atomic_file import write_checkpoint
from sosr_det.engine.checkpoints.hook import AtomicCheckpointHook


class StandIn:
    """What the checkpoint hook sees of a Runner."""

    def __init__(self, folder, epoch, iteration):
        self.work_dir, self.epoch, self.iter = str(folder), epoch, iteration
        self.message_hub = MessageHub("saving")
        self.logger = logging.getLogger("saving")
        self.train_loop = SimpleNamespace()

    def call_hook(self, name, **arguments):
        pass

    def save_checkpoint(self, out_dir, filename, *arguments, save_optimizer=True, meta=None, **options):
        write_checkpoint(Path(out_dir) / filename, content(self.epoch, self.iter, save_optimizer, meta))


def content(epoch, iteration, optimizer=True, meta=None):
    """Small, but of more than one part; its weights tell what it is."""
    found = {
        "meta": {"epoch": epoch, "iter": iteration, **(meta or {})},
        "state_dict": {"weight": torch.full((300,), float(iteration)), "bias": torch.arange(7.0)},
        "message_hub": {},
    }
    return found | ({"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}} if optimizer else {})


def hook(folder, **options):
    """As a run in ``folder`` has it."""
    made = AtomicCheckpointHook(interval=1, max_keep_ckpts=2, save_best="accuracy", rule="greater", **options)
    made.out_dir = str(folder)
    made.file_backend = SimpleNamespace(join_path=lambda *parts: str(Path(*parts)))
    made.last_ckpt = None
    return made


def save_epoch(folder, epoch, made=None):
    """The checkpoint of an epoch of 10 steps."""
    (made or hook(folder)).save_epoch_end(StandIn(folder, epoch, 10 * epoch))


def save_middle(folder, epoch, step):
    """One in the epoch after ``epoch``."""
    hook(folder).save_mid_epoch(StandIn(folder, epoch, step))


def save_best(folder, epoch, score, made=None):
    """As after a validation: the best weights, and the epoch's checkpoint again."""
    made = made or hook(folder)
    made.last_ckpt = str(Path(folder) / f"epoch_{epoch}.pth")
    made._save_best_checkpoint(StandIn(folder, epoch, 10 * epoch), {"accuracy": score})


class RankStandIn(StandIn):
    """Saves through the engine's own runner's method, which every rank must call."""

    def save_checkpoint(self, out_dir, filename, *arguments, **options):
        from sosr_det.engine import runner

        weights = torch.nn.Linear(2, 2)
        self.model = weights
        self.optim_wrapper = SimpleNamespace(optim_wrappers={})
        runner.checkpoint_content = lambda runner, meta, **_: content(self.epoch, self.iter, True, meta)
        runner.EngineRunner.save_checkpoint(self, out_dir, filename, **options)

    def _random_state(self):
        return {"torch": torch.get_rng_state()}
