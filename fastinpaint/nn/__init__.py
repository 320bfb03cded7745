"""Layers and blocks that hand on deferred activations; drop-in for torch's. See `deferred` for what that means."""

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

__all__ = [
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
    "GuidanceAdd",
    "ReLU",
    "SyncBatchNorm",
    "ZeroPad2d",
    "ZeroPad3d",
    "plain",
]
