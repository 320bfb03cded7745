"""The rotation and mirroring that a player applies to stored frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Orientation(NamedTuple):
    """Maps stored frames to shown frames: transpose, then mirror along x, y or both."""

    swapped: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @classmethod
    def of(cls, display_matrix: Sequence[int] | None) -> Orientation:
        """The nearest of the eight orientations to FFmpeg's display matrix (a, b, u, c, d, v, x, y, w).

        A stored point (x, y) is shown at (a x + c y, b x + d y).
        """
        if display_matrix is None:
            return cls()
        a, b, _, c, d = display_matrix[:5]
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def shown(self, picture: np.ndarray) -> np.ndarray:
        """A stored picture [H, W, ...] as a player shows it; a view."""
        turned = picture.swapaxes(0, 1) if self.swapped else picture
        return turned[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1]

    def stored(self, picture: np.ndarray) -> np.ndarray:
        """The inverse of `shown`."""
        turned = picture[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1]
        return turned.swapaxes(0, 1) if self.swapped else turned
