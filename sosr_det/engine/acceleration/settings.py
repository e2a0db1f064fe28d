"""The settings, and what may be asked of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from sosr_det.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# What the command line calls each; a message must name what can be typed.
FLAGS = {
    "precision": "--precision",
    "channels_last": "--channels-last",
    "compile": "--compile",
    "fused_optimizer": "--fused-optimizer",
    "tf32": "--tf32",
    "cudnn_benchmark": "--cudnn-benchmark",
    "ema": "--ema",
}


@dataclass(frozen=True)
class Settings:
    """How a run computes. Every field has one value for a whole run, and for all of its resumptions.

    Attributes:
        precision: ``fp32``; ``bf16`` or ``fp16``: forward pass under autocast, weights, gradients and the optimizer in
            fp32. fp16 has 5 bits of exponent, so its loss is scaled.
        channels_last: weights and batches with channels innermost (NHWC) in memory; shapes stay ``[M, C, H, W]``.
        compile: arguments of ``torch.compile`` for backbone and neck; None: not compiled.
        fused_optimizer: all parameters in one kernel; None: as the config says, or PyTorch's choice.
        tf32: fp32 products with 10 bits of mantissa on Ampere and newer: True in convolutions and matrix products,
            False nowhere, None PyTorch's defaults (convolutions only).
        cudnn_benchmark: cuDNN times its algorithms at every new shape. Two processes may choose differently.
        ema: momentum of the averaged weights, inside (0, 1): their share of the newest weights at every step, so small
            values average long (0.0002: over some 5000 steps). None: not averaged.
    """

    precision: str = "fp32"
    channels_last: bool = False
    compile: dict[str, Any] | None = None
    fused_optimizer: bool | None = None
    tf32: bool | None = None
    cudnn_benchmark: bool = False
    ema: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for run records."""
        return asdict(self)


NAMES = tuple(field.name for field in fields(Settings))


def checked(values: dict[str, Any], source: str) -> dict[str, Any]:
    """``values`` with ``compile`` as a dict or False, all in range; ``precision`` may be ``auto``.

    Args:
        values: some of the fields of :class:`Settings`.
        source: what they come from, for messages.

    Raises:
        ConfigError: an unknown name, or a value out of range.
    """
    unknown = sorted(set(values) - set(NAMES))
    if unknown:
        raise ConfigError(f"{source}: there is no {unknown[0]!r}; expected some of {', '.join(NAMES)}.")
    found = dict(values)
    precision = found.get("precision")
    if precision is not None and precision not in ("auto", *PRECISIONS):
        raise ConfigError(f"{source}: precision must be auto, {', '.join(PRECISIONS)}; got {precision!r}.")
    ema = found.get("ema")
    if ema is not None and (
        isinstance(ema, bool) or not isinstance(ema, (int, float)) or not 0.0 < ema < 1.0
    ):
        raise ConfigError(
            f"{source}: ema is the share of the newest weights in their average and must lie inside (0, 1), such as "
            f"0.0002; got {ema!r}."
        )
    for name in ("channels_last", "fused_optimizer", "tf32", "cudnn_benchmark"):
        if found.get(name) is not None and not isinstance(found[name], bool):
            raise ConfigError(f"{source}: {name} must be True or False, got {found[name]!r}.")
    if found.get("compile") is not None:
        found["compile"] = _checked_compile(found["compile"], source)
    return found


def _checked_compile(value: Any, source: str) -> dict[str, Any] | bool:
    if isinstance(value, bool):
        return {} if value else False
    if not isinstance(value, dict):
        raise ConfigError(
            f"{source}: compile must be True, False or a dict of torch.compile's arguments; got {value!r}."
        )
    mode = value.get("mode")
    if mode is not None and mode not in COMPILE_MODES:
        raise ConfigError(f"{source}: compile mode must be one of {', '.join(COMPILE_MODES)}; got {mode!r}.")
    return dict(value)
