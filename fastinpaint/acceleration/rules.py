"""Which layers to fuse without measuring: a table with its reasons.

The figures are medians of training steps of public networks, float32, two AVX-512 cores, beside the better of stock
PyTorch's two layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class Rule:
    """One kind of convolution.

    Attributes:
        applies: whether a convolution is of the kind.
        pays: whether fusing it, with what follows, was faster.
        because: the measurement.
    """

    applies: Callable[[_ConvNd], bool]
    pays: bool
    because: str


# The first rule that applies decides.
RULES = (
    Rule(
        lambda conv: conv.groups > 1,
        False,
        "grouped or depthwise: with all layers fused YOLO11n ran at 0.92, EfficientNet-B0 at 1.06; a measurement tells",
    ),
    Rule(
        lambda conv: max(conv.kernel_size) == 1,
        False,
        "1x1: with all layers fused DenseNet-121 ran at 0.97, ResNet-50 at 1.07; a measurement tells",
    ),
    Rule(lambda conv: conv.transposed, True, "transposed: own kernels, 2.0 times on the paper's network"),
    Rule(
        lambda conv: min(conv.kernel_size) == max(conv.kernel_size),
        True,
        "a cube of 3 or more taps a side: own kernels, ResNet-18 1.59, nnU-Net's plain 3D net 1.44 times",
    ),
    Rule(
        lambda conv: True,
        True,
        "a flat kernel, such as (1, 3, 3): own kernels, R(2+1)D-18 1.34, nnU-Net's anisotropic net 1.53 times",
    ),
)
# The least share of a network's convolution weights in kinds that pay. Below it, fused layers lie between stock ones,
# and the maps at their boundaries cost more than they gain: YOLO11n (0.56) ran at 0.88, DenseNet-121 (0.31) at 0.81,
# ResNet-50 (0.48) at 1.00. The networks that gain have 0.98 or more.
LEAST_SHARE = 0.9


def rule_of(conv: _ConvNd) -> Rule:
    """The rule that decides on a convolution."""
    return next(rule for rule in RULES if rule.applies(conv))


def share_that_pays(convs: Mapping[str, _ConvNd]) -> float:
    """The share of the convolutions' weights that are in kinds that pay."""
    sizes = {name: conv.out_channels * conv.in_channels // conv.groups * _taps(conv) for name, conv in convs.items()}
    total = sum(sizes.values())
    return sum(size for name, size in sizes.items() if rule_of(convs[name]).pays) / total if total else 0.0


def choices(convs: Mapping[str, _ConvNd]) -> dict[str, tuple[bool, str]]:
    """For every convolution of a network: whether to fuse it, and why."""
    share = share_that_pays(convs)
    if share >= LEAST_SHARE:
        return {name: (rule_of(conv).pays, rule_of(conv).because) for name, conv in convs.items()}
    few = f"{share:.0%} of the convolutions' weights are in kinds that pay, under {LEAST_SHARE:.0%}: too few"
    return {name: (False, few if rule_of(conv).pays else rule_of(conv).because) for name, conv in convs.items()}


def _taps(conv: _ConvNd) -> int:
    return math.prod(conv.kernel_size)
