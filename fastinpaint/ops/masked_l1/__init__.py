"""`masked_l1`: the hole's mean absolute error, one pass forward and one backward. See `reference`."""

from __future__ import annotations

from torch import Tensor

from fastinpaint.ops.masked_l1 import checks
from fastinpaint.ops.masked_l1.autograd import MaskedL1

__all__ = ["masked_l1"]


def masked_l1(
    output: Tensor, target: Tensor, mask: Tensor, *, per_frame: bool = False, backend: str | None = None
) -> Tensor:
    """Eqs. 1 and 2 of Wang et al. 2019: the mean absolute error inside the hole.

        loss = 1/G * sum_g  sum_{i in g} mask_i * |output_i - target_i|  /  (C * sum_{i in g} mask_i)

    A group g is one sample (Eq. 1) or one frame (Eq. 2, ``per_frame=True``), G their number. A group with no hole
    makes the loss NaN. For backward only the three arguments are kept.

    Args:
        output: ``[N, C, T, H, W]``, float64, float32, bfloat16 or float16.
        target: as output.
        mask: ``[N, 1, T, H, W]``, 1 = hole; any real dtype or bool.
        per_frame: whether every frame counts alike, whatever the size of its hole.
        backend: a name of `fastinpaint.ops.dispatch.registry.BACKENDS`; None for ``FASTINPAINT_BACKEND`` or auto.

    Returns:
        The loss, a scalar, float32 (float64 for float64 output).

    Raises:
        ValueError, TypeError: names the argument, what is needed and what came.
        NotImplementedError: the backend was asked for by name and cannot run this.
    """
    checks.check(output, target, mask)
    return MaskedL1.apply(output, target, mask.to(output.dtype), per_frame, backend or "auto")
