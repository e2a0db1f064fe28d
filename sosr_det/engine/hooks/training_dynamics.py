"""Measures the paper's Figures 1 to 3 while a classifier trains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from sosr_det.engine.clean_pass import (
    CleanPass,
    PassResult,
    clean_passes,
    evenly_spaced,
    overconfidence_threshold,
    unwrapped,
)
from sosr_det.engine.dynamics_record import (
    DYNAMICS_FILE,
    FEATURES_FILE,
    read_dynamics,
    write_dynamics,
    write_features,
)
from sosr_det.errors import ConfigError

# What TensorBoard and the other visualisation backends get, under dynamics/train/ and dynamics/val/.
_SCALARS = (
    "top1_percent",
    "ece",
    "nll",
    "mean_confidence",
    "overconfident_fraction",
    "gradient_norm",
    "ce_gradient_norm",
    "logit_spread",
    "overconfident_logit_spread",
    "mean_entropy_bits",
)


@HOOKS.register_module()
class TrainingDynamicsHook(Hook):
    """Writes ``work_dir/dynamics.json``: per epoch, what the model makes of its training and validation set.

    After every ``interval``-th epoch and after the last one, the training images go once through the validation
    pipeline (no augmentation, nothing mixed) and the model in eval mode, and the validation images too. Training is
    not touched: weights, buffers, module modes and random states are afterwards what they were. The cost is one
    forward pass over both sets; under several processes each takes its share, and every sample counts once.

    The file holds for each set what :func:`sosr_det.evaluation.dynamics.summarise` returns: Fig. 1 (samples above p on
    the right class and their mean grey-level entropy, training set only; the entropy is of the image as the
    validation pipeline leaves it), Fig. 2 (mean norm of the output gradient of the run's loss, and of its
    cross-entropy part), over-confident fraction, logit spread of the incorrect classes, top-1, ECE, NLL and the
    reliability bins. The same numbers go to the visualisation backends. A resumed run continues its file.
    A model with 2-D features (``feature_dim=2``) leaves ``features_2d.npz`` at the end: Fig. 3.

    Args:
        interval: epochs between measurements, at least 1.
        probabilities: the p's of Fig. 1, each inside (0, 1).
        max_samples: measure that many training images only, evenly spaced; None means all.
        num_bins: bins of the reliability diagram and ECE, at least 1.
        max_points: features stored per set, evenly spaced.

    Raises:
        ValueError: an argument out of range.
        ConfigError (in ``before_train``): not a classifier, or no validation pipeline.
        TrainingDivergedError: outputs that are NaN or infinite, before a checkpoint of them is written.
    """

    priority = "LOW"  # after RankZeroBuffersHook, so that every rank measures the same model

    def __init__(
        self,
        interval: int = 1,
        probabilities: Sequence[float] = (0.9, 0.99, 0.999),
        max_samples: int | None = None,
        num_bins: int = 15,
        max_points: int = 10_000,
    ) -> None:
        for name, value in (
            ("interval", interval),
            ("num_bins", num_bins),
            ("max_samples", 1 if max_samples is None else max_samples),
            ("max_points", max_points),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        probabilities = list(probabilities)
        if not probabilities or not all(0 < p < 1 for p in probabilities):
            raise ValueError(f"probabilities must lie inside (0, 1) and be at least one, got {probabilities}")
        self.interval = interval
        self.probabilities = probabilities
        self.max_samples = max_samples
        self.num_bins = num_bins
        self.max_points = max_points
        self._passes: dict[str, CleanPass] = {}
        self._record: dict[str, Any] = {}
        self._features: dict[str, Any] = {}

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        if not hasattr(model, "loss_module") or not hasattr(model, "head"):
            raise ConfigError(
                "TrainingDynamicsHook measures classifiers (model.type='BackboneClassifier'), this run trains a "
                f"{type(model).__name__}. Remove the hook (or --dynamics) from it."
            )
        if runner.val_loop is None:
            raise ConfigError(
                "TrainingDynamicsHook reads the training images through the validation pipeline: the config needs a "
                "val_dataloader (with val_cfg and val_evaluator)."
            )
        self._passes = clean_passes(
            runner.cfg,
            runner.val_dataloader,
            self.probabilities,
            self.num_bins,
            training_set=runner.train_dataloader.dataset,
            max_samples=self.max_samples,
        )
        self._record = {
            **describe_run(runner),
            "interval": self.interval,
            "probabilities": self.probabilities,
            "max_samples": self.max_samples,
            "num_bins": self.num_bins,
            "epochs": [],
        }
        if runner.iter > 0 and is_main_process() and (Path(runner.work_dir) / DYNAMICS_FILE).is_file():
            earlier = read_dynamics(runner.work_dir)["epochs"]
            self._record["epochs"] = [entry for entry in earlier if entry["epoch"] <= runner.epoch]

    def before_train_epoch(self, runner) -> None:
        if runner.iter == 0 and is_main_process():
            # Only now has the new run passed every check: what an earlier one left here is not its own.
            for name in (DYNAMICS_FILE, FEATURES_FILE):
                (Path(runner.work_dir) / name).unlink(missing_ok=True)

    def after_train_epoch(self, runner) -> None:
        if not (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        started = time.monotonic()
        epoch = runner.epoch + 1  # mmengine counts the finished epoch after this hook
        entry: dict[str, Any] = {
            "epoch": epoch,
            "threshold": overconfidence_threshold(unwrapped(runner.model)),
        }
        for name, clean_pass in self._passes.items():
            result = clean_pass.run(runner.model)
            entry[name] = result.summary
            if result.features is not None:
                self._features.update({name: result, "epoch": epoch})
        entry["seconds"] = round(time.monotonic() - started, 3)
        if is_main_process():
            self._record["epochs"].append(entry)
            write_dynamics(runner.work_dir, self._record)
            runner.visualizer.add_scalars(_scalars(entry, self._passes), step=epoch)

    def after_train(self, runner) -> None:
        arrays = {"epoch": np.asarray(self._features.pop("epoch", 0))}
        for name, result in self._features.items():
            arrays |= gather_features(name, result, self.max_points)
        if self._features and is_main_process():
            arrays["classes"] = np.asarray(_classes(runner))
            write_features(runner.work_dir, **arrays)


def describe_run(runner: Any) -> dict[str, Any]:
    """What the figures must know of the run: its config's name (runs of one name are one group), seed and loss."""
    recorder = next((hook for hook in runner.hooks if hasattr(hook, "record")), None)
    name = recorder.record["config_name"] if recorder else Path(runner.cfg.filename or runner.work_dir).stem
    return {
        "config_name": name,
        "seed": runner.seed,
        "loss": runner.cfg.model.get("loss"),
        "num_classes": unwrapped(runner.model).num_classes,
    }


def gather_features(name: str, result: PassResult, max_points: int) -> dict[str, np.ndarray]:
    """All ranks' features in the order of the data set, at most ``max_points`` of them, evenly spaced."""
    parts = all_gather_object((result.indices, result.features, result.labels))
    order = torch.tensor([i for indices, _, _ in parts for i in indices]).argsort()
    chosen = order[evenly_spaced(len(order), max_points)]
    return {
        f"{name}_features": torch.cat([features for _, features, _ in parts])[chosen].numpy(),
        f"{name}_labels": torch.cat([labels for _, _, labels in parts])[chosen].numpy(),
    }


def _scalars(entry: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    scalars = {}
    for name in names:
        summary = entry[name]
        for key in _SCALARS:
            if summary.get(key) is not None:
                scalars[f"dynamics/{name}/{key}"] = summary[key]
        for row in summary["above_probability"]:
            scalars[f"dynamics/{name}/num_above_{row['p']:g}"] = row["num_samples"]
            if row.get("mean_entropy_bits") is not None:
                scalars[f"dynamics/{name}/mean_entropy_bits_above_{row['p']:g}"] = row["mean_entropy_bits"]
    return scalars


def _classes(runner: Any) -> list[str]:
    metainfo = getattr(runner.val_dataloader.dataset, "metainfo", None) or {}
    return [str(name) for name in metainfo.get("classes") or ()]
