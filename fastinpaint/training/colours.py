"""Random changes of colour."""

from __future__ import annotations

import numpy as np

GAIN, OFFSET = (0.75, 1.25), (-25.0, 25.0)
"""Contrast about mid-grey, and brightness in grey levels."""
HUE, SATURATION = 0.35, (0.6, 1.4)
"""Largest turn of the hue in radians, and the factor on the colour's distance from grey."""
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""NTSC's brightness and two colour axes of an RGB colour."""


def colour_change(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A random affine change of colours, ``matrix @ rgb + offset``."""
    angle, stretch = rng.uniform(-HUE, HUE), rng.uniform(*SATURATION)
    gain, brighter = rng.uniform(*GAIN), rng.uniform(*OFFSET)
    turn = np.array(
        [
            [1, 0, 0],
            [0, stretch * np.cos(angle), -stretch * np.sin(angle)],
            [0, stretch * np.sin(angle), stretch * np.cos(angle)],
        ]
    )
    matrix = gain * np.linalg.inv(TO_YIQ) @ turn @ TO_YIQ
    return matrix.astype(np.float32), float(128 * (1 - gain) + brighter)


def changed(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 ``[..., 3]`` with `colour_change`."""
    matrix, offset = colour_change(rng)
    return np.rint((frame @ matrix.T + offset).clip(0, 255)).astype(np.uint8)
