"""Filling holes with what other frames show, along motion, and with what a frame's own surroundings suggest."""

from fastinpaint.propagation.adapt import Adaptation
from fastinpaint.propagation.fill import Filled, propagate, propagate_stream

__all__ = ["Adaptation", "Filled", "propagate", "propagate_stream"]
