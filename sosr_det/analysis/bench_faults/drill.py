"""A tiny training with a real command line, real files and real worker processes, run in forked processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sosr_det.engine.telemetry.metrics_file import read_metrics

CLASSES, IMAGES_PER_CLASS, BATCH, EPOCHS = 4, 6, 4, 4
STEPS_PER_EPOCH = CLASSES * IMAGES_PER_CLASS // BATCH
STEPS = STEPS_PER_EPOCH * EPOCHS
_TIMES = frozenset(  # measured, so never twice the same
    {"time", "data_time", "img_per_s", "data_wait_fraction", "memory_mib", "memory", "seconds", "seconds_per_step",
     "eta_seconds", "eta", "memory_of"}
)  # fmt: skip
_PATHS = frozenset(
    {"last_ckpt", "best_ckpt", "cfg", "experiment_name", "config_text", "mmengine_version"}
)  # name the run's folder, or are set when one is resumed

Main = Callable[[list[str]], None]


@dataclass
class Outcome:
    """How a forked process ended.

    Attributes:
        code: its exit code; minus the signal that killed it.
        text: what it wrote to stdout and stderr.
        seconds: wall time.
        value: what its function returned, if that is JSON.
    """

    code: int
    text: str
    seconds: float
    value: Any = None

    @property
    def last_line(self) -> str:
        """Of what it wrote."""
        return (self.text.strip().splitlines() or [""])[-1]


def forked(function: Callable[[], Any], log: Path, timeout_s: float = 120.0) -> Outcome:
    """Call ``function`` in a forked process that may be killed, and wait for it; it is killed after ``timeout_s``.

    The calling process must not have computed a gradient yet: torch's threads do not survive a fork.
    """
    value = log.with_suffix(".value")
    value.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(function, log, value)
    try:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() - began > timeout_s:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.005)
    except BaseException:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # worker processes that a killed training left
    returned = json.loads(value.read_text()) if value.exists() else None
    text = log.read_text(errors="replace")
    return Outcome(os.waitstatus_to_exitcode(status), text, time.monotonic() - began, returned)


def _be_child(function: Callable[[], Any], log: Path, value: Path) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(out, 1)
        os.dup2(out, 2)
        # Whatever the caller's streams are (a terminal, pytest's capture), this process writes to its log.
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        try:
            value.write_text(json.dumps(function()))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # nothing of the parent's is cleaned up twice


class Drill:
    """Trains the tiny network again and again, each time in a process of its own.

    Args:
        folder: for data and runs, on the file system that is to be tried; made if it is not there.
        main: the command line, such as :func:`sosr_det.cli.main.main`.
    """

    def __init__(self, folder: Path, main: Main) -> None:
        self.folder = Path(folder)
        self.main = main
        self.config = self.folder / "drill.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            draw_images(self.folder / "images")
            self.config.write_text(json.dumps(drill_config(self.folder / "images"), indent=1))

    def train(
        self,
        name: str,
        *arguments: str,
        before: Callable[[], Any] | None = None,
        workers: int = 0,
        cfg_options: Sequence[str] = (),
        config: str | None = None,
        timeout_s: float = 120.0,
    ) -> Outcome:
        """`sosr-det train` in the folder ``name``.

        Args:
            name: of the run.
            arguments: more of the command line.
            before: called in the new process before, to arrange the fault.
            workers: processes that load images.
            cfg_options: config overrides.
            config: another one than the drill's, a file in ``folder``.
            timeout_s: the process is killed after this time.
        """
        source = self.folder / config if config else self.config
        command = [
            "train", str(source), "--work-dir", str(self.folder / name), "--no-publish", "--ema", "0.1",
            "--progress", "none", "--no-channels-last", *arguments, "--cfg-options",
            f"train_dataloader.num_workers={workers}", *cfg_options,
        ]  # fmt: skip

        def run() -> None:
            if before is not None:
                before()
            self.main(command)

        return forked(run, self.folder / f"{name}.log", timeout_s)


def drill_config(images: Path) -> dict[str, Any]:
    """Random crops and flips, CutMix, dropout, momentum, schedules by step and by epoch; every step is logged."""
    pipeline = [
        {"type": "torchvision/RandomCrop", "size": 16, "padding": 2},
        {"type": "torchvision/RandomHorizontalFlip"},
    ]

    def loader(split: str, steps: list[dict], shuffle: bool) -> dict[str, Any]:
        return {
            "batch_size": BATCH,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
            "collate_fn": {"type": "default_collate"},
            "dataset": {
                "type": "ImageNetFolder",
                "data_root": str(images),
                "split": split,
                "pipeline": steps,
            },
        }

    return {
        "default_scope": "mmengine",
        "custom_imports": {
            "imports": ["sosr_det.register", "sosr_det.analysis.bench_faults.network"],
            "allow_failed_imports": False,
        },
        "stage": "pretrain",
        "model": {
            "type": "FaultDrillNetwork",
            "num_classes": CLASSES,
            "data_preprocessor": {
                "type": "ClassificationPreprocessor",
                "mean": [127.0] * 3,
                "std": [60.0] * 3,
                "batch_augments": [{"type": "torchvision/CutMix", "num_classes": CLASSES, "alpha": 1.0}],
                "batch_augment_probability": 0.5,
            },
        },
        "train_dataloader": loader("train", pipeline, True),
        "val_dataloader": loader("val", [], False),
        "val_evaluator": {"type": "ClassificationMetric", "topk": [1]},
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": EPOCHS, "val_interval": 2},
        "val_cfg": {"type": "ValLoop"},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": STEPS_PER_EPOCH},
            {"type": "MultiStepLR", "by_epoch": True, "milestones": [2, 3], "gamma": 0.3},
        ],
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 1},
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": 1,
                "max_keep_ckpts": 2,
                "save_best": "accuracy/top1",
                "rule": "greater",
            },
        },
        "env_cfg": {
            "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
            "dist_cfg": {"backend": "gloo"},
        },
        "save_every_minutes": 0,
        "randomness": {"seed": 5},
    }


def draw_images(folder: Path) -> None:
    """Noise around a grey of the class' own, as PNG files in class folders; the same every time."""
    from torchvision.io import write_png

    random = np.random.default_rng(0)
    for split, count in (("train", IMAGES_PER_CLASS), ("val", 2)):
        for label in range(CLASSES):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(0, 160, (3, 16, 16), dtype=np.uint8) + np.uint8(24 * label)
                write_png(torch.from_numpy(noise), str(place / f"{number}.png"))


def differences(one: Path, other: Path) -> list[str]:
    """Names of what differs between two checkpoints, by a bit: weights, averages, optimizer, schedules, logs, random
    states, everything but times and the names of folders."""
    first, second = (_flat(torch.load(path, weights_only=True, map_location="cpu")) for path in (one, other))
    missing = sorted(first.keys() ^ second.keys())
    return missing + [name for name in first.keys() & second.keys() if not _equal(first[name], second[name])]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and "sosr_det_history" in value:  # only its end is sure to be stored
        return {name: value["sosr_det_history"]}
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found: dict[str, Any] = {}
        for key, item in items:
            last = str(key).rpartition("/")[2]
            if last not in _TIMES and last not in _PATHS:
                found |= _flat(item, f"{name}.{key}" if name else str(key))
        return found
    return {name: value}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return torch.equal(
            one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)
        )
    return type(one) is type(other) and (one == other or one != one)


def losses(work_dir: Path) -> dict[int, float]:
    """Loss of every step of a run, by its number from 1, from ``metrics.jsonl``."""
    return {each["step"]: each["loss"] for each in read_metrics(work_dir) if each["kind"] == "train"}
