"""Linear scaling of the learning rate with the batch, and the one line that says what it did.

mmengine's ``auto_scale_lr`` multiplies the rate by images per step over ``base_batch_size``
(https://arxiv.org/abs/1706.02677) and says so in the middle of its start-up log.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LearningRateScaling:
    """What ``auto_scale_lr`` makes of a config's rate.

    Attributes:
        config_lr: the rate in the config.
        lr: the rate that training starts from (before warm-up).
        base_batch_size: images per step that the config's rate is for.
        batch_size_per_device: images per step on one device.
        world_size: number of devices.
        enabled: whether the rate is scaled.
        accumulated_steps: backward passes per update.
        accumulation_counted: whether the rate is scaled with them: with ``--accumulate``; mmengine leaves them out.
    """

    config_lr: float
    lr: float
    base_batch_size: int
    batch_size_per_device: int
    world_size: int
    enabled: bool
    accumulated_steps: int = 1
    accumulation_counted: bool = False

    @property
    def batch_size(self) -> int:
        """Images per step, over all devices; per update where accumulated steps count."""
        counted = self.accumulated_steps if self.accumulation_counted else 1
        return self.batch_size_per_device * self.world_size * counted

    def line(self) -> str:
        """One sentence for the terminal."""
        times = f" x {self.accumulated_steps} accumulated" if self.accumulation_counted else ""
        real = f"{self.world_size} x {self.batch_size_per_device}{times} = {self.batch_size}"
        start = f"lr {self.config_lr:g} is for {_images(self.base_batch_size)} a step; this run has {real}: "
        note = ""
        if self.accumulated_steps > 1 and not self.accumulation_counted:
            note = f" (accumulative_counts={self.accumulated_steps} is not counted)"
        if self.batch_size == self.base_batch_size:
            return f"{start}lr {self.config_lr:g}{note}"
        if self.enabled:
            return f"{start}lr {self.lr:g}{note} (off: --cfg-options auto_scale_lr.enable=False)"
        return f"{start}lr stays {self.config_lr:g}{note} (scale it: --cfg-options auto_scale_lr.enable=True)"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for run records."""
        return asdict(self)


def learning_rate_scaling(cfg: Any, world_size: int) -> LearningRateScaling | None:
    """Read it from a config; None where the config does not say which batch its rate is for, or has no single rate."""
    scaling = cfg.get("auto_scale_lr") or {}
    base = scaling.get("base_batch_size")
    loader, wrapper = cfg.get("train_dataloader") or {}, cfg.get("optim_wrapper") or {}
    lr = (wrapper.get("optimizer") or {}).get("lr")
    per_device = loader.get("batch_size")
    if not base or lr is None or not per_device:
        return None
    enabled = bool(scaling.get("enable", False))
    accumulated = int(wrapper.get("accumulative_counts") or 1)
    counted = int(scaling.get("counted_accumulation", 1)) if enabled else 1
    lr /= counted  # --accumulate has multiplied the config's
    factor = per_device * world_size * counted / base if enabled else 1.0
    return LearningRateScaling(
        lr,
        lr * factor,
        base,
        per_device,
        world_size,
        enabled,
        accumulated,
        counted > 1,
    )


def effective_batch_line(cfg: Any, world_size: int) -> str | None:
    """What an update is made of, for a config that does not say which batch its rate is for; None without a loader."""
    per_device = (cfg.get("train_dataloader") or {}).get("batch_size")
    if not per_device:
        return None
    wrapper = cfg.get("optim_wrapper") or {}
    accumulated = int(wrapper.get("accumulative_counts") or 1)
    lr = (wrapper.get("optimizer") or {}).get("lr")
    times = f" x {accumulated} accumulated" if accumulated > 1 else ""
    total = world_size * per_device * accumulated
    rate = (
        "" if lr is None else f"; lr {lr:g}, whatever the batch: the config does not say which one it is for"
    )
    return f"{world_size} x {per_device}{times} = {_images(total)} an update{rate}"


def resumed_scaling(
    now: LearningRateScaling | None, earlier: dict[str, Any] | None, world_size: int | None
) -> tuple[dict[str, Any] | None, str | None]:
    """What a resumed run trains with: its optimizer's state holds the rate that it began with, whatever is scaled now.

    Args:
        now: what the config and the devices of the resumption would make of a new run.
        earlier: ``lr_scaling`` of the run's record; None where it has none.
        world_size: number of devices in the record; None if unknown.

    Returns:
        What the record keeps (the earlier one, where there is one), and a warning in one line or None.
    """
    if now is None:
        return earlier, None
    real = f"{now.world_size} x {now.batch_size_per_device} = {_images(now.batch_size)} a step"
    if not earlier:
        if world_size in (None, now.world_size):
            return now.to_dict(), None
        return None, (
            f"--resume: the run began on {world_size} device(s) and goes on with {real}; its learning rate stays what "
            "it was, it is not scaled again. Use as many devices as before, or begin a new run."
        )
    changed = [
        key for key in ("lr", "batch_size_per_device", "world_size") if earlier.get(key) != getattr(now, key)
    ]
    update = earlier.get("world_size", 0) * earlier.get("batch_size_per_device", 0)
    update *= earlier.get("accumulated_steps", 1)
    same_update = update == now.world_size * now.batch_size_per_device * now.accumulated_steps
    if not changed or (same_update and kept_rate_factor(now, earlier) is not None):
        return earlier, None
    before = f"{earlier.get('world_size')} x {earlier.get('batch_size_per_device')} images a step"
    return earlier, (
        f"--resume: the run began with lr {earlier.get('lr'):g} for {before} and goes on with {real}; its lr stays "
        f"that of its beginning (a new run would have {now.lr:g}). Use the devices and the batch of before, or begin "
        "a new run."
    )


def kept_rate_factor(now: LearningRateScaling | None, earlier: dict[str, Any] | None) -> float | None:
    """What the rate of a new run is to be multiplied with for the one that the resumed run began with.

    Both come from the same rate of the config, and were scaled for other batches or accumulation. None where that is
    not so: no scaling is known, or the config's rate is another one.
    """
    if now is None or not earlier or not now.lr or not earlier.get("lr"):
        return None
    if not math.isclose(earlier.get("config_lr", 0.0), now.config_lr, rel_tol=1e-9):
        return None
    return earlier["lr"] / now.lr


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
