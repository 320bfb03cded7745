"""The last launch of `conv_block`'s backward in Triton: it finishes the sums that dgrad and wgrad leave in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops.activation import triton as activation
from fastinpaint.ops.activation.triton_launch import FINISH_BLOCK
from fastinpaint.ops.conv_block.triton import tiles
from fastinpaint.ops.conv_block.triton.prepared import Memory, Prepared, kept, prepare, remembered
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.types import Source, SourceGrad, maker, source_grad_of

if support.INSTALLED:
    from fastinpaint.ops.conv_block.triton import finish_kernel

NO_VECTORS = ((None,) * 8, (None,) * 4, ())  # of the sources that are not there, by the number of those that are


class NormWeight(NamedTuple):
    """The inputs of the gradient of the following batch norm's weight. The weight gives its dtype."""

    dscale: Tensor
    rstd: Tensor
    weight: Tensor


norm_weight_of = maker(NormWeight)


def finish(
    sources: Sequence[Source],
    maps: Sequence[tuple[Tensor, Tensor | None]],
    sums: Tensor | None,
    partial: Tensor | None,
    bias_sums: Tensor | None,
    norm: NormWeight | None,
    weight: Tensor,
    transposed: bool,
    steps: Memory,
) -> tuple[list[SourceGrad], Tensor | None, Tensor | None, Tensor | None]:
    """Finish the vectors' gradients, dweight (contiguous), dbias and dnorm_weight in one launch.

    maps: the gradients of each source's map and addend. steps: the launches of earlier calls of this kind.
    """
    grads, vectors = list[SourceGrad](), list[Tensor | None]()
    for (_, mean, scale, _, _, _), (dx, daddend) in zip(sources, maps, strict=True):
        dmean = dscale = dshift = None
        if mean is not None:
            dmean, dscale, dshift = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
        grads.append(source_grad_of((dx, dmean, dscale, dshift, daddend)))
        vectors += (scale, dmean, dscale, dshift)
    vectors += NO_VECTORS[len(sources)]
    dweight = dbias = dnorm_weight = of_norm = rstd = None
    if partial is not None:
        dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    if bias_sums is not None:
        dbias = torch.empty(len(bias_sums), dtype=weight.dtype, device=weight.device)
    if norm is not None:
        of_norm, rstd, norm_weight = norm
        dnorm_weight = torch.empty_like(norm_weight, memory_format=torch.contiguous_format)
    if sums is None and dweight is None and dbias is None and dnorm_weight is None:
        return grads, None, None, None
    found = remembered(steps, "finish", finish_kernel.conv_finish_kernel)
    if found is None:
        found = _prepare(sources, sums, partial, bias_sums, norm is not None, weight, transposed)
        # with another tile there would be another number of sums
        lasts = (partial is None or "wgrad" in steps or "boxes" in steps) and (sums is None or "dgrad" in steps)
        kept(steps, "finish", found, lasts)
    found.launch(sums, *vectors, bias_sums, dbias, of_norm, rstd, dnorm_weight, partial, dweight)
    return grads, dweight, dbias, dnorm_weight


def _prepare(
    sources: Sequence[Source],
    sums: Tensor | None,
    partial: Tensor | None,
    bias_sums: Tensor | None,
    has_norm: bool,
    weight: Tensor,
    transposed: bool,
) -> Prepared:
    """The launch of `finish` for sums of these shapes."""
    channels, out_channels = [s.x.shape[1] for s in sources] or [0], weight.shape[1 if transposed else 0]
    items = 0 if partial is None else weight.numel()
    splits = 0 if partial is None else partial.numel() // items
    in_channels = 0 if partial is None else weight.shape[0 if transposed else 1]
    inner, outer = (1, 1) if partial is None else (weight.shape[2:].numel(), weight.shape[1:].numel())
    sum_programs, parts = (0, 0) if sums is None else (sum(channels), sums.numel() // (2 * sum(channels)))
    bias_programs, bias_parts = (0, 0) if bias_sums is None else bias_sums.shape
    norm_programs = -(-out_channels // tiles.FINISH_ITEMS) if has_norm else 0
    programs = sum_programs + bias_programs + norm_programs + -(-items // tiles.FINISH_ITEMS)
    numbers = {
        "channels0": channels[0], "all_channels": sum(channels), "parts": parts,
        "sum_programs": sum_programs, "bias_parts": bias_parts, "bias_programs": bias_programs,
        "norm_programs": norm_programs, "items": items, "in_channels": in_channels, "out_channels": out_channels,
        "splits": splits, "d_c": outer if transposed else inner, "d_o": inner if transposed else outer,
        **activation.sums_flags(sources), "HAS_BIAS": bias_sums is not None, "HAS_NORM": has_norm,
        "HAS_WEIGHT": partial is not None, "BLOCK_P": FINISH_BLOCK, "BLOCK": tiles.FINISH_ITEMS,
        "BLOCK_S": tiles.FINISH_SPLITS, **support.OPTIONS,
    }  # fmt: skip
    return prepare(finish_kernel.conv_finish_kernel, (programs,), numbers)
