"""Fast AutoAugment with its published policies."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from sosr_det.data.fast_autoaugment_ops import OPERATIONS, cutout_rectangle
from sosr_det.errors import ConfigError

Step = tuple[str, float, float]  # operation, probability, level
SubPolicy = Sequence[Step]


@functools.cache
def published_policies() -> dict[str, list[SubPolicy]]:
    """The policies found by the paper's authors, by their own names; numbers only.

    ``fa_reduced_cifar10`` (493 sub-policies) was searched on CIFAR-10 and used for CIFAR-10 and CIFAR-100;
    ``fa_resnet50_rimagenet`` (498) is for ImageNet. Source: https://github.com/kakaobrain/fast-autoaugment
    """
    text = (
        resources.files("sosr_det.data")
        .joinpath("policies/fast_autoaugment.json")
        .read_text(encoding="utf-8")
    )
    return json.loads(text)


@TRANSFORMS.register_module()
class FastAutoAugment(v2.Transform):
    """Picks one sub-policy at random and applies its operations, each with its own probability.

    uint8 tensors ``[..., 3, H, W]`` and PIL images in RGB. The authors' training applies it first, before the crop and
    the flip.

    Args:
        policy: name of a published policy (:func:`published_policies`), or a list of sub-policies, each a list of
            ``(operation, probability, level)``: probability 0 (never) to 1 (always); level 0 to 1 is the place in the
            operation's range (:data:`sosr_det.data.fast_autoaugment_ops.OPERATIONS`).

    Raises:
        ConfigError: an unknown policy or operation, a probability or level outside 0-1.

    Source: Lim et al. 2019, https://arxiv.org/abs/1905.00397 and its code.
    """

    def __init__(self, policy: str | Sequence[SubPolicy] = "fa_reduced_cifar10") -> None:
        super().__init__()
        if isinstance(policy, str):
            published = published_policies()
            if policy not in published:
                raise ConfigError(
                    f"FastAutoAugment: unknown policy {policy!r}; published are {', '.join(sorted(published))}. "
                    "A policy of your own is a list of sub-policies."
                )
            self.policy = published[policy]
        else:
            self.policy = [_checked(number, sub_policy) for number, sub_policy in enumerate(policy)]
            if not self.policy:
                raise ConfigError("FastAutoAugment: the policy has no sub-policy")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, list[tuple[str, Any]]]:
        """``steps``: the operations drawn for this image with their values, in order."""
        height, width = F.get_size(flat_inputs[0])
        sub_policy = self.policy[int(torch.randint(len(self.policy), ()))]
        steps = []
        for name, probability, level in sub_policy:
            happens, sign, across, down = torch.rand(4, dtype=torch.float64).tolist()
            if happens > probability:
                continue
            operation = OPERATIONS[name]
            value: Any = operation.value(level)
            if operation.random_sign and sign > 0.5:
                value = -value
            if name == "Cutout":
                # numpy's uniform(w) of the published code draws between 1 and w, not 0 and w.
                centre_x, centre_y = 1 + (width - 1) * across, 1 + (height - 1) * down
                value = cutout_rectangle(value, height, width, centre_x, centre_y)
            steps.append((name, value))
        return {"steps": steps}

    def transform(self, inpt: Any, params: dict[str, list[tuple[str, Any]]]) -> Any:
        """Apply the drawn operations."""
        for name, value in params["steps"]:
            inpt = OPERATIONS[name].apply(inpt, value)
        return inpt


def _checked(number: int, sub_policy: SubPolicy) -> list[Step]:
    steps = []
    for step in sub_policy:
        if len(step) != 3 or step[0] not in OPERATIONS:
            raise ConfigError(
                f"FastAutoAugment: sub-policy {number} has the step {step!r}; expected (operation, probability, level) "
                f"with an operation of {', '.join(OPERATIONS)}"
            )
        for what, value in zip(("probability", "level"), step[1:], strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(
                    f"FastAutoAugment: sub-policy {number}, {step[0]}: {what} must be 0 to 1, got {value!r}"
                )
        steps.append((step[0], float(step[1]), float(step[2])))
    return steps
