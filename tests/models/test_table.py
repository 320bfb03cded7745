"""The networks against Table 1 of the paper, row by row, found on running models."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.models import CombCN, ModelConfig, ThreeDCN, TwoDCN
from tests.models.probes import convolutions

# Layer, type, kernel, stride, channels, dilation, as printed; "down" and "up" stand for the arrows.
TOP = """
1 conv 5 1 16 -
2 conv-down 3 2 32 -
3 conv 3 1 64 -
4 conv-down 3 2 128 -
5 dilated 3 1 256 2
6 dilated 3 1 256 4
7 dilated 3 1 256 8
8 conv 3 1 128 -
9 deconv-up 4 2 64 -
10 conv 3 1 32 -
11 deconv-up 4 2 16 -
12 conv 3 1 3 -
"""
BOTTOM = """
1 conv 5 1 64 -
2 conv-down 3 2 128 -
3 conv 3 1 128 -
4 conv-down 3 2 256 -
5 conv 3 1 256 -
6 conv 3 1 256 -
7 dilated 3 1 256 2
8 dilated 3 1 256 4
9 dilated 3 1 256 8
10 dilated 3 1 256 16
11 conv 3 1 256 -
12 conv 3 1 256 -
13 deconv-up 4 2 128 -
14 conv 3 1 128 -
15 deconv-up 4 2 64 -
16 conv 3 1 32 -
17 conv 3 1 3 -
"""
# What the skips of Fig. 2 add to a layer's input.
TOP_SKIP_CHANNELS = {9: 128, 10: 64, 11: 32}
BOTTOM_SKIP_CHANNELS = {10: 256, 11: 256, 12: 256, 13: 256, 14: 128, 15: 128, 16: 64}


def rows(text: str) -> list[tuple[str, str, int, int, int, int]]:
    found = [line.split() for line in text.strip().splitlines()]
    return [(n, kind, int(k), int(s), int(c), 1 if d == "-" else int(d)) for n, kind, k, s, c, d in found]


def check_rows(text: str, seen: dict, skip_channels: dict[int, int], size: int, frames: int | None) -> None:
    """Each row against what was seen; `frames` is F for a 3D network, None for a 2D one."""
    assert list(seen) == [row[0] for row in rows(text)]
    axis, out = ((frames,), 1) if frames else ((), 0)
    previous = 4
    for number, kind, kernel, stride, channels, dilation in rows(text):
        conv = seen[number]
        size = size * stride if kind == "deconv-up" else size // stride
        assert conv.kernel == (kernel,) * (2 + out), number
        assert conv.stride == (*(1,) * out, stride, stride), number
        assert conv.dilation == (*(1,) * out, dilation, dilation), number
        assert conv.transposed == (kind == "deconv-up"), number
        assert conv.channels_in == previous + skip_channels.get(int(number), 0), number
        assert conv.output == (channels, *axis, size, size), number
        previous = channels


@torch.no_grad()
def test_threedcn_has_every_row_of_table_1_and_keeps_f() -> None:
    model, x = ThreeDCN(ModelConfig()), torch.rand(1, 4, 3, 16, 16)
    check_rows(TOP, convolutions(model.layers, lambda: model(x)), TOP_SKIP_CHANNELS, 16, frames=3)


@torch.no_grad()
@pytest.mark.parametrize("guided", [True, False], ids=["combcn", "2dcn"])
def test_combcn_and_2dcn_have_every_row_of_table_1(guided: bool) -> None:
    x, guidance = torch.rand(2, 4, 16, 16), torch.rand(2, 3, 8, 8)
    if guided:
        comb = CombCN(ModelConfig())
        seen = convolutions(comb.layers, lambda: comb(x, guidance))
    else:
        plain = TwoDCN(ModelConfig())
        seen = convolutions(plain.layers, lambda: plain(x))
    check_rows(BOTTOM, seen, BOTTOM_SKIP_CHANNELS, 16, frames=None)


@torch.no_grad()
def test_v2_halves_time_in_layers_2_and_4_and_restores_it() -> None:
    model, x = ThreeDCN(ModelConfig(width=0.125, time_stride=2)), torch.rand(1, 4, 8, 16, 16)
    frames = {n: conv.output[1] for n, conv in convolutions(model.layers, lambda: model(x)).items()}
    assert frames == {str(n): f for n, f in enumerate([8, 4, 4, 2, 2, 2, 2, 2, 4, 4, 8, 8], start=1)}


def test_parameter_counts() -> None:
    def count(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert round(count(ThreeDCN(ModelConfig())) / 1e6, 2) == 6.84
    assert round(count(CombCN(ModelConfig())) / 1e6, 2) == 8.67


@pytest.mark.parametrize("width", [0.125, 0.3, 2.0])
def test_width_scales_hidden_channels_only(width: float) -> None:
    layers = ThreeDCN(ModelConfig(width=width)).layers
    assert layers["1"].conv.in_channels == 4
    for number, _, _, _, channels, _ in rows(TOP):
        expected = 3 if number == "12" else round(channels * width)
        assert layers[number].conv.out_channels == expected
