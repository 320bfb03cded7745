"""Channels-last and contiguous weights and inputs of a whole model."""

from __future__ import annotations

import functools
import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_map_only

from fastinpaint.nn.convolution import geometry_of
from fastinpaint.ops.conv_block import zero_padding

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def in_buckets(model: nn.Module) -> bool:
    """Whether a `DistributedDataParallel` has made buckets for the model's gradients, so that their layout must stay.

    torch reads a gradient whose parameter changed its layout later in the bucket's order, which is wrong.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return False
    wrapper, own = nn.parallel.DistributedDataParallel, {id(parameter) for parameter in model.parameters()}
    wrapping = [one for one in gc.get_objects() if issubclass(type(one), wrapper)]
    return any(id(parameter) in own for one in wrapping for parameter in one.parameters())


def overruns(layer: nn.Module) -> bool:
    """Whether torch may write past the gradient of a layer's weight where the layer's input is channels-last."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.weight, nn.UninitializedParameter):
        return False
    geometry = geometry_of(layer)
    return geometry is not None and zero_padding.overruns(layer.weight, geometry)


def set_weights(model: nn.Module, channels_last: bool) -> None:
    """Give every 4-D and 5-D parameter this layout, in place: identity, name and values stay."""
    if in_buckets(model):
        return
    for parameter in model.parameters():
        if parameter.dim() in FORMATS:
            set_layout(parameter, channels_last)


def set_layout(parameter: nn.Parameter, channels_last: bool) -> None:
    """Give a 4-D or 5-D parameter this layout, in place."""
    form = FORMATS[parameter.dim()] if channels_last else torch.contiguous_format
    if not parameter.is_contiguous(memory_format=form):
        _watch_optimizers()
        with torch.inference_mode(False):  # an inference tensor could not take part in autograd
            parameter.data = parameter.data.contiguous(memory_format=form)


@functools.cache
def _watch_optimizers() -> None:
    """Once in a process: torch's fused optimisers go through a parameter, its gradient and moments by address alone."""
    register_optimizer_step_pre_hook(_match_layouts)


def _match_layouts(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Before a fused optimiser's step: gradients and moments get their parameter's layout.

    Those of a loaded checkpoint, or of the steps before the parameter's layout changed, may have another. Other
    optimisers look at strides.
    """
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        for parameter in group["params"]:
            if parameter.dim() not in FORMATS:
                continue
            strides = parameter.stride()
            if parameter.grad is not None and parameter.grad.stride() != strides:
                parameter.grad = _laid_out_as(parameter, parameter.grad)
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != strides:
                    state[name] = _laid_out_as(parameter, value)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def to_channels_last(value: Any) -> Any:
    """The value with all floating-point 4-D and 5-D tensors in it as channels-last."""
    if type(value) is Tensor:
        return _to_channels_last(value)
    return tree_map_only(Tensor, _to_channels_last, value)


def _to_channels_last(tensor: Tensor) -> Tensor:
    form = FORMATS.get(tensor.dim())
    if form is None or not tensor.is_floating_point() or tensor.layout != torch.strided:
        return tensor
    return tensor.contiguous(memory_format=form)
