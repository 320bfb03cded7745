"""Forward or dgrad of few tiles in two launches, so that all multiprocessors have work.

Several programs share the steps of a tile, and each stores its sums. A second launch of the same kernel adds these in
their order and does the rest, for fewer columns at a time. `tiles.splits` decides, by the launch model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops.conv_block.triton import tiles
from fastinpaint.ops.conv_block.triton.prepared import Prepared
from fastinpaint.ops.conv_block.triton.prepared import prepare as prepare_launch

WHOLE, SUMS, REST = range(3)  # STAGE of the kernels: gather.py
REST_COLUMNS = 32  # more programs to hide the reads of sums


def prepare(
    kernel: Any,
    tile: tiles.Tile,
    work: tiles.Work,
    describe: Callable[[tiles.Tile], tuple[int, dict[str, Any]]],
    shape: tuple[int, int],
    sizes: tuple[Any, ...],
    written: bool,
) -> Prepared:
    """The launch or launches of a kernel whose last tensor takes the shared sums.

    Args:
        describe: gives the number of programs of a tile, without splits, and the launch's numbers.
        shape: rows and columns of the sums.
    """
    share = tiles.splits(tile, work)
    programs, numbers = describe(tile)
    if share == 1:
        return prepare_launch(kernel, (programs,), {**numbers, "STAGE": WHOLE, "SPLITS": 1}, sizes, written)
    sums = prepare_launch(kernel, (programs * share,), {**numbers, "STAGE": SUMS, "SPLITS": share}).launch
    programs, numbers = describe(tile._replace(n=min(tile.n, REST_COLUMNS)))
    rest = prepare_launch(kernel, (programs,), {**numbers, "STAGE": REST, "SPLITS": share}).launch
    return Prepared(kernel, partial(_launch, sums, rest, (share, *shape)), sizes, written)


def _launch(sums: Callable[..., object], rest: Callable[..., object], shape: tuple[int, ...], *given: Any) -> None:
    """Both launches, with memory for the sums in place of the last tensor."""
    tensors = given[:-1]
    device = next(value.device for value in tensors if isinstance(value, Tensor))
    shared = torch.empty(shape, dtype=torch.float32, device=device)
    sums(*tensors, shared)
    rest(*tensors, shared)
