"""The blocks against torch's layers in a row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastinpaint import nn as fnn

BLOCKS = {
    "2d": (fnn.ConvBNReLU2d, nn.Conv2d, nn.BatchNorm2d, (2, 3, 7, 6), {"stride": 2, "dilation": 2, "padding": 2}),
    "3d": (fnn.ConvBNReLU3d, nn.Conv3d, nn.BatchNorm3d, (1, 3, 4, 6, 5), {"stride": (1, 2, 2), "padding": 1}),
    "2d transposed": (fnn.ConvTransposeBNReLU2d, nn.ConvTranspose2d, nn.BatchNorm2d, (2, 3, 4, 5), {"stride": 2}),
    "3d transposed": (
        fnn.ConvTransposeBNReLU3d,
        nn.ConvTranspose3d,
        nn.BatchNorm3d,
        (1, 3, 3, 4, 5),
        {"output_padding": (0, 1, 0), "stride": 2},
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_convolution_batch_norm_and_relu(name: str) -> None:
    kind, conv, norm, shape, options = BLOCKS[name]
    block = kind(3, 4, 3, momentum=0.2, eps=1e-3, dtype=torch.float64, **options)
    plain = nn.Sequential(conv(3, 4, 3, bias=False, **options), norm(4, 1e-3, 0.2), nn.ReLU()).double()
    plain.load_state_dict(dict(zip(plain.state_dict(), block.state_dict().values(), strict=True)))
    x = torch.randn(*shape, dtype=torch.float64)
    ours, expected = block(x), plain(x)
    assert isinstance(ours, fnn.Deferred)
    torch.testing.assert_close(ours.tensor(), expected)
    (ours**2).sum().backward()
    (expected**2).sum().backward()
    for a, b in zip(block.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(block.bn.running_var, plain[1].running_var)


def test_guidance_is_a_convolution_that_is_added() -> None:
    block, guide = fnn.ConvBNReLU2d(3, 4, 3, padding=1), fnn.GuidanceAdd(3, 4)
    x, frames = torch.randn(2, 3, 6, 6), torch.rand(2, 3, 6, 6)
    a = block(x)
    guided = guide(a, frames)
    assert isinstance(guided, fnn.Deferred)
    conv = guide.conv
    torch.testing.assert_close(
        guided.tensor(), a.tensor() + nn.functional.conv2d(frames, conv.weight, conv.bias, padding=1)
    )
