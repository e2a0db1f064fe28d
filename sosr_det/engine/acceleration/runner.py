"""The steps that acceleration must take while mmengine's Runner builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from sosr_det.engine.acceleration.config_keys import wrapper_config
from sosr_det.engine.acceleration.layout import to_channels_last

if TYPE_CHECKING:
    from sosr_det.engine.acceleration.plan import Plan


class Accelerated:
    """Mixed into a Runner: lays out the model before it is wrapped, and builds the optimizer as a plan says.

    The config stays as it was written, but for the precision: how the optimizer computes is no part of a recipe.
    """

    acceleration: Plan

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Lay out first: DistributedDataParallel's buffers take over the layout of the weights that it finds."""
        if self.acceleration.settings.channels_last:
            to_channels_last(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """In the settled precision, and with the fused kernel where it was settled."""
        settings = self.acceleration.settings
        if isinstance(optim_wrapper, dict) and isinstance(optim_wrapper.get("optimizer"), dict):
            optim_wrapper = wrapper_config(optim_wrapper, settings.precision)
            self.cfg.optim_wrapper = optim_wrapper  # for the record
            optimizer = {key: value for key, value in optim_wrapper["optimizer"].items() if key != "fused"}
            if settings.fused_optimizer:
                optimizer["fused"] = True
            optim_wrapper = {**optim_wrapper, "optimizer": optimizer}
        return super().build_optim_wrapper(optim_wrapper)

    def _maybe_compile(self, target: str) -> None:
        """Nothing: mmengine would compile whole training steps; the plan has compiled parts of the model."""


def accelerated(runner_type: type, plan: Plan) -> type:
    """``runner_type`` following ``plan``: a class, since mmengine builds a model inside the constructor."""
    return type(runner_type.__name__, (Accelerated, runner_type), {"acceleration": plan})
