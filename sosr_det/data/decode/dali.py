"""Decoding, cropping and resizing of whole batches on the GPU, by NVIDIA DALI (optional)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor

from sosr_det.data.decode.planned import COLUMNS
from sosr_det.data.decode.transforms import height_and_width
from sosr_det.errors import ConfigError, DataError, InstallationError

_NUM_BYTES, _TOP, _LEFT, _HEIGHT, _WIDTH, _FLIP = (
    COLUMNS.index(name) for name in ("num_bytes", "top", "left", "height", "width", "flip")
)


@TRANSFORMS.register_module()
class DaliDecoder:
    """Makes the views that :class:`sosr_det.data.decode.planned.PlanRandomResizedCrop` has drawn.

    For ``model.data_preprocessor.batch_decoder``. On a GPU, decoding begins on the CPU threads of DALI and ends on the
    GPU ("mixed"); on the CPU it is all done there, which is for tests. Pixels are close to, not the same as those that
    the loader's workers make: another decoder on the GPU, and DALI's triangle filter.

    Args:
        size: side of the square in pixels, or ``(height, width)``.
        num_threads: DALI's CPU threads, at least 1.

    Raises:
        InstallationError: ``nvidia.dali`` is not installed.
        ConfigError: an argument out of its range.

    Source: https://docs.nvidia.com/deeplearning/dali
    """

    def __init__(self, size: int | tuple[int, int], num_threads: int = 4) -> None:
        self.size = height_and_width(size, type(self).__name__)
        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
            raise ConfigError(
                f"DaliDecoder: num_threads must be a whole number of at least 1, got {num_threads!r}"
            )
        self.num_threads = num_threads
        self._dali = _import_dali()
        self._pipeline: Any = None
        self._built_for: tuple[int, torch.device] | None = None

    def __call__(self, files: Tensor, plan: Tensor, device: torch.device) -> Tensor:
        """uint8 ``[B, 3, *size]`` in RGB on ``device``.

        Args:
            files: uint8 ``[B, longest file]``, on the CPU.
            plan: int64 ``[B, 6]``, on the CPU; see :data:`sosr_det.data.decode.planned.COLUMNS`.

        Raises:
            DataError: DALI cannot decode one of the files.
        """
        pipeline = self._pipeline_for(len(files), device)
        bytes_, numbers = files.numpy(), plan.numpy().astype(np.int32)
        pipeline.feed_input("files", [row[: n[_NUM_BYTES]] for row, n in zip(bytes_, numbers, strict=True)])
        pipeline.feed_input("start", _rows(numbers[:, [_TOP, _LEFT]]))
        pipeline.feed_input("shape", _rows(numbers[:, [_HEIGHT, _WIDTH]]))
        pipeline.feed_input("flip", _rows(numbers[:, _FLIP]))
        try:
            (views,) = pipeline.run()
        except RuntimeError as error:
            self._pipeline = None  # DALI says that it is of no use after an error
            raise DataError(
                f"DALI cannot decode a batch: {error}. It names no file: DecodeRandomResizedCrop, in the place of "
                "PlanRandomResizedCrop and without batch_decoder, would; `sosr-det data verify` looks through them all."
            ) from error
        return self._as_tensor(views, device)

    def _pipeline_for(self, batch_size: int, device: torch.device) -> Any:
        if self._pipeline is None or self._built_for[1] != device or batch_size > self._built_for[0]:
            self._pipeline = self._build(batch_size, device)
            self._built_for = batch_size, device
        return self._pipeline

    def _build(self, batch_size: int, device: torch.device) -> Any:
        fn, types = self._dali.fn, self._dali.types
        on_gpu = device.type == "cuda"
        # One batch in, one batch out: nothing is fetched ahead, so that a resumed run loses nothing inside of DALI.
        pipeline = self._dali.Pipeline(
            batch_size=batch_size,
            num_threads=self.num_threads,
            device_id=(device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,
        )
        with pipeline:
            files = fn.external_source(name="files", dtype=types.UINT8, ndim=1)
            start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
            shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
            flip = fn.external_source(name="flip", dtype=types.INT32, ndim=0)
            views = fn.decoders.image_slice(
                files,
                start=start,
                shape=shape,
                axes=[0, 1],
                device="mixed" if on_gpu else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,  # as in the other decoders
                jpeg_fancy_upsampling=True,
            )
            views = fn.resize(views, size=list(self.size), interp_type=types.INTERP_LINEAR, antialias=True)
            views = fn.transpose(fn.flip(views, horizontal=flip), perm=[2, 0, 1])
            pipeline.set_outputs(views)
        pipeline.build()
        return pipeline

    def _as_tensor(self, views: Any, device: torch.device) -> Tensor:
        if device.type != "cuda":
            return torch.from_numpy(np.array(views.as_tensor()))
        from nvidia.dali.plugin.pytorch import feed_ndarray

        result = torch.empty((len(views), 3, *self.size), dtype=torch.uint8, device=device)
        feed_ndarray(views.as_tensor(), result, cuda_stream=torch.cuda.current_stream(device))
        return result


def _rows(numbers: np.ndarray) -> list[np.ndarray]:
    """DALI takes no arrays with gaps."""
    return [np.ascontiguousarray(row).reshape(row.shape) for row in numbers]


def _import_dali() -> Any:
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.types
    except ImportError as error:
        raise InstallationError(
            f"DaliDecoder needs NVIDIA DALI, which cannot be imported here ({error}). Install it with "
            "`pip install 'sosr-det[dali]'` (CUDA 12), or leave batch_decoder out and use DecodeRandomResizedCrop."
        ) from error
    return nvidia.dali
