"""How metrics are called and in which unit they are shown; a manifest stores them as their metric reports them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """``title`` for people; ``factor`` from the stored number to the shown one; ``unit`` of the shown number."""

    title: str
    factor: float
    unit: str
    higher_is_better: bool = True


# Accuracies are stored in percent, average precisions and calibration errors as fractions.
METRICS = {
    "top1": Metric("top-1", 1, "%"),
    "top5": Metric("top-5", 1, "%"),
    "ece": Metric("ECE", 1, "", higher_is_better=False),
    "nll": Metric("negative log-likelihood", 1, "nats", higher_is_better=False),
    "map_11point": Metric("VOC mAP 11-point", 100, "%"),
    "map_area": Metric("VOC mAP area", 100, "%"),
    "ap50": Metric("AP50", 100, "%"),
    "map": Metric("mAP 0.50:0.95", 100, "%"),
}
_PER_CLASS = {"ap_11point/": "VOC AP 11-point", "ap_area/": "VOC AP area"}
KEY_METRICS = {"backbone": ("top1", "ece"), "detector": ("map_11point", "map", "ap50")}


def metric_of(name: str) -> Metric:
    """What is known about a metric; one that is not known is shown as it is stored."""
    for prefix, title in _PER_CLASS.items():
        if name.startswith(prefix):
            return Metric(f"{title} {name.removeprefix(prefix)}", 100, "%")
    return METRICS.get(name, Metric(name, 1, ""))


def metric_text(name: str, value: float) -> str:
    """The value in the unit that people read, with it: ``76.13 %``, ``0.0372``."""
    metric = metric_of(name)
    text = f"{value * metric.factor:.2f}" if metric.unit == "%" else f"{value * metric.factor:.4g}"
    return f"{text} {metric.unit}".rstrip()
