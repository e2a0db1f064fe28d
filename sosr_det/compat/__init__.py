"""MMDetection without mmcv's compiled ops: ``mmcv._ext`` from ``torchvision.ops`` and plain torch.

PyPI's mmcv has no compiled ops, and without them ``import mmdet.models`` fails. Call :func:`install_mmcv_ops`
once, before the first import of ``mmcv.ops``, ``mmcv.cnn`` or ``mmdet``; compiled ops win where there are any.

One file per op family holds functions with the names, arguments and in-place outputs of mmcv's C++ bindings
(``mmcv/ops/csrc/pytorch/pybind.cpp``), so that ``mmcv.ops`` runs unchanged on top. Importing this package
imports neither torch nor OpenMMLab.
"""

from sosr_det.compat.install import install_mmcv_ops, mmcv_ops_provider

__all__ = ["install_mmcv_ops", "mmcv_ops_provider"]
