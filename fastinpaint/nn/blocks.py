"""Convolution, batch norm and ReLU as one module, and the guidance of CombCN."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastinpaint.nn import layers
from fastinpaint.nn.deferred import Deferred


class _Block(nn.Module):
    """conv -> batch norm -> ReLU over a deferred activation, which it also returns.

        y = conv(input),   a = relu((y - mean) / sqrt(var + eps) * weight + bias)

    Only y is computed and kept. A network that returns a block's result, or gives it to code that requires a
    ``torch.Tensor``, calls `fastinpaint.nn.plain` on it. Everything else converts it automatically.

    Args:
        in_channels, out_channels, kernel_size, and by keyword stride, padding, dilation, groups, device, dtype (and
            output_padding where transposed): as torch's convolution. It has no bias, because batch norm cancels it.
        eps, momentum, affine, track_running_stats: as torch's batch norm.

    Shapes:
        input: ``[N, C_in, *space]``, a tensor or a Deferred; result ``[N, C_out, *space]``.
    """

    conv_class: type[nn.Module]
    norm_class: type[nn.Module]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        **conv: Any,
    ) -> None:
        super().__init__()
        where = {key: conv[key] for key in ("device", "dtype") if key in conv}
        self.conv = self.conv_class(in_channels, out_channels, kernel_size, **{"bias": False, **conv})
        self.bn = self.norm_class(out_channels, eps, momentum, affine, track_running_stats, **where)
        self.relu = layers.ReLU()

    def forward(self, input: Tensor | Deferred) -> Deferred:
        """The block's activation, deferred."""
        return self.relu(self.bn(self.conv(input)))


class ConvBNReLU2d(_Block):
    __doc__ = _Block.__doc__
    conv_class, norm_class = layers.Conv2d, layers.BatchNorm2d


class ConvBNReLU3d(_Block):
    __doc__ = _Block.__doc__
    conv_class, norm_class = layers.Conv3d, layers.BatchNorm3d


class ConvTransposeBNReLU2d(_Block):
    __doc__ = _Block.__doc__
    conv_class, norm_class = layers.ConvTranspose2d, layers.BatchNorm2d


class ConvTransposeBNReLU3d(_Block):
    __doc__ = _Block.__doc__
    conv_class, norm_class = layers.ConvTranspose3d, layers.BatchNorm3d


class GuidanceAdd(nn.Module):
    """``activation + conv(guidance)``: a 3x3 convolution with bias turns guiding frames into a map that is added.

    Wang et al. 2019, CombCN: 3DCN's frames guide the layers of their size.

    Shapes:
        activation: ``[B, C, H, W]``, a tensor or a Deferred; guidance ``[B, C_guidance, H, W]``; result as activation.
    """

    def __init__(self, guidance_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = layers.Conv2d(guidance_channels, channels, 3, padding=1)

    def forward(self, activation: Tensor | Deferred, guidance: Tensor | Deferred) -> Tensor | Deferred:
        """The guided activation, deferred where the activation is."""
        return activation + self.conv(guidance)
