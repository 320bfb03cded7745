"""Which layers pay where nothing may be measured: a table with its reasons.

The figures are medians of training steps of public networks, float32, two AVX-512 cores, beside the better of stock
PyTorch's two layouts.
"""

from __future__ import annotations

from collections.abc import Callable
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


# The first that applies decides.
RULES = (
    Rule(
        lambda conv: conv.groups > 1,
        False,
        "grouped or depthwise: with all layers fused EfficientNet-B0 and YOLO11n ran at 0.80, MobileNetV2 at 1.15",
    ),
    Rule(
        lambda conv: max(conv.kernel_size) == 1,
        False,
        "1x1: with all layers fused ResNet-50 ran at 0.88 and DenseNet-121 at 0.79, as oneDNN's products are faster",
    ),
    Rule(lambda conv: conv.transposed, True, "transposed: own kernels, 2.0 times on the paper's network"),
    Rule(
        lambda conv: min(conv.kernel_size) == max(conv.kernel_size),
        True,
        "a cube of 3 or more taps a side: own kernels, ResNet-18 1.59, nnU-Net's plain 3D net 1.44 times",
    ),
    Rule(lambda conv: True, False, "flat kernels, such as (1, 3, 3): oneDNN's are as fast, R3D-18 and its like 1.00"),
)


def rule_of(conv: _ConvNd) -> Rule:
    """The rule that decides on a convolution."""
    return next(rule for rule in RULES if rule.applies(conv))
