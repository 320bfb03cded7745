"""Torch's row of layers: convolution, batch norm and activation in one step where nothing observes them."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from fastinpaint.nn.activated import followed
from fastinpaint.nn.activations import _Activation
from fastinpaint.nn.batch_norm import _Norm
from fastinpaint.nn.chain import is_bare, joints, open_rows
from fastinpaint.nn.convolution import _Conv
from fastinpaint.nn.deferred import BARE
from fastinpaint.nn.deferred_tensor import deferred_of
from fastinpaint.nn.layers import ReLU
from fastinpaint.nn.observed import nothing_observes, own_observer
from fastinpaint.nn.pending_conv import PendingConv, waiting
from fastinpaint.nn.raw import Part, Raw, part_of
from fastinpaint.nn.region import inside
from fastinpaint.ops.conv_block.chain import Chain
from fastinpaint.ops.norm_act import RELU


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` over deferred activations.

    A convolution and the batch norm and activation after it need no deferred activation in between. Where gradients are
    recorded, the convolution after those needs none either: no other code runs between them. In training one node of
    the graph holds several of these, if the kernels load what is between them (`fastinpaint.nn.chain`). Rows in the row
    count as their layers.
    """

    def forward(self, input: Any, *, called: bool = False) -> Any:
        """As torch's.

        called: whether this is `Row.__call__`, which leaves observed calls to torch's own.
        """
        if called and (torch.compiler.is_compiling() or not _unobserved_inside(self)):
            return nn.Module.__call__(self, input)
        if torch.compiler.is_compiling():
            return nn.Sequential.forward(self, input)
        layers: list[Any] = list(self._modules.values())
        i = 0
        calm, within = called or nothing_observes(), called or inside()
        grad = torch.is_grad_enabled()
        last: Any = None  # the options of the layer that gave the part which `input` then is
        while i < len(layers):
            layer: Any = layers[i]
            if calm and within and isinstance(layer, nn.Sequential) and open_rows(layers, i):
                continue
            following: Any = layers[i + 1] if i + 1 < len(layers) else None
            i += 1
            plan = None
            if calm and isinstance(layer, _Conv) and not own_observer(layer):  # `unobserved`, without its frames
                plan = layer.plan_for(input) if within or not layer._fastinpaint_accelerated else None
            if plan is None or (plan.light and (not grad or plan.of_vectors)):
                if last is not None:
                    input, last = deferred_of(input, last), None
                input = layer(input)
                calm, within, grad = nothing_observes(), inside(), torch.is_grad_enabled()
                continue
            own, options = layer._parameters, layer._fastinpaint
            if last is not None:
                parts: tuple[Part, ...] = (input,)
            else:
                parts = (Part(Raw(input)),) if type(input) is Tensor else input.parts()
                for raw in waiting(parts):  # here, not layers deep
                    if raw.x is None:
                        apply, arguments = raw.prepare()
                        raw.finish(arguments, apply(*arguments))
            pending = PendingConv(
                parts, own["weight"], own.get("bias"), plan.geometry, options, plan.shape, plan.calls
            )  # fmt: skip
            part, norm, last = part_of((pending, *BARE)), None, None
            if pending.x is None and isinstance(following, _Norm) and not own_observer(following):
                norm = following.joined(pending)
            if norm is not None and following.training:
                found = joints(layers, i + 1, pending) if grad and within else []
                apply, arguments = pending.prepare(True, norm, [joint.link for joint in found])
                pending.finish(arguments, apply(*arguments))
                if found and type(arguments[0]) is Chain:  # `pending` stands for the last of them from now on
                    (*_, norm), i, following, pending.shape = found[-1]
                elif pending.vectors is not None:
                    i += 1
                if pending.vectors is not None:
                    part, options = pending.normalised(norm.weight, norm.bias, norm.eps), following._fastinpaint
                    last = options if grad else None
            elif norm is not None:
                part, options = Part(following.folded(pending, norm)), following._fastinpaint
                i += 1
            following = layers[i] if i < len(layers) else None
            act = RELU if type(following) is ReLU else following._act() if isinstance(following, _Activation) else None
            if act is not None and not own_observer(following):
                after = followed(part, act, None, options)
                if after is not None:
                    part = after
                    i += 1
            input = part if last is not None else deferred_of(part, options)
        return input if last is None else deferred_of(input, last)


def _unobserved_inside(row: nn.Module) -> bool:
    """Whether nothing but the border's two hooks sees the row's call, and these have nothing to do.

    So it is inside an accelerated model's running module, whose other layers read the result.
    """
    return is_bare(row) and nothing_observes() and inside()


class Row(Sequential):
    """A `Sequential` inside an accelerated model. Its unobserved calls skip torch's handling of hooks.

    Its ``__call__`` is `Sequential.forward` with another default. A caller of it would make the call stack longer.
    """

    _fastinpaint_row = True
    __call__ = FunctionType(Sequential.forward.__code__, globals(), "__call__")
    __call__.__kwdefaults__ = {"called": True}  # noqa: RUF012 - an attribute of the function, not of the class
