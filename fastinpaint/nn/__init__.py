"""Layers and blocks that pass on deferred activations, in place of torch's. See `deferred` for what that means."""

from fastinpaint.nn import (
    functions,  # noqa: F401 - keeps torch's ReLU, addition and concatenation deferred
    operators,  # noqa: F401 - gives Deferred the operators of Python
    pooling,  # noqa: F401 - keeps the positions of max pooling, and not its map
    scaled,  # noqa: F401 - lets products with one factor a channel wait
)
from fastinpaint.nn.activations import (
    ELU,
    GELU,
    Dropout,
    Dropout2d,
    Dropout3d,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from fastinpaint.nn.blocks import ConvBNReLU2d, ConvBNReLU3d, ConvTransposeBNReLU2d, ConvTransposeBNReLU3d, GuidanceAdd
from fastinpaint.nn.deferred import Deferred, plain
from fastinpaint.nn.deferred_tensor import DeferredTensor
from fastinpaint.nn.layers import (
    BatchNorm2d,
    BatchNorm3d,
    ConstantPad2d,
    ConstantPad3d,
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    ConvTranspose3d,
    ReLU,
    SyncBatchNorm,
    ZeroPad2d,
    ZeroPad3d,
)
from fastinpaint.nn.linear import LayerNorm, Linear
from fastinpaint.nn.sample_norms import GroupNorm, InstanceNorm2d, InstanceNorm3d
from fastinpaint.nn.sequential import Sequential

__all__ = [
    "ELU",
    "GELU",
    "BatchNorm2d",
    "BatchNorm3d",
    "ConstantPad2d",
    "ConstantPad3d",
    "Conv2d",
    "Conv3d",
    "ConvBNReLU2d",
    "ConvBNReLU3d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvTransposeBNReLU2d",
    "ConvTransposeBNReLU3d",
    "Deferred",
    "DeferredTensor",
    "Dropout",
    "Dropout2d",
    "Dropout3d",
    "GroupNorm",
    "GuidanceAdd",
    "Hardsigmoid",
    "Hardswish",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "SyncBatchNorm",
    "Tanh",
    "ZeroPad2d",
    "ZeroPad3d",
    "plain",
]
