"""Demo data: small drawn stand-ins for ImageNet, CUB-200-2011 and Pascal VOC, in exactly their layouts.

Nothing is downloaded. Numbers measured on the demo data say that the tools work, nothing about the method.
"""

from sosr_det.data.demo.generate import generate_demo_data
from sosr_det.data.demo.record import DemoDataSummary
from sosr_det.data.demo.size import DemoSize

__all__ = ["DemoDataSummary", "DemoSize", "generate_demo_data"]
