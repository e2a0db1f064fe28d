"""VOC average precision, classification accuracy and calibration.

``voc_ap`` and ``formats`` need numpy only; ``voc_metric`` and ``classification`` are mmengine metrics,
registered when they are imported (``sosr_det.register`` does that).
"""
