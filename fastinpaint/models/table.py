"""Table 1 of Wang et al. 2019, one row per layer, with the skips and guidance places of Fig. 2."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One layer of Table 1. Kernel, stride and dilation are those of H and W. The table's "-" is a dilation of 1."""

    number: int
    type: str
    kernel: int
    stride: int
    channels: int
    dilation: int


THREEDCN = (
    Row(1, "conv", 5, 1, 16, 1),
    Row(2, "conv", 3, 2, 32, 1),
    Row(3, "conv", 3, 1, 64, 1),
    Row(4, "conv", 3, 2, 128, 1),
    Row(5, "conv", 3, 1, 256, 2),
    Row(6, "conv", 3, 1, 256, 4),
    Row(7, "conv", 3, 1, 256, 8),
    Row(8, "conv", 3, 1, 128, 1),
    Row(9, "deconv", 4, 2, 64, 1),
    Row(10, "conv", 3, 1, 32, 1),
    Row(11, "deconv", 4, 2, 16, 1),
    Row(12, "conv", 3, 1, 3, 1),
)

COMBCN = (
    Row(1, "conv", 5, 1, 64, 1),
    Row(2, "conv", 3, 2, 128, 1),
    Row(3, "conv", 3, 1, 128, 1),
    Row(4, "conv", 3, 2, 256, 1),
    Row(5, "conv", 3, 1, 256, 1),
    Row(6, "conv", 3, 1, 256, 1),
    Row(7, "conv", 3, 1, 256, 2),
    Row(8, "conv", 3, 1, 256, 4),
    Row(9, "conv", 3, 1, 256, 8),
    Row(10, "conv", 3, 1, 256, 16),
    Row(11, "conv", 3, 1, 256, 1),
    Row(12, "conv", 3, 1, 256, 1),
    Row(13, "deconv", 4, 2, 128, 1),
    Row(14, "conv", 3, 1, 128, 1),
    Row(15, "deconv", 4, 2, 64, 1),
    Row(16, "conv", 3, 1, 32, 1),
    Row(17, "conv", 3, 1, 3, 1),
)

# Skips (Fig. 2): {layer whose input the skip joins: layer whose output it carries}.
THREEDCN_SKIPS = {9: 4, 10: 3, 11: 2}
COMBCN_SKIPS = {10: 7, 11: 6, 12: 5, 13: 4, 14: 3, 15: 2, 16: 1}

# {r: (layer whose output is CombCN's first map of size H/r, layer whose input has the last such map)}.
# The paper marks 2 and 15 for r=2, and moves them to "the first and last feature maps" of the new size for r=4 (V-1).
GUIDANCE_PLACES = {1: (1, 17), 2: (2, 15), 4: (4, 13)}

# Both networks halve H and W twice, so they pad their inputs to a multiple of 4.
MULTIPLE = 4
