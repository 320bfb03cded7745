"""Channels-last and contiguous weights and inputs of a whole model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def set_weights(model: nn.Module, channels_last: bool) -> None:
    """Give every 4-D and 5-D parameter this layout, in place: identity, name and values stay."""
    for parameter in model.parameters():
        if parameter.dim() in FORMATS:
            set_layout(parameter, channels_last)


def set_layout(parameter: nn.Parameter, channels_last: bool) -> None:
    """Give a 4-D or 5-D parameter this layout, in place."""
    form = FORMATS[parameter.dim()] if channels_last else torch.contiguous_format
    if not parameter.is_contiguous(memory_format=form):
        with torch.inference_mode(False):  # an inference tensor could not take part in autograd
            parameter.data = parameter.data.contiguous(memory_format=form)


def to_channels_last(value: Any) -> Any:
    """The value with all floating-point 4-D and 5-D tensors in it as channels-last."""
    return tree_map_only(Tensor, _to_channels_last, value)


def _to_channels_last(tensor: Tensor) -> Tensor:
    form = FORMATS.get(tensor.dim())
    if form is None or not tensor.is_floating_point() or tensor.layout != torch.strided:
        return tensor
    return tensor.contiguous(memory_format=form)
