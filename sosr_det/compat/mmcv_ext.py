"""The stand-in for mmcv's compiled extension: this file is what ``import mmcv._ext`` runs (see ``install.py``).

``mmcv.ops`` looks up several hundred names here at import and calls few of them. A name without a fallback
therefore resolves to a function that raises when it is called.
"""

from collections.abc import Callable
from typing import NoReturn

import torchvision

from sosr_det.compat.bbox import bbox_overlaps
from sosr_det.compat.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from sosr_det.compat.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from sosr_det.compat.deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from sosr_det.compat.focal import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from sosr_det.compat.masked_conv import masked_col2im_forward, masked_im2col_forward
from sosr_det.compat.ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from sosr_det.compat.nms import nms, nms_match, softnms
from sosr_det.compat.roi_align import roi_align_backward, roi_align_forward
from sosr_det.compat.roi_pool import roi_pool_backward, roi_pool_forward
from sosr_det.errors import CompiledOpMissingError

__all__ = [
    "bbox_overlaps",
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "deform_roi_pool_backward",
    "deform_roi_pool_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


def get_compiler_version() -> str:
    """Stand in for the compiler's name in ``collect_env`` reports: say that nothing was compiled."""
    return f"not compiled (torchvision {torchvision.__version__} stands in, see sosr_det.compat)"


def get_compiling_cuda_version() -> str:
    """Stand in for the CUDA version in ``collect_env`` reports, with mmcv's own word for a build without CUDA."""
    return "not available"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Resolve an op without a fallback to a function that raises :class:`CompiledOpMissingError` when called."""
    if name.startswith("_"):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

    def missing_op(*args: object, **kwargs: object) -> NoReturn:
        raise CompiledOpMissingError(
            f"mmcv's op '{name}' was called, but this mmcv has no compiled ops and SOSR-Det has no fallback for it. "
            "Compile mmcv's ops with: pip install --no-cache-dir --no-binary onedl-mmcv --no-build-isolation "
            "onedl-mmcv (needs a C++ compiler and a torch whose headers accept C++17, such as 2.9.1)."
        )

    missing_op.__name__ = missing_op.__qualname__ = name
    return missing_op
