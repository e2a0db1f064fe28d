"""Transforms by name: torchvision's v2 transforms as ``torchvision/NAME``, and pipelines built from configs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.registry import TRANSFORMS
from torchvision.transforms import v2

from sosr_det.errors import ConfigError


@TRANSFORMS.register_module(name="torchvision/AutoAugment")
class NamedAutoAugment(v2.AutoAugment):
    """torchvision's ``AutoAugment``, with the policy given by name, as configs hold text and no enums.

    Args:
        policy: ``'imagenet'``, ``'cifar10'`` (also for CIFAR-100) or ``'svhn'``, or the enum member.
        others: see ``torchvision.transforms.v2.AutoAugment``.

    Raises:
        ConfigError: no such policy.

    Source: Cubuk et al. 2018, https://arxiv.org/abs/1805.09501
    """

    def __init__(self, policy: str | v2.AutoAugmentPolicy = "imagenet", **others: Any) -> None:
        try:
            chosen = v2.AutoAugmentPolicy(policy)
        except ValueError as error:
            names = ", ".join(repr(member.value) for member in v2.AutoAugmentPolicy)
            raise ConfigError(f"AutoAugment: policy must be one of {names}, got {policy!r}") from error
        super().__init__(chosen, **others)


def _register_torchvision_transforms() -> None:
    """Make every torchvision v2 transform usable in a config as ``torchvision/NAME`` (mmpretrain's naming)."""
    for name in dir(v2):
        transform = getattr(v2, name)
        if isinstance(transform, type) and issubclass(transform, v2.Transform):
            key = f"torchvision/{name}"
            if key not in TRANSFORMS.module_dict:
                TRANSFORMS.register_module(name=key, module=transform)


_register_torchvision_transforms()


def build_transform(step: dict | Callable) -> Callable:
    """A transform from its config; anything callable (a transform of one's own) is returned as it is."""
    return TRANSFORMS.build(dict(step)) if isinstance(step, dict) else step


def build_pipeline(steps: Sequence[dict | Callable]) -> Callable[[Any], Any]:
    """The transforms of ``steps`` applied one after the other; no step is the identity."""
    built = [build_transform(step) for step in steps]
    return v2.Compose(built) if built else v2.Identity()
