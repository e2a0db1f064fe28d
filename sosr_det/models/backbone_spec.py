"""What a consumer must know about a backbone besides its tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone, in words and numbers that a run record and a manifest can carry.

    Attributes:
        name: what :func:`sosr_det.models.build_backbone` takes, for example ``resnet50``.
        source: library whose parameter names the tensors carry: ``torchvision``, ``pytorchcv`` or ``timm``.
        source_name: the network's name there, for example ``resnet56_cifar10``.
        style: where a bottleneck strides: ``pytorch`` (3x3 convolution) or ``caffe`` (first 1x1).
            Both have the same parameter names and shapes, so only this field tells them apart.
            None where there is no such choice, or the source does not state it.
        stem: the layers before the first stage, and every stride that differs from the source's network.
        initialisation: how the random weights were drawn; the source library's own way unless it says otherwise.
        depth: number of weighted layers as the network's own paper counts them (MMDetection's ``depth`` of its
            ResNet); None where the paper gives no such number.
        stage_channels: output channels of the stages, shallow to deep; for the ResNets of ``torchvision`` at
            strides 4, 8, 16 and 32. Empty where the source does not tell.
        num_features: width of the pooled feature vector.
    """

    name: str
    source: str
    source_name: str
    style: str | None
    stem: str
    initialisation: str
    depth: int | None
    stage_channels: tuple[int, ...]
    num_features: int

    def to_dict(self) -> dict:
        """Plain JSON types, for run records and manifests."""
        return {**asdict(self), "stage_channels": list(self.stage_channels)}
