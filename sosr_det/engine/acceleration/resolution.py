"""From what was asked for, recorded and configured, and from the device, to settings. Nothing is built here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sosr_det.engine.acceleration.device import Device
from sosr_det.engine.acceleration.settings import FLAGS, NAMES, Settings
from sosr_det.errors import ConfigError


@dataclass(frozen=True)
class Resolution:
    """Settings and where each comes from.

    Attributes:
        settings: complete; what is to be measured has the value that is taken if nothing is measured.
        origins: field of :class:`Settings` -> ``flag``, ``run`` (the run that is resumed), ``config`` or ``device``.
        measurable: fields that a measurement on this device may decide.
    """

    settings: Settings
    origins: Mapping[str, str]
    measurable: tuple[str, ...] = field(default=())


def resolve(
    device: Device,
    flags: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    stage: str,
    deterministic: bool,
    may_measure: bool,
) -> Resolution:
    """Settings of a new run: flags before the config before the device's defaults.

    Args:
        device: what will train.
        flags: fields that the command line names; ``precision`` may be ``auto``, ``compile`` False.
        config: fields that the config names, likewise.
        stage: ``detection``'s images have many sizes, those of the other stages one.
        deterministic: two runs must compute alike: nothing is timed.
        may_measure: the run is long enough to pay for a measurement, and alone.

    Raises:
        ConfigError: a precision that the device lacks.
    """
    asked = {**config, **flags}
    origins = {name: "flag" if name in flags else "config" if name in config else "device" for name in NAMES}
    measuring = may_measure and device.kind == "cpu" and not deterministic
    measurable = []
    precision = asked.get("precision", "fp32")  # what recipes were published with; see docs/performance.md
    if precision == "auto":
        precision = device.mixed_precision
        if measuring and precision != "fp32":
            measurable.append("precision")
    require_precision(device, precision, origins["precision"])
    channels_last = asked.get("channels_last")
    if channels_last is None:
        # Tensor cores work on channels-last data: without it cuDNN transposes. In fp32 there may be nothing to win.
        channels_last = device.kind == "cuda" and precision != "fp32"
        if measuring:
            measurable.append("channels_last")
    fused = asked.get("fused_optimizer")
    if fused is None and device.kind == "cuda":
        fused = True
    benchmark = asked.get("cudnn_benchmark")
    if benchmark is None:
        benchmark = stage != "detection"  # with many sizes it would time algorithms again and again
    settings = Settings(
        precision=precision,
        channels_last=channels_last,
        compile=None if asked.get("compile") in (None, False) else dict(asked["compile"]),
        fused_optimizer=fused,
        tf32=asked.get("tf32"),
        cudnn_benchmark=bool(benchmark) and device.kind == "cuda" and not deterministic,
        ema=asked.get("ema"),
    )
    return Resolution(settings, origins, tuple(measurable))


def resumed(
    device: Device,
    flags: Mapping[str, Any],
    recorded: Mapping[str, Any],
    *,
    allow_changes: bool,
) -> tuple[Resolution, list[str]]:
    """Settings of a run that goes on: those that it has recorded, whatever the config and the device would make of it.

    Args:
        device, flags: as for :func:`resolve`.
        recorded: ``acceleration`` of the run's record.
        allow_changes: whether flags may change them; what was asked for replaces what was recorded then.

    Returns:
        The resolution, and a line for every change.

    Raises:
        ConfigError: flags that disagree with the record, or a precision that this device lacks.
    """
    kept = {name: recorded[name] for name in NAMES if name in recorded}
    before = Settings(**kept)
    asked = {}
    for name, value in flags.items():
        # `auto` chose what was recorded; False and None both mean that nothing is compiled.
        value = before.precision if name == "precision" and value == "auto" else value
        asked[name] = None if name == "compile" and value is False else value
    changed = {name: value for name, value in asked.items() if value != getattr(before, name)}
    lines = [
        f"{FLAGS[name]}: {_shown(getattr(before, name))} in the run, {_shown(value)} now"
        for name, value in changed.items()
    ]
    if changed and not allow_changes:
        raise ConfigError(
            f"--resume: the run was begun otherwise ({'; '.join(lines)}), and would not be the same run. Leave these "
            "options out, or add --allow-changes, or use another --work-dir."
        )
    settings = Settings(**{**kept, **changed})
    require_precision(device, settings.precision, "flag" if "precision" in changed else "run")
    origins = {name: "flag" if name in changed else "run" for name in NAMES}
    return Resolution(settings, origins), lines


def require_precision(device: Device, precision: str, origin: str) -> None:
    """Refuse what the device cannot train in, with a way out.

    Raises:
        ConfigError: see above.
    """
    if precision in device.precisions:
        return
    who = {"run": "the run trains in", "config": "the config trains in", "device": "this would train in"}
    reason = (
        " fp16 has no kernels for training there." if device.kind == "cpu" and precision == "fp16" else ""
    )
    others = " or ".join(f"--precision {name}" for name in device.precisions)
    change = " with --allow-changes" if origin == "run" else ""
    raise ConfigError(
        f"{who.get(origin, 'asked for')} {precision}, which {device} does not train in.{reason} Use {others}{change}, "
        "or another device."
    )


def _shown(value: Any) -> str:
    return (
        {True: "on", False: "off", None: "default"}.get(value, str(value)) if _hashable(value) else str(value)
    )


def _hashable(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
