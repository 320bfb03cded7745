"""Every layer as a training step runs it, from the previous convolution's output x to its own output y.

Plain PyTorch and this library have equal values at the outputs of convolutions, so the net is cut there. Both then do
the same arithmetic per layer, and the sum over the layers is that of the net:

    forward     a = cat(relu((x - mean) * scale + shift) + guidance, skip),   y = conv(a),   mean and variance of y
    backward    from the gradient that reaches y, those of x, of its batch norm's parameters, skip, guidance, weight

`whole_contenders.Plain` runs the net's own modules: the part of batch norm that applies statistics (the previous layer
computed them), ReLU, ``+``, ``torch.cat``, the convolution, and ``batch_norm_update_stats`` of y. Its backward includes
batch norm's in training mode, down to the total gradient of x. The skip arrives activated.

`whole_contenders.Fused` takes x and the skip as deferred activations and returns y as one. Its backward includes the
batch statistics' term for y (Plain: for x). The skip's batch norm and ReLU, and the guidance, are recomputed.

The first layers read pixels, which need no gradient. The last layers have a bias and no batch norm. CombCN 3 and 15
include their guidance convolution, which is also a case of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.bench.contenders import Workload
from fastinpaint.bench.layers import LayerCase, layer_cases
from fastinpaint.models.table import COMBCN_SKIPS, THREEDCN_SKIPS
from fastinpaint.ops.activation import reference as activation
from fastinpaint.ops.types import Source

EPS = 1e-5
NEAR_ZERO = 1e-3  # rounding could flip a ReLU at smaller values, so inputs avoid them


@dataclass(frozen=True)
class WholeLayer:
    """One layer and the sources of its input.

    Attributes:
        case: the layer; without batch norm if it is a net's last one or a guidance convolution.
        skip: channels of the skip connection in its input, or 0.
        normed: whether its input comes through batch norm and ReLU.
        guidance: the convolution whose output is added to its input, or None.
    """

    case: LayerCase
    skip: int
    normed: bool
    guidance: LayerCase | None

    @property
    def first(self) -> bool:
        """Whether it reads pixels, which need no gradient."""
        return not self.normed and not self.case.name.startswith("guidance")

    def macs(self) -> int:
        """Multiply-adds of forward, including taps on padding."""
        return self.case.macs() + (0 if self.guidance is None else self.guidance.macs())

    def needed_macs(self) -> int:
        """Multiply-adds of forward without taps on padding."""
        return self.case.needed_macs() + (0 if self.guidance is None else self.guidance.needed_macs())


def whole_layers(workload: Workload) -> list[WholeLayer]:
    """Every layer of the system at the workload's size, then the two guidance convolutions."""
    cases = {case.name: case for case in layer_cases(workload)}
    found = []
    for name, case in cases.items():
        net, number = name.split()
        skips = {"3DCN": THREEDCN_SKIPS, "CombCN": COMBCN_SKIPS}.get(net, {})
        joined = cases[f"{net} {skips[int(number)]}"].out_shape[1] if int(number) in skips else 0
        guidance = cases.get(f"guidance {int(number) - 1}") if net == "CombCN" else None
        found.append(WholeLayer(case, joined, net != "guidance" and number != "1", guidance))
    return sorted(found, key=lambda layer: layer.case.name.startswith("guidance"))


class Normed(NamedTuple):
    """A raw map with its batch statistics and the batch norm's parameters."""

    x: Tensor
    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def random(cls, x: Tensor) -> Normed:
        """The map with random parameters. Values that batch norm would bring near zero are moved away."""
        weight, bias = (torch.rand(x.shape[1], device=x.device) + offset for offset in (0.5, -0.5))
        dims = [0, *range(2, x.dim())]
        for _ in range(2):  # moving values changes the statistics a little
            var, mean = torch.var_mean(x.float(), dims, correction=0)
            z = activation.normalised(Source(x, mean, weight * torch.rsqrt(var + EPS), bias))
            x = torch.where(z.abs() < NEAR_ZERO, x + 0.1, x)
        var, mean = torch.var_mean(x.float(), dims, correction=0)
        return cls(x, mean, var, weight, bias)

    def source(self) -> Source:
        """As a deferred activation."""
        return Source(self.x, self.mean, self.weight * torch.rsqrt(self.var + EPS), self.bias, True)


class Inputs(NamedTuple):
    """The inputs of all contenders; None for what the layer does not have.

    dmean and dvar are the gradients of y's statistics, scaled to the effect of dy on y.
    """

    x: Tensor | Normed
    skip: Normed | None
    image: Tensor | None
    dy: Tensor
    dmean: Tensor
    dvar: Tensor

    @classmethod
    def random(cls, layer: WholeLayer, device: str, dtype: torch.dtype) -> Inputs:
        """Seeded random values."""
        torch.manual_seed(0)
        shape, out = layer.case.shape, layer.case.out_shape
        x, skip = torch.randn(shape, device=device).split([shape[1] - layer.skip, layer.skip], 1)
        image = None if layer.guidance is None else torch.randn(layer.guidance.shape, device=device).to(dtype)
        dy = torch.randn(out, device=device).to(dtype)
        dmean, dvar = (0.1 * dy[:, 0].numel() * torch.randn(out[1], device=device) for _ in range(2))
        return cls(
            Normed.random(x.to(dtype)) if layer.normed else x.to(dtype),
            Normed.random(skip.to(dtype)) if layer.skip else None, image, dy, dmean, dvar,
        )  # fmt: skip
