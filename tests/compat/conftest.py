"""The fallback ops are tested through ``mmcv.ops``, so they are installed before a test module imports it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sosr_det.compat import install_mmcv_ops

PROVIDER = install_mmcv_ops()


@pytest.fixture(autouse=True)
def _fallback_in_use() -> None:
    if PROVIDER != "torchvision":
        pytest.skip("mmcv has compiled ops here: the fallback is not in use")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Callable[[str], torch.Tensor]:
    """Return arrays that mmcv's compiled ops read or wrote, by their key ``op/case/array``."""
    path = shared_data / "mmcv_ops_golden.npz"
    if not path.is_file():
        pytest.skip(f"no outputs of the compiled ops at {path}")
    arrays = np.load(path)
    return lambda key: torch.from_numpy(arrays[key])


@pytest.fixture(scope="session")
def golden_gradient() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the output gradient that the golden gradients were made with: -1 to 1, evenly spaced."""
    return lambda output: torch.linspace(-1, 1, output.numel()).view_as(output)
