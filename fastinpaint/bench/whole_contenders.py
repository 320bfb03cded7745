"""Runs a whole layer by plain PyTorch and by this library. `whole_layers` defines what each computes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fastinpaint import accelerate
from fastinpaint.bench.contenders import channels_last
from fastinpaint.bench.whole_layers import EPS, Inputs, Normed, WholeLayer
from fastinpaint.nn import Deferred
from fastinpaint.nn.deferred import parts_of
from fastinpaint.nn.raw import Part, Raw
from fastinpaint.ops.activation import reference as activation
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.types import Source

Named = dict[str, Tensor]


class LayerRun(Protocol):
    """A timed layer and its results.

    Attributes:
        leaves: the tensors that require gradients, by name.
    """

    leaves: Named

    def forward(self) -> Any:
        """The forward part of a training step."""

    def backward(self) -> Any:
        """The backward part. It can be repeated after one forward."""

    def results(self) -> Named:
        """y, its statistics and every gradient, in the same terms for all contenders."""


class Plain:
    """A layer by torch's own modules and functions, in one memory format."""

    def __init__(self, layer: WholeLayer, inputs: Inputs, last: bool) -> None:
        """Args:
        last: channels-last.
        """
        self._inputs, self._last = inputs, last
        self._layers, self._norm, self._guide = modules(layer, inputs)
        for module in (self._layers, self._guide):
            if last and module is not None:
                channels_last(module)
        x, skip = inputs.x, inputs.skip
        self.leaves = {} if layer.first else {"x": self._leaf(x.x if isinstance(x, Normed) else x)}
        self._x = self.leaves.get("x", self._in_layout(x) if isinstance(x, Tensor) else None)
        if isinstance(x, Normed):
            self.leaves |= {"norm.weight": self._leaf(x.weight), "norm.bias": self._leaf(x.bias)}
        if skip is not None:
            self.leaves["skip"] = self._leaf(activation.fwd([skip.source()]))
        if inputs.image is not None:
            self.leaves["image"] = self._leaf(inputs.image)
        self.leaves |= parameters(self._layers, self._guide)
        self._y = self._convolution(training=True)
        self._dy = self._in_layout(upstream(inputs, self._y.detach()) if self._norm else inputs.dy)

    def forward(self) -> Any:
        y = self._convolution(training=False)
        return (y, *self._statistics(y.detach())) if self._norm else y

    def backward(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self._y, list(self.leaves.values()), self._dy, retain_graph=True)

    def results(self) -> Named:
        found = dict(zip(self.leaves, self.backward(), strict=True)) | {"y": self._y.detach()}
        if self._norm is not None:
            mean, var = self._statistics(self._y.detach())
            found |= {"y.mean": mean, "y.scale": self._norm.weight.detach() * torch.rsqrt(var + EPS)}
        if self._inputs.skip is not None:
            (grad,) = activation.bwd(found.pop("skip"), [self._inputs.skip.source()], [True])
            found |= {f"skip.{name}": value for name, value in grad._asdict().items() if value is not None}
        return found

    def _convolution(self, training: bool) -> Tensor:
        """y. In training mode batch norm also computes the statistics of x, for a complete backward."""
        a, x = self._x, self._inputs.x
        assert a is not None
        if isinstance(x, Normed):
            mean, var = (None, None) if training else (x.mean, x.var)
            weight, bias = self.leaves["norm.weight"], self.leaves["norm.bias"]
            a = F.relu(F.batch_norm(a, mean, var, weight, bias, training, eps=EPS))
        if self._guide is not None:
            a = a + self._guide(self.leaves["image"])
        if self._inputs.skip is not None:
            a = torch.cat([a, self.leaves["skip"]], 1)
        return self._layers(a)

    def _statistics(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Batch mean and variance of y; updates the running statistics."""
        norm = self._norm
        assert norm is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return torch.batch_norm_update_stats(y, norm.running_mean, norm.running_var, norm.momentum)

    def _in_layout(self, tensor: Tensor) -> Tensor:
        return in_layout(tensor, self._last)

    def _leaf(self, tensor: Tensor) -> Tensor:
        return self._in_layout(tensor).detach().clone().requires_grad_()


class Fused:
    """A layer by this library's modules, from deferred activations to a deferred activation."""

    def __init__(self, layer: WholeLayer, inputs: Inputs, backend: str = "auto") -> None:
        self._inputs = inputs
        layers, self._norm, guide = modules(layer, inputs)
        if self._norm is not None:
            layers.extend([self._norm, nn.ReLU()])
        self.leaves: Named = {}
        self._parts = [self._part("x", inputs.x, layer.first)]
        if inputs.skip is not None:
            self._parts.append(self._part("skip", inputs.skip, False))
        if inputs.image is not None:
            self.leaves["image"] = inputs.image.detach().clone().requires_grad_()
        self.leaves |= parameters(layers, guide)
        self._net = accelerate(_LayerInNet(layers, guide), backend, objective="fuse")
        self._out = self.forward()
        self._upstream = [in_layout(inputs.dy, True)]
        if self._norm is not None:
            weight, scale = self._norm.weight.detach(), self._out[2].detach()
            dscale = -2 * inputs.dvar * weight.square() / scale**3  # of scale = weight / sqrt(var + eps)
            self._upstream += [inputs.dmean, dscale, torch.ones_like(dscale)]

    def forward(self) -> list[Tensor]:
        """y and, with a batch norm after it, mean, scale and shift."""
        return self._net(self._parts, self.leaves.get("image"))

    def backward(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self._out, list(self.leaves.values()), self._upstream, retain_graph=True)

    def results(self) -> Named:
        found = dict(zip(self.leaves, self.backward(), strict=True))
        found |= {name: out.detach() for name, out in zip(("y", "y.mean", "y.scale"), self._out, strict=False)}
        x = self._inputs.x
        if isinstance(x, Normed):  # x also reaches its own statistics: that part belongs to the previous layer
            rstd = torch.rsqrt(x.var + EPS)
            dscale, dshift = found.pop("x.scale"), found.pop("x.shift")
            dvar = -0.5 * dscale * x.weight * rstd**3
            found["x"] = reference.stats_bwd(found.pop("x.x"), found.pop("x.mean"), dvar, x.x, x.mean)
            found |= {"norm.weight": dscale * rstd, "norm.bias": dshift}
        elif "x.x" in found:
            found["x"] = found.pop("x.x")
        if self._norm is not None:  # of the batch norm after it, which Plain counts for the next layer
            del found["y.weight"], found["y.bias"]
        return found

    def _part(self, name: str, value: Tensor | Normed, first: bool) -> Source:
        source = value.source() if isinstance(value, Normed) else Source(value)
        source = source._replace(x=in_layout(source.x, True))
        if first:
            return source
        leaves = {k: t.detach().clone().requires_grad_() for k, t in source._asdict().items() if isinstance(t, Tensor)}
        self.leaves |= {f"{name}.{k}": leaf for k, leaf in leaves.items()}
        return source._replace(**leaves)  # type: ignore[arg-type]  # relu is none of them


class _LayerInNet(nn.Module):
    """A net of one layer that creates and consumes the deferred activations of its neighbours."""

    def __init__(self, layers: nn.Sequential, guide: nn.Module | None) -> None:
        super().__init__()
        self.layers, self.guide = layers, guide

    def forward(self, sources: list[Source], image: Tensor | None) -> list[Tensor]:
        """y and, with a batch norm after it, mean, scale and shift."""
        maps: list[Any] = [Deferred([Part(Raw(s.x), s.mean, s.scale, s.shift, s.relu)]) for s in sources]
        a = maps[0]
        if self.guide is not None:
            a = a + self.guide(image)
        if len(maps) > 1:
            a = torch.cat([a, *maps[1:]], 1)
        (part,) = parts_of(self.layers(a))
        vectors = part[1:4] if part.norm is None else part.norm.vectors()
        return [part.raw.tensor(), *(t for t in vectors if t is not None)]


def modules(layer: WholeLayer, inputs: Inputs) -> tuple[nn.Sequential, _BatchNorm | None, nn.Module | None]:
    """The layer up to its convolution, the batch norm after it and the guidance, equal for all contenders."""
    device, dtype = str(inputs.dy.device), inputs.dy.dtype
    parts = list(layer.case.make(device, dtype)[0])
    guide = None if layer.guidance is None else layer.guidance.make(device, dtype)[0][0]
    norm = next((part.float() for part in parts if isinstance(part, _BatchNorm)), None)
    return nn.Sequential(*(p for p in parts if not isinstance(p, _BatchNorm | nn.ReLU))), norm, guide


def parameters(layers: nn.Sequential, guide: nn.Module | None) -> Named:
    """The parameters of the convolution, of the batch norm after it if among the layers, and of the guidance."""
    groups = {"": next(part for part in layers if isinstance(part, _ConvNd)), "guide.": guide}
    groups["y."] = next((part for part in layers if isinstance(part, _BatchNorm)), None)
    return {prefix + name: p for prefix, m in groups.items() if m is not None for name, p in m.named_parameters()}


def upstream(inputs: Inputs, y: Tensor) -> Tensor:
    """The total gradient of y: dy plus the terms of its statistics."""
    mean = y.float().mean([0, *range(2, y.dim())])
    return reference.stats_bwd(inputs.dy, inputs.dmean, inputs.dvar, y, mean)


def in_layout(tensor: Tensor, last: bool) -> Tensor:
    """A map as channels-last or contiguous; vectors are unchanged."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats.get(tensor.dim(), torch.contiguous_format) if last
                             else torch.contiguous_format)  # fmt: skip
