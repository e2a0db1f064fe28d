"""A name in the configs that earlier runs left in their folders."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Does nothing: :class:`sosr_det.engine.telemetry.hook.MetricsHook`, which every run carries, logs ``img_per_s``.

    Configs that were saved with a run before name it.
    """
