"""``train --image-scale``: another size of the images that a detector is trained, validated and tested on."""

from __future__ import annotations

from typing import Any

from sosr_det.engine.configs import bare_type
from sosr_det.engine.inference_settings import InferenceSettings, is_scale, resize_steps
from sosr_det.errors import ConfigError

_SECTIONS = ("train_dataloader", "val_dataloader", "test_dataloader")


def apply_training_scale(cfg: Any, image_scale: tuple[int, int] | None) -> list[int] | None:
    """Set the scale of every ``Resize`` in the training, validation and test pipelines.

    Args:
        cfg: config of a detector; changed in place, or not at all where it is refused.
        image_scale: width, height in pixels of the box that images are fitted into, each 32 to 10,000; None changes
            nothing.

    Returns:
        The scale, for the run's record; None where it was not asked for.

    Raises:
        ConfigError: a scale out of range; a pipeline without a ``Resize`` to one fixed scale.
    """
    if image_scale is None:
        return None
    InferenceSettings(image_scale=image_scale)  # refuses what is out of range
    places = []
    for section in _SECTIONS:
        if not cfg.get(section):
            continue
        steps = list(resize_steps(cfg, section))
        several = [step for step in steps if not is_scale(step.get("scale"))]
        if several or not steps:
            found = ", ".join(bare_type(step["type"]) for step in several) or "no Resize step"
            raise ConfigError(
                f"--image-scale: the pipeline of {section} has {found}, not a Resize to one fixed scale, so one scale "
                "would not say what is trained on. It is for detectors with dict(type='Resize', scale=(W, H)); change "
                "other pipelines in the config."
            )
        places += steps
    for step in places:
        step["scale"] = tuple(image_scale)
    return list(image_scale)
