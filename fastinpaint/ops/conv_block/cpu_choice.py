"""Which convolutions on the CPU run on own kernels and which on oneDNN's: a rule with its reasons.

``FASTINPAINT_CPU_CONV=own|onednn`` overrides it (``own`` where the own kernels can compute the convolution at all).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor

from fastinpaint.ops.conv_block import cpu_winograd as winograd
from fastinpaint.ops.types import Geometry, Source

VARIABLE = "FASTINPAINT_CPU_CONV"

# The passes that own kernels win, by kind of convolution (figures in docs/cpu.md).
WINS = {
    # 2.25 times fewer multiplications at about the speed that oneDNN multiplies with.
    winograd.SAME: ("fwd", "dgrad", "wgrad"),
    winograd.UP: ("fwd", "dgrad", "wgrad"),
    # A 3x3 kernel padded to four 2x2 phases saves only 1.27 times, which the transforms eat.
    winograd.DOWN: (),
}


def own(which: str, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> bool:
    """Whether a pass ("fwd", "dgrad" or "wgrad") runs on own kernels."""
    asked = os.environ.get(VARIABLE)
    if asked == "onednn" or not winograd.fits(sources, weight, geometry):
        return False
    kind = winograd.kind_of(weight, geometry)
    return asked == "own" or (kind is not None and which in WINS[kind])
