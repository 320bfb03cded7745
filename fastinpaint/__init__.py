"""Fused convolution + batch norm + ReLU for training, and the video completion system of Wang et al. (AAAI 2019)."""

from fastinpaint._version import __version__
from fastinpaint.accelerate import accelerate, restore
from fastinpaint.errors import UserError
from fastinpaint.graph import GraphedStep

__all__ = ["GraphedStep", "UserError", "__version__", "accelerate", "restore"]
