"""Measures a training as it goes, writes ``metrics.jsonl`` and feeds the display."""

from __future__ import annotations

import os
import time
from collections.abc import Sized
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from sosr_det.engine.hooks.due_validation import is_due
from sosr_det.engine.telemetry.clock import Span, StepClock, eta_seconds
from sosr_det.engine.telemetry.display import NoDisplay, Place
from sosr_det.engine.telemetry.gradients import GradientNorm, peak_memory
from sosr_det.engine.telemetry.metrics_file import MetricsFile, finite

_TO_LOG = ("data_wait_fraction", "memory_mib")  # of a record, to mmengine's log and so to TensorBoard
_KEPT = "sosr_metrics"  # in checkpoints
_DEFAULT_INTERVAL = 50


@HOOKS.register_module()
class MetricsHook(Hook):
    """Every run carries it.

    At the log interval (of the config's ``LoggerHook``), after every epoch and after every validation, the main process
    writes one record to ``metrics.jsonl`` (:mod:`sosr_det.engine.telemetry.metrics_file` says what is in it) and hands
    it to ``display``. mmengine's log, and with it TensorBoard, gets ``train/img_per_s``, and at log intervals
    ``train/data_wait_fraction``, ``train/gradient_norm`` and ``train/memory_mib``.

    Changes nothing in the training: gradients are read at log intervals, loss terms stay on their device until then.

    Attributes:
        display: see :func:`sosr_det.engine.telemetry.display.make_display`; by default nothing is shown.
    """

    priority = "NORMAL"  # before LoggerHook, which collects the scalars

    def __init__(self) -> None:
        self.display = NoDisplay()
        self._clock = StepClock()
        self._terms: dict[str, list[Any]] = {}
        self._norm: GradientNorm | None = None
        self._file: MetricsFile | None = None
        self._interval = _DEFAULT_INTERVAL
        self._validation_began = 0.0
        self._validation_seconds: float | None = None
        self._previous_step = 0.0

    @property
    def steady(self) -> Span:
        """All training steps of this process but the first one."""
        return self._clock.steady

    # ---- the run -----------------------------------------------------------------------------------------------

    def before_train(self, runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                self._interval = hook.interval
        if is_main_process():
            self._file = MetricsFile(runner.work_dir)
            if runner.iter > 0:
                self._file.resume(runner.iter)
            wrapper = runner.optim_wrapper
            # Clipping by norm measures it already, before it clips.
            if isinstance(wrapper, OptimWrapper) and getattr(wrapper, "grad_name", None) != "grad_norm":
                self._norm = GradientNorm(wrapper.optimizer)
            self.display.start(os.path.relpath(runner.logger.log_file))
        if not runner.iter:
            self._terms = {}
        self._time_steps(runner.train_loop)

    def after_train(self, runner) -> None:
        self.release()

    def release(self) -> None:
        """The run ended or failed: close the file and give the terminal back."""
        self.display.close()
        if self._file is not None:
            self._file.close()
        if self._norm is not None:
            self._norm.remove()
            self._norm = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Loss terms that are in no record yet: the next record of a resumed run is a mean over all its steps."""
        checkpoint[_KEPT] = {name: _numbers(values) for name, values in self._terms.items()}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._terms = {name: list(values) for name, values in checkpoint.get(_KEPT, {}).items()}

    # ---- training ----------------------------------------------------------------------------------------------

    def before_train_epoch(self, runner) -> None:
        self._clock.begin()
        self._previous_step = time.perf_counter()

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        accumulated = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        # The last update up to the record may lie some steps before it.
        if self._norm is not None and self._steps_to_record(runner, batch_idx) < accumulated:
            self._norm.ask()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        inputs = data_batch.get("inputs") if isinstance(data_batch, dict) else None
        images = len(inputs) * get_world_size() if isinstance(inputs, Sized) else 0
        self._clock.step(images)
        now = time.perf_counter()
        if images:
            passed = max(now - self._previous_step, 1e-9)
            runner.message_hub.update_scalar("train/img_per_s", images / passed)
        self._previous_step = now
        if not is_main_process():
            return
        for name, value in (outputs or {}).items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            self._terms.setdefault(name, []).append(value)
        place = _place(runner, batch_idx)
        if self._steps_to_record(runner, batch_idx):
            self.display.step(place)
            return
        record = {"kind": "train", **self._position(runner), **self._measured(runner)}
        # mmengine averages its own `grad_norm` over steps, so this one must have another name.
        logged = {"gradient_norm": record["grad_norm"]} if self._norm is not None else {}
        for name, value in {**logged, **{name: record[name] for name in _TO_LOG}}.items():
            if value is not None:
                runner.message_hub.update_scalar(f"train/{name}", value)
        self._file.write(record)
        self.display.train(place, record)

    def after_train_epoch(self, runner) -> None:
        if not is_main_process() or not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        span = self._clock.epoch
        # mmengine counts the epoch, but not the step, after this hook.
        record = {
            "kind": "epoch",
            "epoch": runner.epoch + 1,
            "step": runner.iter,
            "time": round(time.time(), 3),
            "seconds": round(span.seconds, 3),
            **_rates(span),
        }
        self._file.write(record)
        self.display.epoch(Place(runner.epoch + 1, runner.max_epochs, 0, 0), record)

    def _time_steps(self, loop: Any) -> None:
        """Time that other hooks take is no waiting for data, and saving between two steps neither."""
        clock, run_iter = self._clock, loop.run_iter

        def timed(*args: Any, **kwargs: Any) -> None:
            clock.enter()
            run_iter(*args, **kwargs)
            clock.leave()

        loop.run_iter = timed
        place = getattr(loop, "place", None)  # of this project's own loops
        if place is not None:
            after_step = place.after_step

            def timed_after_step(*args: Any, **kwargs: Any) -> None:
                after_step(*args, **kwargs)
                clock.leave()

            place.after_step = timed_after_step

    def _steps_to_record(self, runner, batch_idx: int) -> int:
        """0 for a step that a record is written after; as LoggerHook decides it."""
        length = _epoch_length(runner)
        to_interval = -(batch_idx + 1) % self._interval
        return min(to_interval, length - 1 - batch_idx) if length <= self._interval else to_interval

    def _position(self, runner) -> dict[str, Any]:
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        return {
            "epoch": runner.epoch + 1 if by_epoch else 0,
            "step": runner.iter + 1,
            "time": round(time.time(), 3),
        }

    def _measured(self, runner) -> dict[str, Any]:
        terms = {}
        for name, values in self._terms.items():
            numbers = _numbers(values)
            terms[name] = finite(sum(numbers) / len(numbers)) if numbers else None
        self._terms = {}
        memory, memory_of = peak_memory()
        fixed = {
            "lr": _first(runner.optim_wrapper, "get_lr", "lr"),
            "momentum": _first(runner.optim_wrapper, "get_momentum", "momentum"),
            "grad_norm": self._gradient_norm(runner),
            **_rates(self._clock.take_interval()),
            "memory_mib": round(memory, 1),
            "memory_of": memory_of,
            "eta_seconds": self._eta(runner),
        }
        return {**terms, **fixed}

    def _gradient_norm(self, runner) -> float | None:
        if self._norm is not None:
            value = self._norm.take()
            return None if value is None else finite(value)
        buffer = runner.message_hub.log_scalars.get("train/grad_norm")
        return finite(buffer.current()) if buffer is not None else None

    def _eta(self, runner) -> float | None:
        left = eta_seconds(
            runner.max_iters - runner.iter - 1,
            self._clock.seconds_per_step,
            validations_left(runner),
            self._validation_seconds,
        )
        return None if left is None else round(left, 1)

    # ---- validation --------------------------------------------------------------------------------------------

    def after_val(self, runner) -> None:
        """A run by iterations validates between two steps: that is no waiting for data."""
        self._clock.skip()
        self._previous_step = time.perf_counter()

    def before_val_epoch(self, runner) -> None:
        self._validation_began = time.perf_counter()

    def after_val_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.display.validation_step(batch_idx + 1, len(runner.val_dataloader))

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        seconds = time.perf_counter() - self._validation_began
        self._validation_seconds = seconds
        if self._file is None:  # another process than the first, or a validation without training
            return
        metrics = metrics or {}
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        epoch = runner.epoch if by_epoch else 0
        record = {
            "kind": "val",
            "epoch": epoch,
            "step": runner.iter,
            "time": round(time.time(), 3),
            "seconds": round(seconds, 3),
        }
        self._file.write({**record, **{name: metrics[name] for name in metrics if name not in record}})
        epochs = runner.max_epochs if by_epoch else 0
        self.display.validated(Place(epoch, epochs, runner.iter, runner.max_iters), record, metrics)


def _place(runner, batch_idx: int) -> Place:
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return Place(runner.epoch + 1, runner.max_epochs, batch_idx + 1, _epoch_length(runner))
    return Place(0, 0, runner.iter + 1, runner.max_iters)


def _epoch_length(runner) -> int:
    loop = runner.train_loop
    return len(loop.dataloader) if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters


def validations_left(runner) -> int:
    loop = runner.train_loop
    if runner.val_loop is None:
        return 0
    if isinstance(loop, EpochBasedTrainLoop):
        return sum(is_due(runner, epoch) for epoch in range(runner.epoch + 1, runner.max_epochs + 1))
    first = max(runner.iter + 2, loop.val_begin)  # the next step that one may follow, counted from 1
    last, interval = runner.max_iters, max(loop.val_interval, 1)
    if first > last:
        return 0
    return (
        last // interval - (first - 1) // interval + bool(last % interval)
    )  # the last step is always validated


def _rates(span: Span) -> dict[str, float | None]:
    return {
        "img_per_s": _rounded(span.img_per_s, 2),
        "data_wait_fraction": _rounded(span.data_wait_fraction, 4),
        "seconds_per_step": _rounded(span.seconds_per_step, 6),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _numbers(values: list[Any]) -> list[float]:
    """Loss terms as Python numbers, with one copy from the device; those that are no single numbers are left out."""
    single = [each for each in values if not isinstance(each, torch.Tensor) or each.numel() == 1]
    tensors = [each.reshape(()).float() for each in single if isinstance(each, torch.Tensor)]
    if len(tensors) == len(single) and tensors:
        return torch.stack(tensors).tolist()
    return [float(each) for each in single if isinstance(each, (int, float, torch.Tensor))]


def _first(wrapper: Any, getter: str, name: str) -> float | None:
    """Of the base setting, which layers' own factors do not change, or of the first group of parameters."""
    try:
        found = getattr(wrapper, getter)()
    except NotImplementedError:  # an optimizer without momentum
        return None
    values = found.get(f"base_{name}") or found.get(name)
    return finite(values[0]) if values else None
