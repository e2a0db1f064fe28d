"""Classifiers as mmengine models, and the factory that builds their backbones."""

from sosr_det.models.backbone_spec import BackboneSpec
from sosr_det.models.backbones import available_backbones, build_backbone
from sosr_det.models.classifier import BackboneClassifier
from sosr_det.models.criteria import build_criterion
from sosr_det.models.preprocessor import ClassificationPreprocessor

__all__ = [
    "BackboneClassifier",
    "BackboneSpec",
    "ClassificationPreprocessor",
    "available_backbones",
    "build_backbone",
    "build_criterion",
]
