"""mmpretrain's ``ImageClassifier`` in mmengine's Runner, with the hooks and logs of mmpretrain's default runtime.

Its ``LinearClsHead`` takes the backbone's pooled features; everything else is the other contenders' network.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from mmpretrain.models import ImageClassifier  # noqa: F401  registers the names of the config below
from mmpretrain.structures import DataSample
from torch import nn

from sosr_det.analysis.bench_train.work import Network, Work, build_network, make_batches
from sosr_det.data.in_memory import CollatedBatch
from sosr_det.models import build_backbone


class MMPretrainLoop:
    """One Runner, stepped by its own ``run_iter``, hooks included; its work directory lies in ``folder``."""

    def __init__(self, work: Work, folder: Path, num_steps: int) -> None:
        self.network: Network = build_network(work)
        with contextlib.redirect_stdout(io.StringIO()):  # the log goes to its file
            self._runner = Runner.from_cfg(_config(work, folder, num_steps))
            loop = self._runner.train_loop
            run, loop.run = loop.run, lambda: None
            self._runner.train()  # all that comes before the loop, the drawing of weights too
            loop.run = run
        classifier = self._runner.model
        classifier.backbone.network.load_state_dict(self.network.backbone.state_dict())
        classifier.head.fc.load_state_dict(self.network.head.state_dict())
        self.network.backbone, self.network.head = classifier.backbone.network, classifier.head.fc

    def steps(self) -> Iterator[None]:
        """Yields after each step of the first epoch: what ``EpochBasedTrainLoop.run`` and ``run_epoch`` do."""
        runner = self._runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        runner.model.train()
        for index, batch in enumerate(runner.train_loop.dataloader):
            runner.train_loop.run_iter(index, batch)
            yield


class _Backbone(nn.Module):
    """As mmpretrain's backbones: a tuple of stages."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.network, _ = build_backbone(arch)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.network(images),)


class _Batches(torch.utils.data.Dataset):
    """Finished batches as mmpretrain's ``PackInputs`` and mmengine's collation give them: loading costs nothing."""

    def __init__(self, work: Work, num_steps: int) -> None:
        self._batches = [
            CollatedBatch(inputs=images, data_samples=[DataSample().set_gt_label(label) for label in labels])
            for images, labels in make_batches(work)
        ]
        self._size, self._num_steps = work.batch_size, num_steps
        self.metainfo = {"classes": tuple(str(number) for number in range(work.num_classes))}

    def __len__(self) -> int:
        return self._size * self._num_steps

    def __getitems__(self, indices: list[int]) -> CollatedBatch:
        return self._batches[indices[0] // self._size % len(self._batches)]


MODELS.register_module(name="BenchTrainBackbone", module=_Backbone, force=True)
DATASETS.register_module(name="MMPretrainBenchBatches", module=_Batches, force=True)


def _config(work: Work, folder: Path, num_steps: int) -> Any:
    from mmengine.config import Config

    _, spec = build_backbone(work.arch)
    cfg = Config.fromfile(Config._get_cfg_path("mmpretrain::_base_/default_runtime.py", "")[0])
    cfg.merge_from_dict(
        {
            "work_dir": str(folder),
            "experiment_name": f"mmpretrain_{uuid.uuid4().hex}",
            "model": {
                "type": "ImageClassifier",
                "backbone": {"type": "BenchTrainBackbone", "arch": work.arch},
                "head": {
                    "type": "LinearClsHead",
                    "num_classes": work.num_classes,
                    "in_channels": spec.num_features,
                    "loss": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
                },
            },
            "data_preprocessor": {
                "num_classes": work.num_classes,
                "mean": list(work.mean),
                "std": list(work.std),
                "to_rgb": False,
            },
            "train_dataloader": {
                "batch_size": work.batch_size,
                "num_workers": 0,
                "persistent_workers": False,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "collate_fn": {"type": "already_collated"},
                "dataset": {"type": "MMPretrainBenchBatches", "work": work, "num_steps": num_steps},
            },
            "train_cfg": {"by_epoch": True, "max_epochs": 1},
            "optim_wrapper": {
                "optimizer": {
                    "type": "SGD",
                    "lr": work.learning_rate,
                    "momentum": work.momentum,
                    "weight_decay": work.weight_decay,
                }
            },
            "param_scheduler": {
                "type": "MultiStepLR",
                "by_epoch": True,
                "milestones": [30, 60],
                "gamma": 0.1,
            },
        }
    )
    return cfg
