"""What a config says about acceleration: in ``acceleration = dict(...)``, and in mmengine's own keys."""

from __future__ import annotations

from typing import Any

from sosr_det.engine.acceleration.settings import checked
from sosr_det.engine.configs import bare_type
from sosr_det.errors import ConfigError

BF16_WRAPPER, FP16_WRAPPER, PLAIN_WRAPPER = "Bfloat16OptimWrapper", "AmpOptimWrapper", "OptimWrapper"
OWN_EMA = "WeightAverageHook"
_OTHER_EMAS = ("EMAHook",)


def config_settings(cfg: Any) -> dict[str, Any]:
    """The settings that ``acceleration`` names, and beneath them those that mmengine's keys imply.

    Raises:
        ConfigError: see :func:`sosr_det.engine.acceleration.settings.checked`.
    """
    own = checked(dict(cfg.get("acceleration") or {}), "the config's acceleration")
    implied: dict[str, Any] = {"precision": wrapper_precision(cfg.get("optim_wrapper"))}
    if cfg.get("compile") is not None:
        implied |= checked({"compile": _plain(cfg.compile)}, "the config")
    benchmark = (cfg.get("env_cfg") or {}).get("cudnn_benchmark")
    if benchmark is not None:
        implied["cudnn_benchmark"] = bool(benchmark)
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer")
    if isinstance(optimizer, dict) and optimizer.get("fused") is not None:
        implied["fused_optimizer"] = bool(optimizer["fused"])
    implied["ema"] = next(
        (hook.get("momentum") for hook in cfg.get("custom_hooks") or [] if hook.get("type") == OWN_EMA), None
    )
    return {key: value for key, value in {**implied, **own}.items() if value is not None}


def wrapper_precision(wrapper: Any) -> str | None:
    """The mixed precision that an ``optim_wrapper`` config asks for; None for fp32, and for unknown types."""
    kind = _kind(wrapper)
    if kind == BF16_WRAPPER:
        return "bf16"
    if kind == FP16_WRAPPER:  # dtype None is PyTorch's default on CUDA, fp16
        return {"bfloat16": "bf16", "float32": "fp32"}.get(str(wrapper.get("dtype")), "fp16")
    return None


def wrapper_config(wrapper: dict[str, Any], precision: str) -> dict[str, Any]:
    """An ``optim_wrapper`` config in another precision: clipping, accumulation and parameter groups stay.

    Raises:
        ConfigError: a wrapper of another type, whose precision is its own affair.
    """
    kind = _kind(wrapper)
    if (wrapper_precision(wrapper) or "fp32") == precision:
        return wrapper  # with its own loss scale
    if kind not in (PLAIN_WRAPPER, FP16_WRAPPER, BF16_WRAPPER):
        raise ConfigError(
            f"--precision {precision}: the config's optim_wrapper is a {kind}, which decides the precision itself. "
            f"Leave --precision and --amp out, or give the config an {PLAIN_WRAPPER}."
        )
    changed = {key: value for key, value in wrapper.items() if key not in ("loss_scale", "dtype", "use_fsdp")}
    changed["type"] = {"fp32": PLAIN_WRAPPER, "bf16": BF16_WRAPPER, "fp16": FP16_WRAPPER}[precision]
    if precision == "fp16":
        changed |= {"dtype": "float16", "loss_scale": "dynamic"}
    return changed


def set_ema(cfg: Any, momentum: float | None) -> None:
    """Give the config's ``custom_hooks`` our averaging hook, or take it out.

    Raises:
        ConfigError: the config averages its weights by another hook.
    """
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != OWN_EMA]
    if momentum is not None:
        other = next((h["type"] for h in hooks if bare_type(h.get("type")) in _OTHER_EMAS), None)
        if other:
            raise ConfigError(
                f"--ema: the config averages its weights already, by a hook of type {other}. Leave --ema out, or "
                "remove that hook from custom_hooks."
            )
        hooks.append({"type": OWN_EMA, "momentum": momentum})
    if hooks != list(cfg.get("custom_hooks") or []):
        cfg.custom_hooks = hooks


def _kind(wrapper: Any) -> str:
    return bare_type((wrapper or {}).get("type") or PLAIN_WRAPPER)


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value
