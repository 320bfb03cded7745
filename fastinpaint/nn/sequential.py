"""Torch's row of layers, which takes convolution, batch norm and ReLU in one step where nothing observes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastinpaint.nn.batch_norm import _Norm
from fastinpaint.nn.convolution import _Conv
from fastinpaint.nn.deferred_tensor import deferred_of
from fastinpaint.nn.layers import ReLU
from fastinpaint.nn.observed import own_observer, unobserved
from fastinpaint.nn.pending_conv import PendingConv, waiting
from fastinpaint.nn.raw import Part, Raw


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` over deferred activations.

    A convolution and the batch norm and ReLU after it need no deferred activation in between.
    """

    def forward(self, input: Any) -> Any:
        if torch.compiler.is_compiling():
            return super().forward(input)
        layers: list[Any] = list(self._modules.values())
        count, i = len(layers), 0
        while i < count:
            layer: Any = layers[i]
            following: Any = layers[i + 1] if i + 1 < count else None
            i += 1
            plan = layer.plan_for(input) if isinstance(layer, _Conv) and unobserved(layer) else None
            if plan is None or (plan.light and not torch.is_grad_enabled()):
                input = layer(input)
                continue
            parts, own = (Part(Raw(input)),) if type(input) is Tensor else input.parts(), layer._parameters
            for raw in waiting(parts):  # here, not layers deep
                apply, arguments = raw.prepare()
                raw.finish(arguments, apply(*arguments))
            settings = plan.geometry, layer._fastinpaint, plan.shape, plan.calls
            pending = PendingConv(parts, own["weight"], own.get("bias"), *settings)
            part, options = Part(pending), layer._fastinpaint
            norm = None
            if pending.x is None and isinstance(following, _Norm) and not own_observer(following):
                norm = following.joined(pending)
            if norm is not None and following.training:
                apply, arguments = pending.prepare(True, norm)
                pending.finish(arguments, apply(*arguments))
                if pending.vectors is not None:
                    part, options = pending.normalised(norm.weight, norm.bias, norm.eps), following._fastinpaint
                    i += 1
            elif norm is not None:
                part, options = Part(following.folded(pending, norm)), following._fastinpaint
                i += 1
            if i < count and type(layers[i]) is ReLU and not own_observer(layers[i]):
                part = Part(part.raw, part.mean, part.scale, part.shift, True, None, part.norm)
                i += 1
            input = deferred_of(part, options)
        return input
