"""Which tile a pass of a shape runs with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastinpaint.ops.conv_block import triton_launch as launch


def choose(
    kind: str, tiles: tuple[launch.Tile, ...], work: launch.Work, key: tuple, result: Tensor, run: Callable[[launch.Tile], Any]
) -> launch.Tile:
    return launch.best(tiles, work)
