"""The package's own network, and the frames and size that weights were trained at."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from fastinpaint.inference.settings import Settings
from fastinpaint.models.weights import load_weights, weights_info

CORRECTION = Path(__file__).with_name("correction.safetensors")
"""The weights of the network that corrects the propagated fill where `fastinpaint inpaint` is given none."""


class Seen(NamedTuple):
    """`Settings` that a network was trained at."""

    frames: int = Settings.frames
    size: int = Settings.size


def seen_by(weights: Path) -> Seen:
    """The frames and size that weights were trained at, if their file says so."""
    trained = weights_info(weights).extra
    return Seen(**{name: trained[name] for name in Seen._fields if name in trained})


def correction() -> tuple[nn.Module, Seen]:
    """The network of `CORRECTION`, and the frames and size it was trained at."""
    return load_weights(CORRECTION), seen_by(CORRECTION)
