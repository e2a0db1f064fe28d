"""What a checkpoint written by MMEngine or MMCV says: its config is text there, which is read and never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sosr_det.models import available_backbones
from sosr_det.models.imagenet_resnets import SPECS
from sosr_det.registry.config_text import config_values, walk
from sosr_det.registry.manifest import Preprocessing
from sosr_det.registry.strict_json import number
from sosr_det.transfer.foreign.evidence import Evidence

_VERSIONS = ("mmdet_version", "mmcls_version", "mmpretrain_version", "mmseg_version", "mmselfsup_version")
_OWN = "BackboneClassifier"  # sosr_det.models.classifier
_RECIPE_LIMIT = 1 << 20  # characters


def evidence_of_checkpoint(content: Mapping[str, Any]) -> Evidence | None:
    """What ``meta`` of the checkpoint says, or None where there is no such ``meta``."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    written_by = [
        f"{key.removesuffix('_version')} {meta[key]}" for key in _VERSIONS if isinstance(meta.get(key), str)
    ]
    engine = [
        f"{name} {meta[key]}"
        for name, key in (("mmengine", "mmengine_version"), ("mmcv", "mmcv_version"))
        if isinstance(meta.get(key), str)
    ]
    config = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), (str, dict))), None)
    if not engine and config is None:
        return None
    evidence = Evidence(
        project=f"OpenMMLab ({', '.join(written_by or engine or ['versions not stated'])})",
        why="its 'meta'",
        license_why="a training checkpoint states none",
    )
    seed = meta.get("seed")
    evidence.seed = seed if type(seed) is int and -(1 << 63) <= seed < 1 << 63 else None
    values = config_values(config) if isinstance(config, str) else config or {}
    model = values.get("model") if isinstance(values.get("model"), dict) else {}
    if isinstance(config, str) and values and len(config) <= _RECIPE_LIMIT:
        name = next((meta[k] for k in ("experiment_name", "exp_name") if isinstance(meta.get(k), str)), "")
        evidence.recipe = {"config_name": name.strip() or "config in the checkpoint", "config_text": config}
    _read_backbone(evidence, model)
    _read_preprocessing(evidence, values, model)
    _read_classes(evidence, meta, model)
    return evidence


def _read_backbone(evidence: Evidence, model: dict[str, Any]) -> None:
    """The stride style, and the architecture where the config names it in our words."""
    backbone = next((node["backbone"] for node in walk(model) if isinstance(node.get("backbone"), dict)), {})
    kind = str(backbone.get("type", "")).rpartition(".")[2]
    own = str(backbone.get("arch"))
    if str(model.get("type")) == _OWN and (own in available_backbones() or own.startswith("timm/")):
        evidence.arch = own
        evidence.project = "sosr-det"
        evidence.style, evidence.style_why = "pytorch", "sosr-det trains torchvision's networks"
        evidence.assumptions.append(
            "`sosr-det export RUN` keeps a run's recipe and data too; import keeps the file's"
        )
    elif kind in ("ResNet", "ResNeXt"):
        evidence.arch = _resnet_name(kind, backbone)
        style = backbone.get("style", "pytorch")
        if style in ("pytorch", "caffe"):
            evidence.style = style
            given = (
                "backbone.style"
                if "style" in backbone
                else f"the default of {kind}, backbone.style is not set"
            )
            evidence.style_why = f"{given} in the config in the file"
        # A detector may stride less and dilate instead; the weights are those of the plain network all the same.
        odd = [k for k, plain in _PLAIN.items() if k in backbone and backbone[k] not in (plain, list(plain))]
        if odd:
            said = ", ".join(f"{key}={backbone[key]}" for key in odd)
            evidence.assumptions.append(
                f"the file's network was trained with {said}; the entry has the plain strides"
            )


def _resnet_name(kind: str, backbone: dict[str, Any]) -> str | None:
    """torchvision's name of OpenMMLab's ``ResNet`` or ``ResNeXt``, or None where it has none."""
    name = f"resnet{backbone.get('depth')}"
    if kind == "ResNeXt":
        name = f"resnext{backbone.get('depth')}_{backbone.get('groups', 1)}x{backbone.get('base_width', 4)}d"
    return name if name in SPECS else None


_PLAIN = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}


def _read_preprocessing(evidence: Evidence, values: dict[str, Any], model: dict[str, Any]) -> None:
    candidates = [
        ("data_preprocessor", node["data_preprocessor"])
        for node in (model, values, *walk(model))
        if isinstance(node.get("data_preprocessor"), dict)
    ]
    if isinstance(values.get("img_norm_cfg"), dict):  # before MMDetection 3
        candidates.append(("img_norm_cfg", {"to_rgb": True} | values["img_norm_cfg"]))
    for name, settings in candidates:
        found = _numbers(settings)
        if found is None:
            continue
        own = str(settings.get("type")) == "ClassificationPreprocessor"
        to_rgb = settings.get("bgr_to_rgb", settings.get("to_rgb", False))
        order = "rgb" if own or to_rgb is True else "bgr"
        evidence.preprocessing = Preprocessing(order, *found, "0-255", "bilinear", (224, 224))
        evidence.preprocessing_why = f"{name} in the config in the file"
        evidence.assumptions.append(
            "interpolation and input size are not stated in the file: bilinear and 224x224 px are written down"
        )
        if not own:
            evidence.assumptions.append(
                f"images were decoded to BGR, as OpenMMLab's loaders do by default, so the network sees {order.upper()}"
            )
        return


def _numbers(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    try:
        mean, std = (tuple(number(value) for value in settings[key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        return None
    return (mean, std) if len(mean) == len(std) == 3 and min(std) > 0 else None


def _read_classes(evidence: Evidence, meta: Mapping[str, Any], model: dict[str, Any]) -> None:
    """A classifier's classes; a detector's are not what the backbone was made to tell apart."""
    dataset = meta.get("dataset_meta") if isinstance(meta.get("dataset_meta"), Mapping) else {}
    classes = dataset.get("classes") or meta.get("CLASSES")
    if "Classifier" in str(model.get("type")) and isinstance(classes, (list, tuple)):
        evidence.classes = tuple(name for name in classes if isinstance(name, str))
