"""The layers of both networks: sequences of plain convolution, batch norm and ReLU modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fastinpaint.models.config import ModelConfig
from fastinpaint.models.table import Row


def build_layers(
    rows: Sequence[Row], skips: Mapping[int, int], extra: Mapping[int, int], config: ModelConfig, dims: int
) -> nn.ModuleDict:
    """Build the layers of a table, keyed by the paper's numbers ("1", "2", ...).

    Args:
        rows: the table.
        skips: such as `fastinpaint.models.table.COMBCN_SKIPS`.
        extra: by layer, input channels beyond the previous output and the skip.
        dims: 2 for frames, 3 for videos.
    """
    last = len(rows)
    out = {row.number: config.channels(row.channels) for row in rows[:-1]}
    out[last] = rows[-1].channels + (config.corrects and dims == 2)  # beside the pixels, their share
    layers = nn.ModuleDict()
    for row in rows:
        n = row.number
        channels_in = out[n - 1] if n > 1 else 4  # RGB and the mask
        if n in skips and config.skips == "concat":
            channels_in += out[skips[n]]
        channels_in += extra.get(n, 0)
        layers[str(n)] = layer(row, channels_in, out[n], config, dims, bare=n == last)
    return layers


def layer(row: Row, channels_in: int, channels_out: int, config: ModelConfig, dims: int, bare: bool) -> nn.Sequential:
    """conv -> BN -> ReLU (``chang2019``: conv -> ReLU -> BN). A bare layer (the last one) is the convolution alone.

    A convolution directly before batch norm has no bias, because batch norm cancels it. 3DCN then has 6.84 M and CombCN
    8.67 M parameters.
    """
    relu_first = config.preset == "chang2019"
    parts: list[tuple[str, nn.Module]] = convolution(row, channels_in, channels_out, config, dims, relu_first or bare)
    if not bare:
        norm = nn.BatchNorm2d(channels_out) if dims == 2 else nn.BatchNorm3d(channels_out)
        tail: list[tuple[str, nn.Module]] = [("norm", norm), ("relu", nn.ReLU())]
        parts += reversed(tail) if relu_first else tail
    return nn.Sequential(OrderedDict(parts))


def convolution(
    row: Row, channels_in: int, channels_out: int, config: ModelConfig, dims: int, bias: bool
) -> list[tuple[str, nn.Module]]:
    """The convolution of a row. Stride 1 keeps H and W; stride 2 halves or (deconv) doubles them."""
    if dims == 2:
        if row.type == "deconv":
            return [("conv", nn.ConvTranspose2d(channels_in, channels_out, row.kernel, row.stride, 1, bias=bias))]
        padding = row.dilation * (row.kernel // 2)
        return [
            ("conv", nn.Conv2d(channels_in, channels_out, row.kernel, row.stride, padding, row.dilation, bias=bias))
        ]
    time_stride = config.time_stride if row.stride == 2 else 1
    if row.type == "deconv":
        return deconvolution3d(row, channels_in, channels_out, config.deconv_time, time_stride, bias)
    # The table's kernel size holds for all three axes; stride and dilation act within a frame only.
    half = row.kernel // 2
    conv = nn.Conv3d(
        channels_in,
        channels_out,
        row.kernel,
        stride=(time_stride, row.stride, row.stride),
        padding=(half, row.dilation * half, row.dilation * half),
        dilation=(1, row.dilation, row.dilation),
        bias=bias,
    )
    return [("conv", conv)]


def deconvolution3d(
    row: Row, channels_in: int, channels_out: int, taps: int, time_stride: int, bias: bool
) -> list[tuple[str, nn.Module]]:
    """A transposed convolution that doubles H and W, and keeps (stride 1 in time) or doubles (stride 2) the frames.

    At stride 1 an even kernel has no centre tap. As in TensorFlow's SAME, output t then sums inputs t+1, t, t-1, t-2
    (4 taps). Torch pads both ends alike, so one frame of zeros is put in front of the input.
    """
    parts: list[tuple[str, nn.Module]] = []
    padding, output_padding = (taps - 1) // 2, 0
    if time_stride == 2:
        output_padding = taps % 2
    elif taps % 2 == 0:
        padding = taps // 2
        parts.append(("pad", nn.ZeroPad3d((0, 0, 0, 0, 1, 0))))
    conv = nn.ConvTranspose3d(
        channels_in,
        channels_out,
        kernel_size=(taps, row.kernel, row.kernel),
        stride=(time_stride, row.stride, row.stride),
        padding=(padding, 1, 1),
        output_padding=(output_padding, 0, 0),
        bias=bias,
    )
    return [*parts, ("conv", conv)]


def join_skip(x: Tensor, skip: Tensor, config: ModelConfig) -> Tensor:
    """Join a skip connection to a map, by concatenation or addition."""
    return torch.cat([x, skip], 1) if config.skips == "concat" else x + skip
