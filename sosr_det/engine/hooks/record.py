"""Writes ``run.json``, epoch by epoch."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop

from sosr_det.engine.configs import walk_dicts
from sosr_det.engine.distribution import mean_over_ranks
from sosr_det.engine.hooks.due_validation import is_due
from sosr_det.engine.provenance import dataset_record, git_commit, library_versions, text_digest, utc_now
from sosr_det.engine.run_record import (
    FILE_NAME,
    SCHEMA_VERSION,
    read_run_record,
    run_files,
    write_run_record,
)

logger = logging.getLogger("sosr_det")

# mmengine's own times, and what MetricsHook measures at log intervals: metrics.jsonl has it.
_NOT_OF_EVERY_STEP = ("time", "data_time", "data_wait_fraction", "gradient_norm", "memory_mib")
_PREPROCESSING_KEYS = ("mean", "std", "bgr_to_rgb", "type")


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Keeps ``run.json`` in the work directory up to date; only the main process writes.

    Args:
        stage: ``pretrain``, ``finetune`` or ``detection``.
        config_name: file stem of the config.
        backbone: ``dict(uri=..., digest=...)`` as asked for and as resolved, or None.
        settings: what else the command line decided, such as ``selection`` and ``lr_scaling``; recorded under these
            names.
        replace_run: remove the checkpoints of the run that the work directory held, which happens only when the new
            run has passed every check and is about to take its first step.

    The record holds the resolved config and its digest, seed, versions, commit, data fingerprints, the
    metrics of every epoch and the wall time; a resumed run continues its own record.
    """

    priority = "LOWEST"  # after the checkpoint hook, so that the best checkpoint is known

    def __init__(
        self,
        stage: str,
        config_name: str,
        backbone: dict | None = None,
        replace_run: bool = False,
        settings: dict | None = None,
    ) -> None:
        self.replace_run = replace_run
        self.record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "stage": stage,
            "config_name": config_name,
            "backbone": backbone,
            "status": "running",
            "epochs": [],
            "test": None,
            **(settings or {}),
        }
        self._started = self._epoch_started = time.monotonic()
        self._earlier_seconds = 0.0
        self._writes = 0

    def before_train(self, runner) -> None:
        if not is_main_process():
            return
        self._started = time.monotonic()
        work_dir = Path(runner.work_dir)
        if self.replace_run:
            for path in run_files(work_dir):
                path.unlink()
        if runner.iter > 0 and (work_dir / FILE_NAME).is_file():
            earlier = read_run_record(work_dir)
            by_step = isinstance(runner.train_loop, IterBasedTrainLoop)
            self.record["epochs"] = [
                each
                for each in earlier["epochs"]
                if each["epoch"] <= runner.epoch and not (by_step and each.get("iter", 0) > runner.iter)
            ]
            self.record["resumed_at_epochs"] = [*earlier.get("resumed_at_epochs", []), runner.epoch]
            self.record["started"] = earlier.get("started")
            self.record["load_from"] = earlier.get("load_from")  # a resumed run has none of its own
            if earlier.get("parent"):
                self.record["parent"] = earlier["parent"]
            if earlier.get("tests"):
                self.record["tests"] = earlier["tests"]
            self._earlier_seconds = earlier.get("wall_seconds") or 0.0
        self.record.setdefault("started", utc_now())
        self.record.setdefault("load_from", runner.cfg.get("load_from"))
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        config_text = runner.cfg.pretty_text
        self.record.update(
            command=" ".join(["sosr-det", *sys.argv[1:]]),
            config_text=config_text,
            config_digest=text_digest(config_text),
            seed=runner.seed,
            deterministic=runner.deterministic,
            world_size=runner.world_size,
            device=str(next(model.parameters()).device.type),
            library_versions=library_versions(),
            git_commit=git_commit(),
            data={
                "train": dataset_record(runner.train_dataloader.dataset),
                "val": dataset_record(runner.val_dataloader.dataset) if runner.val_loop else None,
            },
            model=_model_record(model, runner),
        )
        transfer = runner.message_hub.runtime_info.get("backbone_transfer")
        if transfer and self.record["backbone"]:
            self.record["backbone"]["transfer"] = transfer
        self._write(runner)

    def before_train_epoch(self, runner) -> None:
        self._epoch_started = time.monotonic()

    def after_train_epoch(self, runner) -> None:
        scalars = {}
        iterations = len(runner.train_dataloader)
        for key, buffer in runner.message_hub.log_scalars.items():
            if key.startswith("train/") and key.removeprefix("train/") not in _NOT_OF_EVERY_STEP:
                scalars[key.removeprefix("train/")] = buffer.mean(iterations)
        scalars = mean_over_ranks(scalars)  # mmengine's are those of one process's share of the batches
        if not is_main_process():
            return
        self.record["epochs"].append(
            {
                # mmengine counts the finished epoch after this hook
                "epoch": runner.epoch + 1,
                "train": scalars,
                "seconds": round(time.monotonic() - self._epoch_started, 3),
            }
        )
        self._write(runner)

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        if not is_main_process():
            return
        last = self.record["epochs"][-1] if self.record["epochs"] else {}
        # A loop by iteration has no epochs; a run may have been killed before it recorded the one that it is
        # resumed from.
        if not last or "val" in last or last["epoch"] != runner.epoch:
            self.record["epochs"].append({"epoch": runner.epoch, "iter": runner.iter})
        self.record["epochs"][-1]["val"] = dict(metrics or {})
        self.record["best"] = self._best(runner)
        self._write(runner)

    def after_train(self, runner) -> None:
        if is_main_process():
            # The checkpoint hook names the best file only after the last validation.
            self.record["best"] = self._best(runner)
            self.record["status"] = "completed"
            self.record["finished"] = utc_now()
            self._say_what_was_not_validated(runner)
            self._write(runner)

    def _say_what_was_not_validated(self, runner) -> None:
        """An epoch that should have been validated and was not could have been the best one."""
        recorded = {each["epoch"]: each for each in self.record["epochs"]}
        missing = [
            epoch
            for epoch in range(1, runner.epoch + 1)
            if is_due(runner, epoch) and "val" not in recorded.get(epoch, {})
        ]
        if missing:
            self.record["not_validated"] = missing
            named = f"epoch {missing[0]} was" if len(missing) == 1 else f"epochs {missing} were"
            logger.warning(
                f"{named} never validated, since the run was stopped in between: the best epoch is chosen among the "
                f"others. run.json says so under not_validated; train anew for a choice among all epochs."
            )

    def _best(self, runner) -> dict | None:
        hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
        metrics = getattr(hook, "key_indicators", None) if hook and hook.save_best else None
        if not metrics:
            return None
        metric, rule = metrics[0], hook.rules[0]  # the first of several is the one that is published
        evaluated = [e for e in self.record["epochs"] if (e.get("val") or {}).get(metric) is not None]
        if not evaluated:
            return None
        sign = -1 if rule == "less" else 1
        # The first of equals, as CheckpointHook keeps the earlier one.
        best = max(evaluated, key=lambda e: sign * e["val"][metric])
        steps = {} if hook.by_epoch else {"iter": best["iter"]}
        place = f"epoch_{best['epoch']}" if hook.by_epoch else f"iter_{best['iter']}"
        name = f"best_{metric.replace('/', '_')}_{place}.pth"
        return {
            "metric": metric,
            "value": best["val"][metric],
            "epoch": best["epoch"],
            **steps,
            "val": best["val"],
            "checkpoint": name if (Path(runner.work_dir) / name).is_file() else None,
        }

    def _write(self, runner) -> None:
        # Of a paired run, by BatchDigestHook; and by UnreadableImagesHook.
        for part in ("batches", "initial_weights", "unreadable_images"):
            if part in runner.message_hub.runtime_info:
                self.record[part] = runner.message_hub.runtime_info[part]
        self.record["wall_seconds"] = round(self._earlier_seconds + time.monotonic() - self._started, 3)
        work_dir = Path(runner.work_dir)
        if self._writes and (work_dir / FILE_NAME).is_file():
            tests = read_run_record(work_dir).get("tests")  # `sosr-det test` may have added some meanwhile
            if tests:
                self.record["tests"] = tests
        self._writes += 1
        write_run_record(work_dir, self.record)


def _model_record(model: Any, runner: Any) -> dict:
    """What a consumer of this model's backbone must know."""
    spec = getattr(model, "backbone_spec", None)
    cfg = runner.cfg
    preprocessor = cfg.model.get("data_preprocessor") or {}
    return {
        "type": type(model).__name__,
        "backbone": spec.to_dict() if spec else {"type": type(getattr(model, "backbone", None)).__name__},
        "preprocessing": {
            **{k: preprocessor[k] for k in _PREPROCESSING_KEYS if k in preprocessor},
            "channel_order": getattr(model.data_preprocessor, "channel_order", None),
            "interpolation": _interpolation(cfg),
            "input_size": _input_size(runner) if spec else None,
        },
        "num_parameters": sum(p.numel() for p in model.parameters()),
    }


def _input_size(runner: Any) -> list[int] | None:
    """[height, width] in pixels of what validation feeds the network: the size that the metrics are true for."""
    if runner.val_loop is None:
        return None
    return list(runner.val_dataloader.dataset[0]["inputs"].shape[-2:])


def _interpolation(cfg: Any) -> str:
    """Of the first resize in the validation pipeline; torchvision's default is bilinear."""
    for step in walk_dicts(cfg.get("val_dataloader") or cfg.get("test_dataloader")):
        if "Resize" in str(step.get("type")):
            return str(step.get("interpolation", "bilinear"))
    return "bilinear"
