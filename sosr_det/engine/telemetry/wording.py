"""Numbers of a training as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

_MOST_METRICS = 6


def duration(seconds: float | None) -> str:
    """``8 s``, ``12 min 05 s``, ``5 h 12 min``, ``3 d 4 h``; ``?`` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def size(mebibytes: float) -> str:
    """``512 MiB``, ``2.1 GiB``."""
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def number(value: float | None) -> str:
    """Four significant digits; ``nan`` for None, which is what JSON has for it."""
    return "nan" if value is None else f"{value:.4g}"


def rate(img_per_s: float | None) -> str:
    return (
        "? img/s"
        if img_per_s is None
        else f"{img_per_s:.0f} img/s"
        if img_per_s >= 10
        else f"{img_per_s:.2g} img/s"
    )


def step_details(record: Mapping[str, Any]) -> list[str]:
    """The parts of a line about a training step, from a record of ``metrics.jsonl``."""
    terms = [
        f"{name} {number(record[name])}" for name in record if name.startswith("loss") and name != "loss"
    ]
    parts = []
    if "loss" in record:
        of = f" ({', '.join(terms)})" if terms else ""
        parts.append(f"loss {number(record['loss'])}{of}")
    else:
        parts += terms
    if record.get("lr") is not None:
        parts.append(f"lr {number(record['lr'])}")
    if record.get("grad_norm") is not None:
        parts.append(f"grad norm {record['grad_norm']:.3g}")
    parts.append(rate(record.get("img_per_s")))
    if record.get("data_wait_fraction") is not None:
        parts.append(f"data wait {record['data_wait_fraction']:.0%}")
    if record.get("memory_mib") is not None:
        parts.append(size(record["memory_mib"]))
    return parts


def metric_list(metrics: Mapping[str, Any]) -> str:
    """``accuracy/top1 71.3, accuracy/top5 90.1``; of many metrics the first ones. Whole numbers are left out."""
    real = {name: value for name, value in metrics.items() if isinstance(value, Real)}
    shown = [f"{name} {value:.4g}" for name, value in real.items() if not isinstance(value, Integral)]
    more = len(shown) - _MOST_METRICS
    return ", ".join(shown[:_MOST_METRICS]) + (f", and {more} more" if more > 0 else "")
