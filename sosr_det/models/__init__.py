"""Classifiers as mmengine models, and the factory that builds their backbones."""

from sosr_det.models.backbones import BackboneSpec, available_backbones, build_backbone
from sosr_det.models.classifier import BackboneClassifier, ClassificationPreprocessor

__all__ = [
    "BackboneClassifier",
    "BackboneSpec",
    "ClassificationPreprocessor",
    "available_backbones",
    "build_backbone",
]
