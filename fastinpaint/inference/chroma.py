"""The colours that a correction may bring in: no stronger ones than the known pixels of its frames have.

A network that was trained on coloured clips tints the holes of a grey one. Only its colour is limited: its light counts
as it is.
"""

from __future__ import annotations

import numpy as np

EVERY = 8
"""Every eighth row and column of a frame is looked at."""
RARE = 1.0
"""Per cent of the known pixels, at each end of an axis, whose colours are too rare to count."""

TO_AXES = np.array([[1, 1, 1], [1, -1, 0], [0.5, 0.5, -1]], np.float32) / np.array([[3], [1], [1]], np.float32)
FROM_AXES = np.linalg.inv(TO_AXES).astype(np.float32)
"""Between red, green, blue and light, red over green, yellow over blue."""

Span = np.ndarray
"""Least and most of both axes of colour, float32 ``[2, 2]``; colours are in [0, 1]."""


def span_of(window: list[tuple[np.ndarray, np.ndarray]]) -> Span:
    """The span of the known pixels of some frames; all colours where none is known.

    Args:
        window: frames uint8 ``[H, W, 3]``, and masks or doubts ``[H, W]``, above 0 in holes.
    """
    known = [frame[::EVERY, ::EVERY][doubt[::EVERY, ::EVERY] <= 0] for frame, doubt in window]
    pixels = np.concatenate(known)
    if not len(pixels):
        return np.array([[-1, -1], [1, 1]], np.float32)
    axes = (pixels.astype(np.float32) / 255) @ TO_AXES[1:].T
    return np.percentile(axes, (RARE, 100 - RARE), axis=0).astype(np.float32)


def limited(output: np.ndarray, filled: np.ndarray, span: Span) -> np.ndarray:
    """The output with its colour clipped to the span and the fill's own colour; its light stays.

        x' = M^-1 (l, clip(c, min(least, c_fill), max(most, c_fill))),   (l, c) = M x

    Args:
        output: of the network, float32 ``[..., 3]`` about [0, 1].
        filled: what it corrects, the same.
        span: of `span_of`.
    """
    own, given = output @ TO_AXES.T, filled @ TO_AXES[1:].T
    own[..., 1:] = own[..., 1:].clip(np.minimum(span[0], given), np.maximum(span[1], given))
    return own @ FROM_AXES.T
