"""masked_conv2d is the plain convolution at the chosen pixels and 0 elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import MaskedConv2d, masked_conv2d


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), (1, 1)), ((1, 1), (0, 0)), ((3, 5), (1, 2))])
def test_is_the_convolution_where_the_mask_is_set(generator, kernel, padding):
    features = torch.randn(1, 3, 6, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 3, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    mask = torch.rand(1, 6, 5, generator=generator) > 0.6
    mask[0, 0, 0] = mask[0, 5, 4] = True  # corners, whose windows reach outside
    assert 2 < mask.sum() < 29
    output = masked_conv2d(features, mask, weight, bias, padding)
    expected = F.conv2d(features, weight, bias, padding=padding)
    torch.testing.assert_close(output, expected * mask)


def test_windows_past_a_short_padding():
    """Without padding the output is smaller than the mask; chosen pixels past it have zeros in their windows."""
    from sosr_det.compat.masked_conv import masked_im2col_forward

    image = torch.arange(1.0, 10).view(1, 1, 3, 3)
    columns = torch.full((4, 2), -1.0)
    masked_im2col_forward(image, torch.tensor([0, 2]), torch.tensor([0, 2]), columns, 2, 2, 0, 0)
    assert columns.tolist() == [[1, 9], [2, 0], [4, 0], [5, 0]]


def test_empty_and_full_mask_of_the_layer():
    layer = MaskedConv2d(2, 3, 3, padding=1)
    features = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not layer(features, torch.zeros(1, 4, 4)).any()
    torch.testing.assert_close(layer(features, torch.ones(1, 4, 4)), layer(features))
