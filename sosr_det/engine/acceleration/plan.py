"""What a run's acceleration will be, and doing it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sosr_det.engine.acceleration.compilation import compile_parts, require_compiler
from sosr_det.engine.acceleration.config_keys import config_settings, set_ema, wrapper_config
from sosr_det.engine.acceleration.device import Device, current_device
from sosr_det.engine.acceleration.device_flags import device_flags
from sosr_det.engine.acceleration.measurement import MIN_ROUNDS, Measurement, measure
from sosr_det.engine.acceleration.report import acceleration_line
from sosr_det.engine.acceleration.resolution import Resolution, require_precision, resolve, resumed
from sosr_det.engine.acceleration.settings import Settings, checked
from sosr_det.engine.configs import bare_type
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import ConfigError, SosrError

MEASURING_SHARE = 0.02  # of the run's steps, at most
MEASURING_SECONDS = 3.0


@dataclasses.dataclass
class Plan:
    """Settings of one run; ``settings`` is complete from the start, and final inside :meth:`applied_to`.

    Attributes:
        device: what trains.
        resolution: settings and where they come from.
        optimizer: type of the optimizer, for the printed line.
        note: why nothing is measured, or that the run goes on as it began; may be empty.
        recorded_measurement: of the run that is resumed.
    """

    device: Device
    resolution: Resolution
    optimizer: str = "SGD"
    note: str = ""
    recorded_measurement: dict[str, Any] | None = None
    settings: Settings = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.settings = self.resolution.settings

    @contextmanager
    def applied_to(self, runner: Any) -> Iterator[None]:
        """Measure what is to be measured, apply everything to a built runner, record and print it; train inside.

        Args:
            runner: of a class that :func:`sosr_det.engine.acceleration.runner.accelerated` made, about to train.
        """
        from mmengine.dist import is_main_process
        from mmengine.model import is_model_wrapper

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        measurement = self._measure(runner, model)
        if self.settings.compile is not None:
            compile_parts(model, self.settings.compile)
        for hook in runner.hooks:
            if type(hook).__name__ == "RunRecordHook":
                hook.record["acceleration"] = self.to_dict(measurement)
        if is_main_process():
            line = acceleration_line(
                self.device, self.settings, self.optimizer, measurement=measurement, note=self.note
            )
            print(line, flush=True)
        with device_flags(self.settings, self.device.kind):
            yield

    def to_dict(self, measurement: Measurement | None = None) -> dict[str, Any]:
        """For the run's record: the settings, where they come from, the device, and what was measured."""
        return {
            **self.settings.to_dict(),
            "origins": dict(self.resolution.origins),
            "device": str(self.device),
            "measured": measurement.to_dict() if measurement else self.recorded_measurement,
        }

    def _measure(self, runner: Any, model: Any) -> Measurement | None:
        """Decide what the resolution left to the clock; the model gets its layout."""
        if not self.resolution.measurable:
            return None
        ways = self._ways()
        needed = len(ways) * (MIN_ROUNDS + 1)
        if needed > MEASURING_SHARE * runner.train_loop.max_iters:
            self.note = self.note or "the run is too short to measure"
            return None
        measurement, self.note = _measured(model, runner.train_dataloader, ways, str(self.device))
        if measurement is None:
            return None
        channels_last, precision = ways[measurement.chosen]
        self.settings = dataclasses.replace(self.settings, channels_last=channels_last, precision=precision)
        if channels_last and not self.resolution.settings.channels_last:
            from sosr_det.engine.acceleration.layout import to_channels_last

            to_channels_last(model)  # one process: there is no wrapper to be laid out
        return measurement

    def _ways(self) -> dict[str, tuple[bool, str]]:
        """Name -> (channels_last, precision) of what is compared, the plain way first."""
        settings, measurable = self.resolution.settings, self.resolution.measurable
        layouts = [False, True] if "channels_last" in measurable else [settings.channels_last]
        precisions = ["fp32", settings.precision] if "precision" in measurable else [settings.precision]
        return {
            f"{precision} {'channels_last' if layout else 'NCHW'}": (layout, precision)
            for precision in precisions
            for layout in layouts
        }


def plan_acceleration(cfg: Any, options: TrainOptions) -> Plan:
    """Decide, and give ``cfg`` the hook and the optimizer wrapper that follow; rank 0 decides for all.

    Raises:
        ConfigError: options that contradict each other, the device or the run that is resumed; no compiler.
    """
    wrapper = cfg.get("optim_wrapper") or {}
    optimizer = bare_type((wrapper.get("optimizer") or {}).get("type") or "optimizer")
    device = current_device()
    resolution, note, measured = _from_rank_0(lambda: _decide(cfg, options, device, optimizer))
    require_precision(device, resolution.settings.precision, resolution.origins["precision"])  # of this rank
    if resolution.settings.compile is not None:
        require_compiler(resolution.settings.compile, device.kind)
    set_ema(cfg, resolution.settings.ema)
    if wrapper:
        cfg.optim_wrapper = wrapper_config(dict(wrapper), resolution.settings.precision)
    return Plan(device, resolution, optimizer, note, measured)


def _decide(cfg: Any, options: TrainOptions, device: Device, optimizer: str) -> tuple[Resolution, str, Any]:
    """The resolution, a remark, and what the resumed run has measured."""
    from mmengine.dist import get_world_size

    flags, config = requested(options), config_settings(cfg)
    record = _resumed_record(cfg)
    if record is not None and record.get("acceleration"):
        recorded = record["acceleration"]
        resolution, lines = resumed(device, flags, recorded, allow_changes=options.allow_changes)
        note = "; ".join(["as the run began", *lines])
        return _with_possible_fusing(resolution, optimizer), note, recorded.get("measured")
    if record is not None:  # begun by an earlier version, which did none of this
        config = {"channels_last": False, "fused_optimizer": False, **config}
    alone = get_world_size() == 1
    deterministic = bool((cfg.get("randomness") or {}).get("deterministic"))
    reasons = {
        "runs are to be compared": options.paired, "deterministic": deterministic, "several processes": not alone,
    }  # fmt: skip
    resolution = resolve(
        device,
        flags,
        config,
        stage=cfg.get("stage", "detection"),
        deterministic=deterministic,
        may_measure=alone and not options.paired and record is None,
    )
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    note = f"not measured: {reason}" if reason and device.kind == "cpu" else ""
    return _with_possible_fusing(resolution, optimizer), note, None


def _from_rank_0(decide: Callable[[], tuple[Resolution, str, Any]]) -> tuple[Resolution, str, Any]:
    """What rank 0 decides, or its error, on every rank: devices may differ, and so may what a rank reads."""
    from mmengine.dist import broadcast_object_list, get_world_size, is_main_process

    if get_world_size() == 1:
        return decide()
    box: list[Any] = [None]
    if is_main_process():
        try:
            box = [decide()]
        except SosrError as error:
            box = [error]
        except Exception as error:  # the other ranks must hear of it too, or they wait for ever
            box = [ConfigError(f"rank 0: {type(error).__name__}: {error}")]
    broadcast_object_list(box, src=0)
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def requested(options: TrainOptions) -> dict[str, Any]:
    """The settings that the command line names.

    Raises:
        ConfigError: ``--amp`` beside ``--precision fp32``, ``--compile-mode`` beside ``--no-compile``, a value out of
            range.
    """
    precision = options.precision
    if options.amp:
        if precision == "fp32":
            raise ConfigError("--amp is mixed precision and --precision fp32 is none; leave one of them out.")
        precision = precision or "auto"
    compiled: Any = options.compile
    if options.compile_mode is not None:
        if compiled is False:
            raise ConfigError("--compile-mode goes with --compile, not with --no-compile.")
        compiled = {"mode": options.compile_mode}
    asked = {
        "precision": precision,
        "channels_last": options.channels_last,
        "compile": compiled,
        "fused_optimizer": options.fused_optimizer,
        "tf32": options.tf32,
        "cudnn_benchmark": options.cudnn_benchmark,
        "ema": options.ema,
    }
    return checked({name: value for name, value in asked.items() if value is not None}, "the command line")


def can_fuse(optimizer: str) -> bool:
    """Whether PyTorch has a fused kernel for an optimizer of this name."""
    import torch

    kind = getattr(torch.optim, optimizer, None)
    return inspect.isclass(kind) and "fused" in inspect.signature(kind).parameters


def _with_possible_fusing(resolution: Resolution, optimizer: str) -> Resolution:
    if not resolution.settings.fused_optimizer or can_fuse(optimizer):
        return resolution
    if resolution.origins["fused_optimizer"] == "flag":
        raise ConfigError(
            f"--fused-optimizer: PyTorch has no fused kernel for {optimizer}; it has some for SGD, Adam, AdamW and "
            "Adagrad. Leave it out."
        )
    settings = dataclasses.replace(resolution.settings, fused_optimizer=None)
    return dataclasses.replace(resolution, settings=settings)


def _resumed_record(cfg: Any) -> dict[str, Any] | None:
    if not cfg.get("resume") or not (Path(cfg.work_dir) / FILE_NAME).is_file():
        return None
    return read_run_record(Path(cfg.work_dir))


def _measured(
    model: Any, loader: Any, ways: dict[str, tuple[bool, str]], device: str
) -> tuple[Measurement | None, str]:
    """The measurement, from memory or made now, and a remark; None where a way does not run."""
    from sosr_det.engine.acceleration.measurement_cache import measurement_key, remember, remembered
    from sosr_det.engine.acceleration.trial_steps import tensor_shapes, trial_batch, trial_steps

    try:
        batch = trial_batch(loader)
        key = measurement_key(model, tensor_shapes(batch), device, list(ways))
        found = remembered(key)
        if found is not None and found.chosen in ways:
            return found, "by an earlier run"
        found = measure(trial_steps(model, batch, ways), budget_s=MEASURING_SECONDS)
    # An unreadable first image, an operator without a kernel for it: training meets it again, or does well without.
    except Exception as error:
        return None, f"not measured: {' '.join(str(error).split())[:100] or type(error).__name__}"
    remember(key, found)
    return found, ""
