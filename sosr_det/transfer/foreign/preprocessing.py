"""How pixels were prepared: presets by name, or mean, std and order in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sosr_det.errors import ConfigError
from sosr_det.registry.manifest import Preprocessing

# torchvision's and timm's usual normalisation on the 0-255 scale.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CAFFE_MEAN = (103.53, 116.28, 123.675)

TORCHVISION = Preprocessing("rgb", IMAGENET_MEAN, IMAGENET_STD, "0-255", "bilinear", (224, 224))
# Detectron's and MMDetection's `detectron2/resnet50_caffe`: https://github.com/open-mmlab/mmdetection/tree/main/configs
CAFFE = Preprocessing("bgr", _CAFFE_MEAN, (1.0, 1.0, 1.0), "0-255", "bilinear", (224, 224))

FORMS = (
    "torchvision, caffe, timm:NAME, or mean=R,G,B,std=R,G,B,order=rgb|bgr"
    "[,scale=0-255|0-1][,size=224][,interpolation=bilinear]"
)
_KEYS = ("mean", "std", "order", "scale", "size", "interpolation")


def parse_preprocessing(text: str) -> tuple[Preprocessing, str | None, str]:
    """Read the value of ``--preprocessing``.

    ``mean`` and ``std`` are given in the network's channel order, on the 0-255 scale unless ``scale=0-1`` is given.

    Returns:
        The preprocessing, the stride style that a preset stands for (None for mean and std), and where it comes from.

    Raises:
        ConfigError: another form, a missing or impossible value, or a name that timm does not know.
    """
    if text == "torchvision":
        return TORCHVISION, "pytorch", "the preset 'torchvision'"
    if text == "caffe":
        return CAFFE, "caffe", "the preset 'caffe'"
    if text.startswith("timm:"):
        from sosr_det.transfer.foreign.timm_zoo import preprocessing_of, pretrained_cfg

        cfg = pretrained_cfg(text.removeprefix("timm:"))
        return preprocessing_of(cfg), "pytorch", f"timm's settings of {cfg.architecture}.{cfg.tag}"
    return _parse_values(text), None, "the command line"


def from_unit_scale(
    mean: Sequence[float], std: Sequence[float], interpolation: str, size: tuple[int, int]
) -> Preprocessing:
    """RGB preprocessing whose mean and std are given for pixels from 0 to 1, on the 0-255 scale."""
    scaled = [tuple(round(float(value) * 255, 6) for value in values) for values in (mean, std)]
    return Preprocessing("rgb", scaled[0], scaled[1], "0-255", interpolation, size)


def describe(preprocessing: Preprocessing) -> str:
    """One line: order, mean, std, scale."""
    mean, std = ([f"{value:g}" for value in values] for values in (preprocessing.mean, preprocessing.std))
    return (
        f"{preprocessing.channel_order}, mean {', '.join(mean)}, std {', '.join(std)} ({preprocessing.scale}), "
        f"{preprocessing.interpolation}, {preprocessing.input_size[0]}x{preprocessing.input_size[1]} px"
    )


def _parse_values(text: str) -> Preprocessing:
    pairs = dict(part.partition("=")[::2] for part in re.split(r",(?=[a-z]+=)", text))
    unknown = [key for key in pairs if key not in _KEYS]
    if unknown or not {"mean", "std", "order"} <= pairs.keys():
        raise ConfigError(f"--preprocessing is {text!r}, expected {FORMS}.")
    mean, std = (_numbers(key, pairs[key]) for key in ("mean", "std"))
    scale = pairs.get("scale", "0-255")
    checks = {
        "order": pairs["order"] in ("rgb", "bgr"),
        "scale": scale in ("0-255", "0-1"),
        "std (each above 0)": min(std) > 0,
        "size": re.fullmatch(r"[1-9]\d{0,4}", pairs.get("size", "224")) is not None,
        "interpolation": re.fullmatch(r"[a-z]+", pairs.get("interpolation", "bilinear")) is not None,
        "scale (mean and std up to 1 belong to scale=0-1)": "scale" in pairs or max(*mean, *std) > 1,
    }
    if wrong := [key for key, fine in checks.items() if not fine]:
        raise ConfigError(f"--preprocessing {text!r}: wrong {', '.join(wrong)}; expected {FORMS}.")
    size = int(pairs.get("size", "224"))
    return Preprocessing(
        pairs["order"], mean, std, scale, pairs.get("interpolation", "bilinear"), (size, size)
    )


def _numbers(key: str, text: str) -> tuple[float, float, float]:
    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(abs(value) < 1e6 for value in values):
        raise ConfigError(
            f"--preprocessing: {key} is {text!r}, expected three numbers such as 123.675,116.28,103.53."
        )
    return values
