"""The 29 layers of Table 1 and the two guidance convolutions, with their shapes and multiply-adds."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fastinpaint.bench.contenders import Workload
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.ops.conv_block.geometry import live_taps


@dataclass(frozen=True)
class LayerCase:
    """One convolution with its batch norm and ReLU, if any.

    Attributes:
        name: "3DCN 7", "CombCN 15", "guidance 2".
        module: the layer, on the meta device.
        shape: the input's shape, [N, C, T, h, w] or [B, C, h, w].
        conv_shape: the shape of the convolution's input, which may be padded by a frame.
        out_shape: the output's shape.
    """

    name: str
    module: nn.Sequential
    shape: tuple[int, ...]
    conv_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    @property
    def conv(self) -> _ConvNd:
        """The convolution."""
        return next(m for m in self.module if isinstance(m, _ConvNd))

    def macs(self) -> int:
        """Multiply-adds of one pass, including taps on padding."""
        weight = self.conv.weight
        places = self.shape if self.conv.transposed else self.out_shape
        return weight.numel() * places[0] * math.prod(places[2:])

    def needed_macs(self) -> int:
        """Multiply-adds of one pass without taps on padding: the least that a direct sum needs."""
        conv = self.conv
        padding, size = conv.padding, self.conv_shape[2:]
        assert not isinstance(padding, str)
        axes = zip(size, conv.kernel_size, conv.stride, padding, conv.dilation, conv.output_padding, strict=True)
        counts = [taps_on_map(n, k, s, p, d, extra, conv.transposed) for n, k, s, p, d, extra in axes]
        return conv.weight.numel() // math.prod(conv.kernel_size) * self.shape[0] * math.prod(counts)

    def make(self, device: str, dtype: torch.dtype, seed: int = 0) -> tuple[nn.Sequential, Tensor]:
        """The layer with random weights, and a random input that requires a gradient."""
        torch.manual_seed(seed)
        module = copy.deepcopy(self.module).to_empty(device=device)
        for part in module:
            if isinstance(part, (_ConvNd, _BatchNorm)):
                part.reset_parameters()
        return module.to(dtype), torch.randn(self.shape, device=device, dtype=dtype, requires_grad=True)


def taps_on_map(
    size: int, kernel: int, stride: int, padding: int, dilation: int, output_padding: int, transposed: bool
) -> int:
    """Pairs of position and tap along an axis that fall on the input (transposed: output) and not on padding."""
    reach = dilation * (kernel - 1) + 1
    if transposed:
        places, limit = size, (size - 1) * stride - 2 * padding + reach + output_padding
    else:
        places, limit = (size + 2 * padding - reach) // stride + 1, size
    return live_taps(places, limit, kernel, stride, padding, dilation)


def layer_cases(workload: Workload) -> list[LayerCase]:
    """Every layer of the system at the workload's size, recorded from the model on the meta device."""
    with torch.device("meta"):
        model = VideoCompletionNet(ModelConfig(width=workload.width, r=workload.r))
        shape = (workload.batch, 3, workload.frames, workload.size, workload.size)
        video, mask = torch.empty(shape), torch.empty(shape[0], 1, *shape[2:])
    cases: list[LayerCase] = []

    def note(name: str, module: nn.Sequential) -> None:
        shapes: list[tuple[int, ...]] = []  # of the layer's input, then of its convolution's input
        for part in (module[0], next(m for m in module if isinstance(m, _ConvNd))):
            part.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))

        def finish(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            cases.append(LayerCase(name, module, shapes[-2], shapes[-1], tuple(output.shape)))

        module[-1].register_forward_hook(finish)

    for title, network in (("3DCN", model.threedcn), ("CombCN", model.combcn)):
        for number, layer in network.layers.items():
            note(f"{title} {number}", cast(nn.Sequential, layer))
    for number, conv in model.combcn.guidance.items():
        note(f"guidance {number}", nn.Sequential(conv))
    model(video, mask)
    for part in model.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return cases
