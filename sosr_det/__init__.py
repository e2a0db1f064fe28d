"""SOSR-Det: Selective Output Smoothing Regularization and verified backbone transfer into MMDetection.

Importing this package is cheap (no torch, no OpenMMLab). Import what you need from its rooms:
``sosr_det.losses`` for the method alone, ``sosr_det.register`` for the OpenMMLab integration.
"""

__version__ = "0.1.0"
