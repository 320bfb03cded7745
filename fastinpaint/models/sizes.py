"""Lower bounds of the networks' memory in closed form, for sizes too large to build."""

from __future__ import annotations

import torch

from fastinpaint.memory import require
from fastinpaint.models.config import ModelConfig
from fastinpaint.models.table import COMBCN, THREEDCN, Row

FLOAT, HALF = 4, 2
TAPS_IN_TIME = 3
STATES = 4  # per weight in training: the weight, its gradient, Adam's two moments


def weights(config: ModelConfig, table: tuple[Row, ...]) -> int:
    """Number of convolution weights, without the channels that skips add."""
    in_time = TAPS_IN_TIME if table is THREEDCN else 1
    widths = [4, *(config.channels(row.channels) for row in table[:-1]), 3]
    return sum(widths[i] * widths[i + 1] * row.kernel**2 * in_time for i, row in enumerate(table))


def maps(config: ModelConfig, table: tuple[Row, ...], pixels: float) -> list[float]:
    """Number of values in each layer's map, for an input of that many pixels over all frames."""
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
    """Reject a training step that cannot fit, counting that every layer keeps its map for backward.

    Args:
        what: the command, for the error message.
        shape: (batch, frames, size).
        images_only: 2DCN alone.
        kept_bytes: the fewest bytes kept per map value, 2 for half precision.

    Raises:
        UserError: the device has less memory than this lower bound.
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
    """Reject a completion that cannot fit the network's weights and its largest map at half precision.

    Raises:
        UserError: the device has less memory than this lower bound.
    """
    largest = max(maps(config, COMBCN, frames * height * width))
    needed = FLOAT * weights(config, COMBCN) + HALF * largest
    require(f"{what}: {frames} frames of {width}x{height} at once", needed, device)
