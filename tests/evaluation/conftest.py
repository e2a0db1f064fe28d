"""Real detections for the tests of every metric."""

import json

import pytest

from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.formats.devkit import read_detections
from sosr_det.evaluation.formats.ground_truth import read_ground_truth
from sosr_det.evaluation.formats.voc_folder import read_image_set


@pytest.fixture(scope="session")
def yolov2(unpacked):
    """101,139 detections of a public YOLOv2 on VOC2007 test as a set, and ``golden_ap.json``."""
    folder = unpacked("yolov2-voc07-test")
    golden = json.loads((folder / "golden_ap.json").read_text())
    classes = list(golden["ap_area"])
    voc2007 = unpacked("voc0712-annotations") / "VOCdevkit" / "VOC2007"
    image_ids = read_image_set(voc2007 / "ImageSets" / "Main" / "test.txt")
    ground_truth = read_ground_truth(voc2007 / "Annotations", image_ids, classes)
    return EvaluationSet(
        classes, image_ids, ground_truth, read_detections(folder, image_ids, classes)
    ), golden
