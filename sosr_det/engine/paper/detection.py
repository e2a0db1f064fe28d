"""Table 8 of the paper (https://arxiv.org/abs/2103.15383): object detection, whose configs are files."""

from __future__ import annotations

from dataclasses import dataclass

NUMBER = 8
CAPTION = (
    "Impact of Selective Output Smoothing Regularization on transfer learning of pretrained model to object "
    "detection."
)


@dataclass(frozen=True)
class DetectionCell:
    """One mAP of Table 8.

    Attributes:
        row: label of the row as printed.
        map_percent: mean average precision in %, as printed; the paper does not say which definition of AP.
        config: name of the config that stands for it.
    """

    row: str
    map_percent: str
    config: str


DETECTION_CELLS = (
    DetectionCell(
        "pre-trained ResNet-50-FPN", "70.17±0.02", "detection/retinanet_r50-ce-pre_fpn_paper30e_voc0712"
    ),
    DetectionCell(
        "SOSR pre-trained ResNet-50-FPN",
        "71.14±0.06",
        "detection/retinanet_r50-sosr-pre_fpn_paper30e_voc0712",
    ),
)
