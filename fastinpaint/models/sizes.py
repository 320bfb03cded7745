"""The memory that networks need at the very least, in closed form, for sizes that could never be built."""

from __future__ import annotations

import torch

from fastinpaint.memory import require
from fastinpaint.models.config import ModelConfig
from fastinpaint.models.table import COMBCN, THREEDCN, Row

FLOAT, HALF = 4, 2
TAPS_IN_TIME = 3
STATES = 4  # of a weight in training: itself, its gradient, Adam's two moments


def weights(config: ModelConfig, table: tuple[Row, ...]) -> int:
    """Weights of a network's convolutions without those of its skips."""
    in_time = TAPS_IN_TIME if table is THREEDCN else 1
    widths = [4, *(config.channels(row.channels) for row in table[:-1]), 3]
    return sum(widths[i] * widths[i + 1] * row.kernel**2 * in_time for i, row in enumerate(table))


def maps(config: ModelConfig, table: tuple[Row, ...], pixels: float) -> list[float]:
    """Values of each layer's map, for that many pixels of input over all frames."""
    found, scale = [], 1.0
    for row in table:
        scale = scale / row.stride if row.type == "deconv" else scale * row.stride
        channels = config.channels(row.channels) if row is not table[-1] else row.channels
        found.append(channels * pixels / scale**2)
    return found


def require_step(
    what: str,
    config: ModelConfig,
    shape: tuple[int, int, int],
    device: torch.device,
    images_only: bool = False,
    kept_bytes: float = HALF,
) -> None:
    """Refuse a training step that cannot fit: every layer keeps its map for backward.

    Args:
        what: the command, for the sentence.
        shape: (batch, frames, size).
        images_only: 2DCN alone.
        kept_bytes: the least that is kept of a value of a map: 2 where half precision may be all.

    Raises:
        UserError: the device has less memory than the least that the step takes.
    """
    batch, frames, size = shape
    pixels = batch * frames * size**2
    bytes_needed = FLOAT * STATES * weights(config, COMBCN) + kept_bytes * sum(maps(config, COMBCN, pixels))
    if not images_only:
        bytes_needed += FLOAT * STATES * weights(config, THREEDCN)
        bytes_needed += kept_bytes * sum(maps(config, THREEDCN, pixels / config.r**2))
    require(
        f"{what}: a step of {batch} videos of {frames} frames of {size}x{size} at width {config.width:g}",
        bytes_needed,
        device,
    )


def require_completion(
    what: str, config: ModelConfig, frames: int, height: int, width: int, device: torch.device
) -> None:
    """Refuse a completion that cannot fit: the network's largest map, at half precision, and its weights.

    Raises:
        UserError: the device has less memory than the least that it takes.
    """
    largest = max(maps(config, COMBCN, frames * height * width))
    needed = FLOAT * weights(config, COMBCN) + HALF * largest
    require(f"{what}: {frames} frames of {width}x{height} at once", needed, device)
