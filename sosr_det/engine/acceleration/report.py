"""The one line that says how a run computes."""

from __future__ import annotations

from sosr_det.engine.acceleration.device import Device
from sosr_det.engine.acceleration.measurement import Measurement
from sosr_det.engine.acceleration.settings import Settings


def acceleration_line(
    device: Device,
    settings: Settings,
    optimizer: str,
    *,
    measurement: Measurement | None = None,
    note: str = "",
) -> str:
    """What is used on this device, what was measured, and how to have it otherwise.

    Args:
        device, settings: as resolved.
        optimizer: its type, such as ``SGD``.
        measurement: what decided the layout or the precision; None where nothing was measured.
        note: a remark of a few words, such as why nothing was measured, or ``as the run began``.
    """
    layout = "channels_last" if settings.channels_last else "NCHW"
    parts = [_precision(device, settings), layout, _optimizer(settings, optimizer)]
    if settings.compile is not None:
        mode = settings.compile.get("mode") or settings.compile.get("backend") or "default"
        parts.append(f"torch.compile ({mode})")
    if device.kind == "cuda":
        parts.append(f"cuDNN benchmark {'on' if settings.cudnn_benchmark else 'off'}")
    if settings.ema is not None:
        parts.append(f"weights averaged by {settings.ema:g} (EMA, also what is validated and published)")
    details = "; ".join(filter(None, [f"measured {measurement.line()}" if measurement else "", note]))
    said = f"acceleration: {device}: {', '.join(parts)}" + (f" ({details})" if details else "")
    return f"{said}. {_advice(device, settings)}"


def _precision(device: Device, settings: Settings) -> str:
    if settings.precision != "fp32":
        return f"{settings.precision} mixed precision"
    if not device.has_tf32 or settings.tf32 is False:
        return "fp32"
    return "fp32 with TF32" if settings.tf32 else "fp32 with TF32 in convolutions"


def _optimizer(settings: Settings, optimizer: str) -> str:
    return f"fused {optimizer}" if settings.fused_optimizer else optimizer


def _advice(device: Device, settings: Settings) -> str:
    faster = device.mixed_precision
    if device.kind == "cuda" and settings.precision == "fp32" and faster != "fp32":
        return (
            f"--amp trains in {faster}; others: --channels-last, --compile, --fused-optimizer, --tf32, "
            "--cudnn-benchmark, --ema"
        )
    others = "--precision, --channels-last, --compile, --fused-optimizer"
    return f"Change it with {others}{', --tf32, --cudnn-benchmark' if device.kind == 'cuda' else ''}, --ema"
