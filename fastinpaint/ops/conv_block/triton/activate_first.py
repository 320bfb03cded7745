"""Activate first: the maps of a pass are written once, so that its loop of products only copies and multiplies.

Otherwise every tap and every block of channels repeats the prologue inside the loop, where it costs issue slots and
shared memory. The written maps are freed after the pass, so backward keeps no more than without them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from fastinpaint import environment
from fastinpaint.ops import layout
from fastinpaint.ops.activation import triton as activation
from fastinpaint.ops.activation.triton_launch import NUM_WARPS, row_tiles
from fastinpaint.ops.conv_block.triton.taps import Problem
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch.triton_launch import Launches
from fastinpaint.ops.types import Source

if support.INSTALLED:
    from fastinpaint.ops.conv_block.triton import box_wgrad_kernel

ENVIRONMENT = support.ACTIVATE_FIRST
_environment = environment.watch(ENVIRONMENT)
_values: dict[tuple[object, ...], bool] = {}
_gradients = Launches()
# Below this many channels a tap's product is too small for the passes that write the maps.
LEAST_CHANNELS = 64
COPIED_ITEMS = 8  # a copy engine's strides are multiples of 16 bytes


def suits(weight: Tensor, conv: Problem) -> bool:
    """Whether the passes of this convolution read written maps on the current device."""
    channels, out_channels = weight.shape[:2] if conv.transposed else weight.shape[1::-1]
    return (
        weight.element_size() == 2
        and math.prod(conv.taps) > 1
        and min(channels, out_channels) >= LEAST_CHANNELS
        and channels % COPIED_ITEMS == out_channels % COPIED_ITEMS == 0
        and _asked()
        and support.has_copy_engines()
    )


def _asked() -> bool:
    """Whether the environment allows it. It is read again only after a change."""
    values = _environment()
    if values not in _values:
        _values[values] = os.environ.get(ENVIRONMENT, "1") != "0"
    return _values[values]


def activated(sources: Sequence[Source]) -> Tensor:
    """The activation as one dense map: the only source itself, if it has no prologue, otherwise a new map."""
    first = sources[0]
    if len(sources) == 1 and first.mean is None and first.addend is None and not first.relu:
        return layout.dense(first.x)
    return activation.fwd(sources)


def written_gradient(
    dy: Tensor, y: Tensor, mean: Tensor, dmean: Tensor, dvar: Tensor, dvar_per_dscale: Tensor | None
) -> Tensor:
    """G as a map of its own, from `Gradient`'s tensors; dense channels-last, in dy's dtype."""
    out = torch.empty_like(dy, memory_format=layout.FORMATS[dy.dim()])
    rows, channels = activation.rows_of(dy), dy.shape[1]
    kernel, key = box_wgrad_kernel.write_gradient_kernel, (rows, channels, dvar_per_dscale is None)
    launch = _gradients.get(kernel, key)
    if launch is None:
        found = row_tiles(rows, channels)
        numbers = {
            "inverse_count": channels / dy.numel(), "rows": rows, "channels": channels, "HAS_STATS": True,
            "HAS_NORM": dvar_per_dscale is not None, "BLOCK_R": found.block_r, "BLOCK_C": found.block_c,
            "num_warps": NUM_WARPS, **support.OPTIONS,
        }  # fmt: skip
        launch = _gradients.keep(kernel, key, (-(-rows // found.block_r), found.channel_blocks), numbers)
    launch(dy, y, mean, dmean, dvar, dvar_per_dscale, out)
    return out
